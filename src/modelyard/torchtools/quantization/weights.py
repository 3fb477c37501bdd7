"""Weights stored in fewer bits than they are computed with."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.onnx_model import ONNXModel

from modelyard.torchtools.silence import logging_untouched, quiet

# Below this a weight saves less than the operators that widen it cost.
_FEWEST_ELEMENTS = 256
_BLOCKS = (128, 32)
# Products in int8, activations quantized block by block.
_INT8_PRODUCTS = 4

# By operator: which inputs are weights, and which axes one scale covers.
_WEIGHTS: dict[str, tuple[tuple[int, ...], str]] = {
    "MatMul": ((1,), "columns"),
    "Gemm": ((1,), "gemm"),
    "Conv": ((1,), "rows"),
    "ConvTranspose": ((1,), "second"),
    "LSTM": ((1, 2), "last"),
    "GRU": ((1, 2), "last"),
    "RNN": ((1, 2), "last"),
    "Gather": ((0,), "last"),
}


def with_int8_weights(
    graph: bytes,
    *,
    keep: frozenset[str] = frozenset(),
    only: frozenset[str] | None = None,
    operators: Sequence[str] = tuple(_WEIGHTS),
) -> bytes:
    """Weights as int8 with a scale a channel, widened when the graph is loaded.

    They are widened by a Cast and a Mul, not by DequantizeLinear: every runtime folds the former
    once, at loading; ONNX Runtime computes the latter anew at each call.

    Args:
        graph: A serialised float32 model.
        keep: Names of nodes whose weights stay as they are.
        only: Names of the nodes whose weights do not; None for all the others.
        operators: Types of the nodes whose weights are stored so.
    """
    model = onnx.load_from_string(graph)
    nodes = {node.name for node in model.graph.node if node.op_type in operators}
    taken = (nodes if only is None else nodes & only) - keep
    axes = _axes_of_weights(model, taken)
    widening: list[onnx.NodeProto] = []
    for value in list(model.graph.initializer):
        if value.name in axes and value.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(value)
            if array.size >= _FEWEST_ELEMENTS and bool(np.isfinite(array).all()):
                widening += _narrowed_(model, value, array, axes[value.name])
    ordered = [*widening, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(ordered)
    data: bytes = model.SerializeToString()
    return data


def with_block_weights(graph: bytes, *, keep: frozenset[str], n_bits: int) -> bytes:
    """Weights of Linear layers in `n_bits` with a scale for each block of 128, products in int8.

    Layers narrower than 128 have blocks of 32; those under 32 stay as they are.

    Uses an operator of ONNX Runtime's own (`MatMulNBits`); other runtimes do not know it.

    Args:
        graph: A serialised float32 model.
        keep: Names of nodes that stay as they are.
        n_bits: 4 or 8.
    """
    kept = {*keep, *(f"{name}_MatMul" for name in keep)}
    with logging_untouched():  # importing it sets up logging
        from onnxruntime.quantization import (  # noqa: PLC0415
            matmul_nbits_quantizer as n_bits_quantizer,
        )
    wrapped = ONNXModel(onnx.load_from_string(graph))
    with quiet():
        wrapped.replace_gemm_with_matmul()
        model = wrapped.model
        for block in _BLOCKS:  # a matrix with fewer rows than a block would be padded to one
            depths = _depths(model)
            unfit = [name for name, depth in depths.items() if depth < block]
            settings = n_bits_quantizer.DefaultWeightOnlyQuantConfig(
                block_size=block, is_symmetric=True, accuracy_level=_INT8_PRODUCTS, bits=n_bits
            )
            quantizer = n_bits_quantizer.MatMulNBitsQuantizer(
                model, nodes_to_exclude=[*kept, *unfit], algo_config=settings
            )
            quantizer.process()
            model = quantizer.model.model
    data: bytes = model.SerializeToString()
    return data


def _depths(model: onnx.ModelProto) -> dict[str, int]:
    """By MatMul with a weight: over how many products each of its sums goes."""
    rows = {value.name: value.dims[-2] for value in model.graph.initializer if len(value.dims) > 1}
    return {
        node.name: rows[node.input[1]]
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in rows
    }


def _axes_of_weights(model: onnx.ModelProto, taken: Collection[str]) -> dict[str, tuple[int, ...]]:
    """By initializer: the axes that share a scale. Left out is what anything else uses too."""
    rank = {value.name: len(value.dims) for value in model.graph.initializer}
    found: dict[str, tuple[int, ...]] = {}
    unfit: set[str] = {output.name for output in model.graph.output}
    for node in model.graph.node:
        positions, rule = _WEIGHTS.get(node.op_type, ((), ""))
        is_taken = node.name in taken
        for position, name in enumerate(node.input):
            if name not in rank:
                continue
            if not is_taken or position not in positions or rank[name] < 2:  # noqa: PLR2004 - a vector has no channels
                unfit.add(name)
                continue
            axes = _shared_axes(rule, rank[name], node)
            if found.setdefault(name, axes) != axes:
                unfit.add(name)
    return {name: axes for name, axes in found.items() if name not in unfit}


def _shared_axes(rule: str, rank: int, node: onnx.NodeProto) -> tuple[int, ...]:
    if rule == "gemm":
        is_transposed = any(a.name == "transB" and a.i for a in node.attribute)
        return (1,) if is_transposed else (0,)
    if rule == "columns":
        return (rank - 2,)
    if rule == "last":
        return (rank - 1,)
    own = 1 if rule == "second" else 0
    return tuple(axis for axis in range(rank) if axis != own)


def _narrowed_(
    model: onnx.ModelProto, value: onnx.TensorProto, array: Any, axes: tuple[int, ...]
) -> list[onnx.NodeProto]:
    """Replace an initializer by int8 and scales, in place; the nodes that widen it."""
    name = value.name
    scales = np.abs(array).max(axis=axes, keepdims=True) / 127.0
    scales[scales == 0] = 1.0  # a channel of zeros
    steps = np.clip(np.rint(array / scales), -127, 127).astype(np.int8)
    value.CopyFrom(numpy_helper.from_array(steps, f"{name}_int8"))
    model.graph.initializer.append(
        numpy_helper.from_array(scales.astype(np.float32), f"{name}_scale")
    )
    return [
        helper.make_node(
            "Cast", [f"{name}_int8"], [f"{name}_wide"], name=f"widen_{name}", to=TensorProto.FLOAT
        ),
        helper.make_node("Mul", [f"{name}_wide", f"{name}_scale"], [name], name=f"scale_{name}"),
    ]
