"""Recipes: from a float graph to one with fewer bits, some nodes left as they are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import onnx
import onnxruntime.quantization as ort_quantization
import torch
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from modelyard._core.errors import ConfigError
from modelyard.torchtools.quantization.calibration import Calibration
from modelyard.torchtools.quantization.files import through_files, without_notes
from modelyard.torchtools.quantization.half import bfloat16_weights
from modelyard.torchtools.quantization.layers import WEIGHTED, Source
from modelyard.torchtools.quantization.weights import with_block_weights, with_int8_weights
from modelyard.torchtools.silence import quiet

_DYNAMIC_OPERATORS = ("MatMul", "Gemm", "LSTM", "EmbedLayerNormalization")
STATIC_OPERATORS = ("MatMul", "Gemm", "Conv")
# Computed in float whichever recipe; their weights alone can be small. Embeddings too: ONNX
# Runtime has one scale for a whole table, of which one large row takes all the steps.
_STORED_BY_DYNAMIC = ("GRU", "RNN", "Gather")
_STORED_BY_STATIC = ("LSTM", "GRU", "RNN", "ConvTranspose", "Gather")
_WEIGHT_TYPES: Mapping[Any, Any] = {
    torch.qint8: ort_quantization.QuantType.QInt8,
    torch.int8: ort_quantization.QuantType.QInt8,
    torch.quint8: ort_quantization.QuantType.QUInt8,
    torch.uint8: ort_quantization.QuantType.QUInt8,
}


class Recipe(Protocol):
    """A way to quantize.

    Attributes:
        name: As results tell it: "dynamic_int8", ...
        operators: Operator types it acts on.
    """

    @property
    def name(self) -> str:
        """As results tell it: "dynamic_int8", ..."""

    @property
    def operators(self) -> tuple[str, ...]:
        """Operator types it acts on."""

    def __call__(self, source: Source, keep_float: frozenset[str]) -> bytes:
        """The quantized graph; nodes named in `keep_float` stay as they are."""


def weight_type(dtype: Any) -> Any:
    """ONNX Runtime's name for a weight dtype.

    Raises:
        ConfigError: Neither `torch.qint8` nor `torch.quint8`.
    """
    if dtype not in _WEIGHT_TYPES:
        raise ConfigError(f"dtype must be torch.qint8 or torch.quint8, got {dtype}.")
    return _WEIGHT_TYPES[dtype]


@dataclass(frozen=True)
class DynamicInt8:
    """Weights in 8 bits, activations quantized as they come. For Linear, attention and LSTM.

    GRU, plain recurrent layers and embeddings are computed in float; their weights are stored in
    8 bits.

    Attributes:
        dtype: `torch.qint8` or `torch.quint8`, of the weights.
    """

    dtype: Any = torch.qint8
    name: str = "dynamic_int8"
    operators: tuple[str, ...] = (*_DYNAMIC_OPERATORS, *_STORED_BY_DYNAMIC)

    def __post_init__(self) -> None:
        weight_type(self.dtype)

    def __call__(self, source: Source, keep_float: frozenset[str]) -> bytes:
        """See `Recipe`."""

        def write(prepared: Path, target: Path) -> None:
            ort_quantization.quantize_dynamic(
                prepared,
                target,
                op_types_to_quantize=list(_DYNAMIC_OPERATORS),
                per_channel=True,
                weight_type=weight_type(self.dtype),
                nodes_to_exclude=source.names_now(keep_float),
            )

        quantized = through_files(source.prepared, write)
        stored = with_int8_weights(
            quantized,
            keep=frozenset(source.names_now(keep_float)),
            operators=_STORED_BY_DYNAMIC,
        )
        return without_notes(stored)


@dataclass(frozen=True)
class StaticInt8:
    """Weights and activations in 8 bits, ranges taken from calibration data. For any model.

    Recurrent layers, transposed convolutions and embeddings are computed in float; their weights
    are stored in 8 bits.

    Attributes:
        calibration: Where the ranges come from.
        dtype: `torch.qint8` or `torch.quint8`, of the weights. Activations are unsigned: signed
            ones cost a convolution two thirds of its speed.
    """

    calibration: Calibration
    dtype: Any = torch.qint8
    operators: tuple[str, ...] = (*STATIC_OPERATORS, *_STORED_BY_STATIC)

    def __post_init__(self) -> None:
        weight_type(self.dtype)

    @property
    def name(self) -> str:
        """With the method of calibration behind it where that is not "minmax"."""
        method = self.calibration.method
        return "static_int8" if method == "minmax" else f"static_int8_{method}"

    def __call__(self, source: Source, keep_float: frozenset[str]) -> bytes:
        """See `Recipe`."""
        with quiet():
            quantizer = QDQQuantizer(
                onnx.load_from_string(source.prepared),
                per_channel=True,
                reduce_range=False,
                weight_qType=weight_type(self.dtype),
                activation_qType=ort_quantization.QuantType.QUInt8,
                tensors_range=self.calibration.ranges(source.prepared, STATIC_OPERATORS),
                nodes_to_quantize=[],
                nodes_to_exclude=source.names_now(keep_float),
                op_types_to_quantize=list(STATIC_OPERATORS),
                extra_options={},
            )
            quantizer.quantize_model()
        stored = with_int8_weights(
            quantizer.model.model.SerializeToString(),
            keep=frozenset(source.names_now(keep_float)),
            operators=_STORED_BY_STATIC,
        )
        return without_notes(stored)


@dataclass(frozen=True)
class WeightRecipe:
    """Weights in fewer bits; what flows between the layers stays as it is.

    Attributes:
        name: As results tell it.
        operators: Operator types it acts on.
        rewrite: `(graph, keep) -> graph`, `keep` naming the nodes that stay as they are.
    """

    name: str
    operators: tuple[str, ...]
    rewrite: Callable[[bytes, frozenset[str]], bytes]

    def __call__(self, source: Source, keep_float: frozenset[str]) -> bytes:
        """See `Recipe`."""
        return without_notes(
            self.rewrite(source.prepared, frozenset(source.names_now(keep_float)))
        )


def _int8_weights(graph: bytes, keep: frozenset[str]) -> bytes:
    return with_int8_weights(graph, keep=keep)


def _block_int8(graph: bytes, keep: frozenset[str]) -> bytes:
    return with_int8_weights(with_block_weights(graph, keep=keep, n_bits=8), keep=keep)


def _block_int4(graph: bytes, keep: frozenset[str]) -> bytes:
    return with_int8_weights(with_block_weights(graph, keep=keep, n_bits=4), keep=keep)


def _bfloat16(graph: bytes, keep: frozenset[str]) -> bytes:
    return bfloat16_weights(graph, keep=keep)


# A quarter of the size at the speed of float32: for what breaks under int8 arithmetic.
WEIGHT_ONLY_INT8 = WeightRecipe("weight_only_int8", WEIGHTED, _int8_weights)
# Linear layers with a scale for 128 weights, products in int8; the others as weight_only_int8.
# ONNX Runtime alone can run it.
BLOCK_INT8 = WeightRecipe("block_int8", WEIGHTED, _block_int8)
BLOCK_INT4 = WeightRecipe("block_int4", WEIGHTED, _block_int4)
# Half the size at the speed of float32.
BFLOAT16_WEIGHTS = WeightRecipe("bf16_weights", WEIGHTED, _bfloat16)
