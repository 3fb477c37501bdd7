"""Ways to run a module. One file a family; each gives a `Backend`."""

from modelyard.inference_optimizer.backends.base import Backend, Maker
from modelyard.inference_optimizer.backends.eager import make_autocast, make_bfloat16, make_eager
from modelyard.inference_optimizer.backends.onnx import make_onnxruntime
from modelyard.inference_optimizer.backends.torchscript import make_torchscript

__all__ = [
    "Backend",
    "Maker",
    "make_autocast",
    "make_bfloat16",
    "make_eager",
    "make_onnxruntime",
    "make_torchscript",
]
