"""Versions of trained models: saved whole, verified when loaded, never lost.

Example:
    >>> import tempfile, torch
    >>> from modelyard.version_manager import ModelVersionManager
    >>> manager = ModelVersionManager(base_dir=tempfile.mkdtemp())
    >>> version_id = manager.save_model(torch.nn.Linear(4, 2), "linear", metrics={"sharpe": 1.8})
    >>> manager.get_best_version("linear", "sharpe")["version_id"] == version_id
    True
"""

from modelyard.version_manager.manager import ModelVersionManager
from modelyard.version_manager.module_format import load_module_file
from modelyard.version_manager.records import (
    AuditRecord,
    Comparison,
    MetricComparison,
    Statistics,
    Version,
)
from modelyard.version_manager.trust import register_class

__all__ = [
    "AuditRecord",
    "Comparison",
    "MetricComparison",
    "ModelVersionManager",
    "Statistics",
    "Version",
    "load_module_file",
    "register_class",
]
