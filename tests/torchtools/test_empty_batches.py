"""No samples at all: ONNX Runtime is not asked, and the answers are empty."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from modelyard.torchtools.onnx_module import OnnxModule

FLOAT = TensorProto.FLOAT
N_FEATURES, N_HIDDEN, N_GATES = 3, 2, {"GRU": 3, "LSTM": 4}


def value(name, *shape, of=FLOAT):
    return helper.make_tensor_value_info(name, of, shape)


def graph(nodes, outputs, constants=()):
    made = helper.make_graph(
        nodes, "graph", [value("x", "batch", "time", N_FEATURES)], outputs, [*constants]
    )
    opset = helper.make_opsetid("", 17)
    return OnnxModule(
        helper.make_model(made, opset_imports=[opset], ir_version=8).SerializeToString()
    )


def recurrent(kind):
    """Batch first outside, time first inside, as PyTorch's are written."""
    rows = N_GATES[kind] * N_HIDDEN
    weights = [
        helper.make_tensor(name, FLOAT, (1, rows, width), np.ones(rows * width, np.float32))
        for name, width in (("w", N_FEATURES), ("r", N_HIDDEN))
    ]
    swapped = helper.make_node("Transpose", ["x"], ["by_time"], perm=[1, 0, 2])
    layer = helper.make_node(kind, ["by_time", "w", "r"], ["y", "h"], hidden_size=N_HIDDEN)
    outputs = [value("y", "time", 1, "batch", N_HIDDEN), value("h", 1, "batch", N_HIDDEN)]
    return graph([swapped, layer], outputs, weights)


@pytest.mark.parametrize("kind", N_GATES)
def test_recurrent_layers_answer_no_rows_with_none(kind):
    module = recurrent(kind)
    assert [tuple(one.shape) for one in module(torch.zeros(2, 5, N_FEATURES))] == [
        (5, 1, 2, N_HIDDEN),
        (1, 2, N_HIDDEN),
    ]
    steps, last = module(torch.zeros(0, 5, N_FEATURES))
    assert steps.shape == (5, 1, 0, N_HIDDEN)
    assert last.shape == (1, 0, N_HIDDEN)
    assert steps.dtype is torch.float32


def test_samples_may_be_folded_into_another_dimension_and_what_is_of_all_is_no_number():
    size = helper.make_tensor("size", TensorProto.INT64, (2,), [-1, N_FEATURES])
    nodes = [
        helper.make_node("Reshape", ["x", "size"], ["folded"]),
        helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
        helper.make_node("ArgMax", ["x"], ["best"], axis=2, keepdims=0),
    ]
    outputs = [
        value("folded", "rows", N_FEATURES),
        value("mean"),
        value("best", "batch", "time", of=TensorProto.INT64),
    ]
    folded, mean, best = graph(nodes, outputs, [size])(torch.zeros(0, 5, N_FEATURES))
    assert folded.shape == (0, N_FEATURES)
    assert mean.isnan()
    assert best.shape == (0, 5)
    assert best.dtype is torch.int64
