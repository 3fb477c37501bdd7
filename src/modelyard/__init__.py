"""modelyard takes a trained PyTorch model to production and keeps it healthy there.

The names below load on first use, so that `import modelyard` is quick and needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelyard._core.clock import ManualClock, SystemClock
    from modelyard._core.errors import ModelyardError
    from modelyard.ab_testing import ABTest, Metric, ModelVariant, MultiArmedBandit
    from modelyard.compression import ModelCompressor
    from modelyard.deployment import Deployment
    from modelyard.export import ModelExporter
    from modelyard.inference_optimizer import InferenceOptimizer
    from modelyard.monitor import ModelMonitor
    from modelyard.update_strategy import UpdateStrategy, UpdateTrigger
    from modelyard.version_manager import ModelVersionManager, register_class

__version__ = "0.1.0"

_HOMES = {
    "ABTest": "modelyard.ab_testing",
    "Deployment": "modelyard.deployment",
    "InferenceOptimizer": "modelyard.inference_optimizer",
    "ManualClock": "modelyard._core.clock",
    "Metric": "modelyard.ab_testing",
    "ModelCompressor": "modelyard.compression",
    "ModelExporter": "modelyard.export",
    "ModelMonitor": "modelyard.monitor",
    "ModelVariant": "modelyard.ab_testing",
    "ModelVersionManager": "modelyard.version_manager",
    "ModelyardError": "modelyard._core.errors",
    "MultiArmedBandit": "modelyard.ab_testing",
    "SystemClock": "modelyard._core.clock",
    "UpdateStrategy": "modelyard.update_strategy",
    "UpdateTrigger": "modelyard.update_strategy",
    "register_class": "modelyard.version_manager",
}

__all__ = [
    "ABTest",
    "Deployment",
    "InferenceOptimizer",
    "ManualClock",
    "Metric",
    "ModelCompressor",
    "ModelExporter",
    "ModelMonitor",
    "ModelVariant",
    "ModelVersionManager",
    "ModelyardError",
    "MultiArmedBandit",
    "SystemClock",
    "UpdateStrategy",
    "UpdateTrigger",
    "__version__",
    "register_class",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'modelyard' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
