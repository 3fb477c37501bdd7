"""What an ONNX file holds."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from modelyard._core.errors import InputError, NotFoundError
from modelyard.export.metadata import as_values
from modelyard.export.records import ModelInfo, TensorInfo
from modelyard.torchtools.conversion import opset_of
from modelyard.torchtools.layers import MB


def read_graph(path: str | Path) -> onnx.ModelProto:
    """The model in a file, without weights that lie in other files.

    Raises:
        NotFoundError: There is no such file.
        InputError: It is no ONNX model.
    """
    file = Path(path)
    if not file.is_file():
        raise NotFoundError(f"There is no file {str(file)!r}.")
    try:
        model = onnx.load(file, load_external_data=False)
    except Exception as error:
        raise InputError(f"{str(file)!r} is no ONNX model: {error}") from error
    if not model.opset_import or not model.graph.output:
        raise InputError(f"{str(file)!r} is no ONNX model: it has no operator set or no output.")
    return model


def inspected(path: str | Path) -> ModelInfo:
    """Inputs, outputs, operators, size and metadata of an ONNX file.

    Raises:
        NotFoundError: There is no such file.
        InputError: It is no ONNX model, or points to weights that are not there.
    """
    model = read_graph(path)
    constants = {value.name for value in model.graph.initializer}
    nodes = list(_nodes(model.graph))
    size = Path(path).stat().st_size
    return {
        "file_size_mb": size / MB,
        "total_size_mb": (size + _external_bytes(model, Path(path))) / MB,
        "opset_version": opset_of(model),
        "inputs": [_tensor(value) for value in model.graph.input if value.name not in constants],
        "outputs": [_tensor(value) for value in model.graph.output],
        "node_count": len(nodes),
        "operators": dict(Counter(node.op_type for node in nodes).most_common()),
        "parameter_count": sum(math.prod(value.dims) for value in model.graph.initializer),
        "producer": model.producer_name,
        "metadata": as_values({entry.key: entry.value for entry in model.metadata_props}),
    }


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Operators of the graph and of the branches and loop bodies in it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from _nodes(inner)


def _external_bytes(model: onnx.ModelProto, path: Path) -> int:
    locations = {
        ExternalDataInfo(value).location
        for value in model.graph.initializer
        if uses_external_data(value)
    }
    total = 0
    for location in sorted(locations):
        file = path.parent / location
        # A file that a stranger made may point anywhere.
        if Path(location).is_absolute() or ".." in Path(location).parts:
            raise InputError(f"{str(path)!r} points to weights outside its folder: {location!r}.")
        if not file.is_file():
            raise InputError(f"{str(path)!r} keeps weights in {location!r}, which is not there.")
        total += file.stat().st_size
    return total


def _tensor(value: onnx.ValueInfoProto) -> TensorInfo:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        return {"name": value.name, "shape": [], "dtype": str(kind)}
    tensor = value.type.tensor_type
    return {"name": value.name, "shape": _shape(tensor), "dtype": _dtype(tensor.elem_type)}


def _shape(tensor: Any) -> list[int | str]:
    return [
        int(dim.dim_value) if dim.WhichOneof("value") == "dim_value" else dim.dim_param or "?"
        for dim in tensor.shape.dim
    ]


def _dtype(element: int) -> str:
    return str(onnx.helper.tensor_dtype_to_np_dtype(element))
