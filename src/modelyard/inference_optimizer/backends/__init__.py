"""Ways to run a module. One file a family; each gives a `Backend`."""

from modelyard.inference_optimizer.backends.base import (
    Array,
    Backend,
    Maker,
    Settings,
    label_of,
)
from modelyard.inference_optimizer.backends.compiled import make_compiled
from modelyard.inference_optimizer.backends.cuda_graph import make_cuda_graph
from modelyard.inference_optimizer.backends.eager import make_autocast, make_bfloat16, make_eager
from modelyard.inference_optimizer.backends.graphs import Written, written
from modelyard.inference_optimizer.backends.onnx import (
    make_onnxruntime,
    onnxruntime_backend,
    onnxruntime_cuda_backend,
)
from modelyard.inference_optimizer.backends.openvino import openvino_backend
from modelyard.inference_optimizer.backends.torchscript import make_torchscript
from modelyard.inference_optimizer.backends.usual_only import LARGEST, is_usual, usual_only

__all__ = [
    "LARGEST",
    "Array",
    "Backend",
    "Maker",
    "Settings",
    "Written",
    "is_usual",
    "label_of",
    "make_autocast",
    "make_bfloat16",
    "make_compiled",
    "make_cuda_graph",
    "make_eager",
    "make_onnxruntime",
    "make_torchscript",
    "onnxruntime_backend",
    "onnxruntime_cuda_backend",
    "openvino_backend",
    "usual_only",
    "written",
]
