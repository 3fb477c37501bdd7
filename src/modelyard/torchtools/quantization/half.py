"""Graphs with numbers of 16 bits: float16 to compute in, bfloat16 to store weights in."""

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir
from onnx import TensorProto, numpy_helper
from onnx_ir.passes.common import TopologicalSortPass
from onnxruntime.transformers import float16 as converter

from modelyard._core.errors import QuantizationError
from modelyard.torchtools.probing import does_crash
from modelyard.torchtools.silence import quiet

# Below this a weight saves less than the operator that widens it costs.
_FEWEST_ELEMENTS = 32
_FIRST_BFLOAT16_OPSET = 13
_LARGEST_FLOAT16 = 65504.0
# Fused with a MatMul in float16, a Transpose crashes ONNX Runtime 1.32 on CPUs.
_KEPT_IN_FLOAT32 = (*converter.DEFAULT_OP_BLOCK_LIST, "Transpose")


def float16(graph: bytes) -> bytes:
    """The graph computing in float16; inputs and outputs keep their types.

    Operators without a float16 form stay in float32 between casts.

    Args:
        graph: A serialised float32 model.

    Raises:
        QuantizationError: A weight is too large for float16 (65504), or the graph crashes ONNX
            Runtime, which is tried in another process.
    """
    model = onnx.load_from_string(graph)
    largest = max(
        (float(np.abs(array).max()) for array in _float_weights(model) if array.size), default=0.0
    )
    if not largest <= _LARGEST_FLOAT16:
        raise QuantizationError(
            f"A weight of {largest:.3g} is too large for float16: 65504 is its largest number. "
            'Use precision="bf16" or "fp32".'
        )
    with quiet():  # it tells of every tiny weight
        halved = converter.convert_float_to_float16(
            model, keep_io_types=True, op_block_list=[*_KEPT_IN_FLOAT32]
        )
    data = _sorted(halved)
    if does_crash(data):
        raise QuantizationError(
            "ONNX Runtime crashes on loading this graph in float16 on this machine. Use "
            'precision="bf16", which stores weights in 16 bits and computes in float32.'
        )
    return data


def bfloat16_weights(graph: bytes, *, keep: frozenset[str] = frozenset()) -> bytes:
    """The graph with its large weights stored in bfloat16 and widened to float32 where used.

    Half the size; computed in float32, since ONNX Runtime has no bfloat16 kernels on CPUs.

    Args:
        graph: A serialised float32 model of opset 13 or newer.
        keep: Names of nodes whose weights stay as they are.

    Raises:
        QuantizationError: The opset is older: its Cast knows no bfloat16.
    """
    model = onnx.load_from_string(graph)
    opset = max(entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"})
    if opset < _FIRST_BFLOAT16_OPSET:
        raise QuantizationError(
            f"bfloat16 needs opset {_FIRST_BFLOAT16_OPSET} or newer, got {opset}."
        )
    casts = []
    kept = {name for node in model.graph.node if node.name in keep for name in node.input}
    for value in model.graph.initializer:
        array = numpy_helper.to_array(value)
        if (
            value.data_type != TensorProto.FLOAT
            or array.size < _FEWEST_ELEMENTS
            or value.name in kept
        ):
            continue
        name, stored = value.name, f"{value.name}_bf16"
        narrow = array.astype(ml_dtypes.bfloat16)
        value.CopyFrom(
            onnx.helper.make_tensor(
                stored, TensorProto.BFLOAT16, array.shape, narrow.tobytes(), raw=True
            )
        )
        casts.append(
            onnx.helper.make_node(
                "Cast", [stored], [name], name=f"widen_{name}", to=TensorProto.FLOAT
            )
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    data: bytes = model.SerializeToString()
    return data


def _float_weights(model: onnx.ModelProto) -> list[Any]:
    return [
        numpy_helper.to_array(value)
        for value in model.graph.initializer
        if value.data_type == TensorProto.FLOAT
    ]


def _sorted(model: onnx.ModelProto) -> bytes:
    """The graph with every node after those it needs, as the standard asks."""
    ordered = onnx_ir.from_proto(model)
    TopologicalSortPass()(ordered)
    data: bytes = onnx_ir.to_proto(ordered).SerializeToString()
    return data
