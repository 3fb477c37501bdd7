"""Formats to export to, one module each. A next one is a class beside these and a line here."""

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


__all__ = [
    "PRECISIONS",
    "TARGETS",
    "Job",
    "Target",
    "Written",
    "check_precision",
]
