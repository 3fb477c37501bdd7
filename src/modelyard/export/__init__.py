"""Files for other runtimes that give the model's answers, or a clear error and no file.

Example:
    >>> import tempfile, torch
    >>> from modelyard.export import ModelExporter
    >>> exporter = ModelExporter(output_dir=tempfile.mkdtemp())
    >>> path = exporter.export_to_onnx(torch.nn.Linear(8, 2), "linear", input_shape=(1, 8))
    >>> exporter.get_model_info(path)["opset_version"]
    14
"""

from modelyard.export.exporter import ModelExporter
from modelyard.export.presets import PRESETS
from modelyard.export.records import Exported, ModelInfo, OnnxBenchmark, OutputComparison
from modelyard.export.targets import TARGETS

__all__ = [
    "PRESETS",
    "TARGETS",
    "Exported",
    "ModelExporter",
    "ModelInfo",
    "OnnxBenchmark",
    "OutputComparison",
]
