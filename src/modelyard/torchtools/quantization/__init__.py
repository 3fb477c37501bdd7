"""Quantization recipes on ONNX graphs, each accepted only with its measured error.

A recipe turns a float graph into one with fewer bits, leaving named nodes in float.
`quantized_within` runs one, measures the error against the float model, and, where it is over the
limit, puts the layers that cause it back to float until it holds, or refuses. `first_within` goes
through several.
"""

from modelyard.torchtools.quantization.calibration import METHODS, Calibration, check_method
from modelyard.torchtools.quantization.error import (
    Reference,
    error_between,
    error_of,
    relative_error,
)
from modelyard.torchtools.quantization.half import bfloat16_weights, float16
from modelyard.torchtools.quantization.layers import Source, has_convolution
from modelyard.torchtools.quantization.limits import (
    DEFAULT_MAX_ERROR,
    Attempt,
    LayerDecision,
    OverLimitError,
    Quantized,
    first_within,
    layer_errors,
    quantized_within,
)
from modelyard.torchtools.quantization.recipes import (
    BFLOAT16_WEIGHTS,
    BLOCK_INT4,
    BLOCK_INT8,
    WEIGHT_ONLY_INT8,
    DynamicInt8,
    Recipe,
    StaticInt8,
    weight_type,
)

__all__ = [
    "BFLOAT16_WEIGHTS",
    "BLOCK_INT4",
    "BLOCK_INT8",
    "DEFAULT_MAX_ERROR",
    "METHODS",
    "WEIGHT_ONLY_INT8",
    "Attempt",
    "Calibration",
    "DynamicInt8",
    "LayerDecision",
    "OverLimitError",
    "Quantized",
    "Recipe",
    "Reference",
    "Source",
    "StaticInt8",
    "bfloat16_weights",
    "check_method",
    "error_between",
    "error_of",
    "first_within",
    "float16",
    "has_convolution",
    "layer_errors",
    "quantized_within",
    "relative_error",
    "weight_type",
]
