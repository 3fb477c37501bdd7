"""Reshapes that take their sizes from what they reshape, without computing them at each call.

Exporters write `x.unflatten(-1, (heads, width))` as six operators that take x's shape apart and
put a new one together. Where only sizes that x has already are carried over, in place, Reshape can
be told so by zeros. Under int8 a small attention layer would spend much of its time on shapes.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir
from onnx import numpy_helper
from onnx_ir.passes.common import LiftConstantsToInitializersPass
from onnxscript.optimizer import fold_constants

from modelyard.torchtools.silence import quiet


def with_plain_reshapes(graph: bytes) -> bytes:
    """The graph with such reshapes told by zeros, and without what nothing uses any more.

    Args:
        graph: A serialised model.
    """
    model = _with_constants_folded(onnx.load_from_string(graph))
    parts = _Parts.of(model)
    has_changed = False
    for node in model.graph.node:
        if node.op_type != "Reshape" or any(a.name == "allowzero" and a.i for a in node.attribute):
            continue
        sizes = _sizes(node.input[0], node.input[1], parts)
        if sizes is not None:
            name = f"{node.output[0]}_sizes"
            model.graph.initializer.append(
                numpy_helper.from_array(np.array(sizes, dtype=np.int64), name)
            )
            node.input[1] = name
            has_changed = True
    if not has_changed:
        return graph
    _drop_unused(model)
    data: bytes = model.SerializeToString()
    return data


@dataclass(frozen=True)
class _Parts:
    """What is known of a graph.

    Attributes:
        makers: By value, the node that makes it.
        constants: Initializers by name.
        ranks: By value, its number of dimensions, where that is known.
    """

    makers: Mapping[str, onnx.NodeProto]
    constants: Mapping[str, onnx.TensorProto]
    ranks: Mapping[str, int]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> "_Parts":
        values = [*model.graph.value_info, *model.graph.input, *model.graph.output]
        return cls(
            makers={name: node for node in model.graph.node for name in node.output},
            constants={value.name: value for value in model.graph.initializer},
            ranks={
                value.name: len(value.type.tensor_type.shape.dim)
                for value in values
                if value.type.tensor_type.HasField("shape")
            },
        )


def _with_constants_folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Positions in shapes as initializers; without slices that are known to be empty."""
    folded = onnx_ir.from_proto(model)
    with quiet():
        fold_constants(folded)
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(folded)
    # Only now are the positions known from which the shapes follow.
    return onnx.shape_inference.infer_shapes(onnx_ir.to_proto(folded), data_prop=True)


def _sizes(data: str, shape: str, parts: _Parts) -> list[int] | None:
    """The sizes as Reshape takes them, 0 for one that is kept; None where that cannot be said."""
    joined = parts.makers.get(shape)
    if joined is None or joined.op_type != "Concat":
        return None
    sizes: list[int] = []
    for name in joined.input:
        if name in parts.constants:
            values = numpy_helper.to_array(parts.constants[name]).reshape(-1).tolist()
            if 0 in values:
                return None
            sizes += values
            continue
        kept = _kept_axes(data, parts.makers.get(name), parts)
        if kept is None or kept != list(range(len(sizes), len(sizes) + len(kept))):
            return None
        sizes += [0] * len(kept)
    return sizes if sizes.count(-1) <= 1 else None


def _kept_axes(data: str, node: onnx.NodeProto | None, parts: _Parts) -> list[int] | None:
    """Which axes of `data` a Slice of its own shape gives; None for anything else."""
    if node is None or node.op_type != "Slice":
        return None
    shape = parts.makers.get(node.input[0])
    if shape is None or shape.op_type != "Shape" or shape.attribute or shape.input[0] != data:
        return None
    if not set(node.input[1:]) <= parts.constants.keys():
        return None
    bounds = [
        int(numpy_helper.to_array(parts.constants[name]).reshape(-1)[0]) for name in node.input[1:]
    ]
    start, end, axis, step = [*bounds, *(0, 1)[len(bounds) - 2 :]]
    rank = parts.ranks.get(data)
    if axis != 0 or step != 1 or start < 0 or rank is None:
        return None
    return list(range(rank))[start:end]


def _drop_unused(model: onnx.ModelProto) -> None:
    """Take out nodes and initializers that nothing needs, in place."""
    needed = {output.name for output in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        inner = [a for a in node.attribute if a.type in {a.GRAPH, a.GRAPHS}]
        if inner or any(name in needed for name in node.output):
            kept.append(node)
            needed |= {*node.input, *_names_inside(inner)}
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    weights = [value for value in model.graph.initializer if value.name in needed]
    del model.graph.initializer[:]
    model.graph.initializer.extend(weights)


def _names_inside(attributes: list[onnx.AttributeProto]) -> set[str]:
    """Every name that graphs inside a node use."""
    found: set[str] = set()
    for attribute in attributes:
        for graph in [attribute.g, *attribute.graphs]:
            found |= {output.name for output in graph.output}
            for node in graph.node:
                found |= set(node.input)
                found |= _names_inside(
                    [a for a in node.attribute if a.type in {a.GRAPH, a.GRAPHS}]
                )
    return found
