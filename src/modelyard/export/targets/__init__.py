"""Formats to export to, one module each. A next one is a class beside these and a line here."""

from modelyard._core.errors import ConfigError
from modelyard.export.targets.base import PRECISIONS, Job, Target, Written, check_precision
from modelyard.export.targets.onnx import OnnxTarget
from modelyard.export.targets.openvino import OpenVinoTarget
from modelyard.export.targets.torch_export import TorchExportTarget
from modelyard.export.targets.torchscript import TorchScriptTarget

TARGETS: dict[str, Target] = {
    "onnx": OnnxTarget(),
    "torch_export": TorchExportTarget(),
    "torchscript": TorchScriptTarget(),
    "openvino": OpenVinoTarget(),
}


def target_named(name: str) -> Target:
    """The target of that name.

    Raises:
        ConfigError: There is none; names those there are.
    """
    if name not in TARGETS:
        raise ConfigError(f"target must be one of {', '.join(TARGETS)}, got {name!r}.")
    return TARGETS[name]


__all__ = [
    "PRECISIONS",
    "TARGETS",
    "Job",
    "Target",
    "Written",
    "check_precision",
    "target_named",
]
