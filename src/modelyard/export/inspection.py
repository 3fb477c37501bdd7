"""What an ONNX file holds."""

import math
from collections import Counter
from pathlib import Path

import onnx

from modelyard._core.errors import InputError, NotFoundError
from modelyard.export.records import ModelInfo, TensorInfo
from modelyard.torchtools.conversion import opset_of
from modelyard.torchtools.layers import MB


def read_graph(path: str | Path) -> onnx.ModelProto:
    """The model in a file.

    Raises:
        NotFoundError: There is no such file.
        InputError: It is no ONNX model.
    """
    file = Path(path)
    if not file.is_file():
        raise NotFoundError(f"There is no file {str(file)!r}.")
    try:
        return onnx.load(file)
    except Exception as error:
        raise InputError(f"{str(file)!r} is no ONNX model: {error}") from error


def inspected(path: str | Path) -> ModelInfo:
    """Inputs, outputs, operators, size and metadata of an ONNX file.

    Raises:
        NotFoundError: There is no such file.
        InputError: It is no ONNX model.
    """
    model = read_graph(path)
    constants = {value.name for value in model.graph.initializer}
    return {
        "file_size_mb": Path(path).stat().st_size / MB,
        "opset_version": opset_of(model),
        "inputs": [_tensor(value) for value in model.graph.input if value.name not in constants],
        "outputs": [_tensor(value) for value in model.graph.output],
        "node_count": len(model.graph.node),
        "operators": dict(Counter(node.op_type for node in model.graph.node).most_common()),
        "parameter_count": sum(math.prod(value.dims) for value in model.graph.initializer),
        "producer": model.producer_name,
        "metadata": {entry.key: entry.value for entry in model.metadata_props},
    }


def _tensor(value: onnx.ValueInfoProto) -> TensorInfo:
    tensor = value.type.tensor_type
    shape = [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return {"name": value.name, "shape": shape, "dtype": str(dtype)}
