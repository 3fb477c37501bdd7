"""Versions of trained models: saved whole, verified when loaded, never lost.

Example:
    >>> import tempfile, torch
    >>> from modelyard.version_manager import ModelVersionManager
    >>> manager = ModelVersionManager(base_dir=tempfile.mkdtemp())
    >>> version_id = manager.save_model(torch.nn.Linear(4, 2), "linear", metrics={"sharpe": 1.8})
    >>> manager.get_best_version("linear", "sharpe")["version_id"] == version_id
    True
"""

from modelyard.version_manager.lineage import as_tree as lineage_tree
from modelyard.version_manager.manager import ModelVersionManager
from modelyard.version_manager.module_format import load_module_file
from modelyard.version_manager.rebuild import rebuild_registry
from modelyard.version_manager.records import (
    AuditRecord,
    Comparison,
    GcReport,
    Lineage,
    MetricComparison,
    Problem,
    RebuildReport,
    Statistics,
    VerifyReport,
    Version,
)
from modelyard.version_manager.trust import register_class

__all__ = [
    "AuditRecord",
    "Comparison",
    "GcReport",
    "Lineage",
    "MetricComparison",
    "ModelVersionManager",
    "Problem",
    "RebuildReport",
    "Statistics",
    "VerifyReport",
    "Version",
    "lineage_tree",
    "load_module_file",
    "rebuild_registry",
    "register_class",
]
