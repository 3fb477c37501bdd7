"""Graphs as written files: their names, their sizes, and nothing of the machine that made them."""

import ast
from collections.abc import Sequence

import onnx
import onnx_ir
from onnx_ir.passes.common import NameFixPass

from modelyard.torchtools.conversion.interface import Axes

# What the module being converted is called inside the wrapper that the exporters are given.
WRAPPER = "wrapped"
_SCOPES = "pkg.torch.onnx.name_scopes"
_HOOK_SCOPE = "_empty_nn_module_stack_from_metadata_hook"


def opset_of(graph: onnx.ModelProto) -> int:
    """Version of the standard operator set that the graph declares."""
    return max(
        (entry.version for entry in graph.opset_import if entry.domain in {"", "ai.onnx"}),
        default=0,
    )


def opset_of_bytes(graph: bytes) -> int:
    """`opset_of` of a serialised graph."""
    return opset_of(onnx.load_from_string(graph))


def finished(
    graph: onnx.ModelProto, *, inputs: Sequence[str], outputs: Sequence[str], axes: Axes
) -> onnx.ModelProto:
    """The graph under its names, sizes named, and without traces of this machine.

    Args:
        graph: As an exporter wrote it.
        inputs: Names of its inputs, in order.
        outputs: Names of its outputs, in order.
        axes: Names of the sizes that may vary, by input or output and axis.
    """
    model = onnx_ir.from_proto(graph)
    for index, node in enumerate(model.graph.all_nodes()):
        node.name = _node_name(node, index)
    _clean(model)
    _rename_inside(model)
    _rename_ends(model, inputs, outputs)
    NameFixPass()(model)
    written = onnx_ir.to_proto(model)
    del written.graph.value_info[:]  # sizes inside the graph, under the exporter's names
    _name_axes(written, axes)
    return written


def _node_name(node: onnx_ir.Node, index: int) -> str:
    """`/module/Operator`, as one of the exporters has it: layers can then be asked for."""
    if _SCOPES not in node.metadata_props:
        return _without_wrapper(node.name or f"{node.op_type}_{index}")
    # Names of the modules from the outermost in, then the operation's own.
    scopes = ast.literal_eval(node.metadata_props[_SCOPES])[:-1]
    modules = [scope for scope in scopes if scope not in {"", WRAPPER, _HOOK_SCOPE}]
    module = modules[-1].removeprefix(f"{WRAPPER}.") if modules else ""
    return f"/{module}/{node.op_type}_{index}".replace("//", "/").replace(".", "/")


def _without_wrapper(name: str) -> str:
    """`/wrapped/wrapped.0/Gemm` as `/0/Gemm`, `wrapped.0.weight` as `0.weight`."""
    if not name.startswith("/"):
        return name.removeprefix(f"{WRAPPER}.")
    parts = name.split("/")
    inner = parts[2:] if parts[1] == WRAPPER else parts[1:]
    return "/" + "/".join(part.removeprefix(f"{WRAPPER}.") for part in inner)


def _clean(model: onnx_ir.Model) -> None:
    """Take out stack traces and paths of this machine."""
    model.doc_string = model.graph.doc_string = ""
    model.producer_name, model.producer_version = "modelyard", ""
    model.metadata_props.clear()
    for graph in model.graphs():
        graph.name = "main" if graph is model.graph else graph.name
        graph.metadata_props.clear()
        for value in [*graph.inputs, *graph.initializers.values()]:
            value.doc_string = ""
            value.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.doc_string = ""
        node.metadata_props.clear()
        for value in node.outputs:
            value.doc_string = ""
            value.metadata_props.clear()


def _rename_inside(model: onnx_ir.Model) -> None:
    values = [value for node in model.graph.all_nodes() for value in node.outputs]
    values += [value for graph in model.graphs() for value in graph.initializers.values()]
    used = {value.name for value in values}
    for value in values:
        name = _without_wrapper(value.name or "")
        if name and name not in used:
            used.add(name)
            value.name = name


def _rename_ends(model: onnx_ir.Model, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Inputs and outputs under the names asked for; whatever else has one of them gives way."""
    _separate_ends(model)
    asked = [
        *zip(model.graph.inputs, inputs, strict=True),
        *zip(model.graph.outputs, outputs, strict=True),
    ]
    taken = {*inputs, *outputs}
    values = [value for node in model.graph.all_nodes() for value in node.outputs]
    values += [value for graph in model.graphs() for value in graph.initializers.values()]
    for index, value in enumerate(values):
        if value.name in taken:
            value.name = f"{value.name}_inner_{index}"
    for index, (value, _) in enumerate(asked):
        value.name = f"end_{index}_of_{len(asked)}"
    for value, name in asked:
        value.name = name


def _separate_ends(model: onnx_ir.Model) -> None:
    """An output that is an input, a constant or another output gets an operator of its own."""
    seen = {*model.graph.inputs, *model.graph.initializers.values()}
    for index, value in enumerate(model.graph.outputs):
        if value in seen:
            node = onnx_ir.node("Identity", [value])
            node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
            model.graph.append(node)
            model.graph.outputs[index] = node.outputs[0]
        seen.add(value)


def _name_axes(graph: onnx.ModelProto, axes: Axes) -> None:
    """Give the varying sizes the caller's names; torch.export makes up its own."""
    for value in [*graph.graph.input, *graph.graph.output]:
        for axis, name in axes.get(value.name, {}).items():
            value.type.tensor_type.shape.dim[axis].dim_param = name
