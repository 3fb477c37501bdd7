"""Which graphs can make NaN of finite numbers: known forms, and whatever is put together."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from modelyard.torchtools.conversion import to_runnable
from modelyard.torchtools.nan_births import can_make_nan
from modelyard.torchtools.onnx_module import make_session


class Of(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def standardised(x):
    return (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.LayerNorm(8), nn.GELU(), nn.Softmax(-1)),
        nn.Sequential(nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.SiLU()),
        Of(torch.nn.functional.normalize),
        Of(lambda x: torch.log1p(x.abs())),
        Of(lambda x: x / (1 + x**2).sqrt()),
        Of(lambda x: x / 3),
    ],
)
def test_what_divides_by_positive_values_only_makes_no_nan(model):
    assert not can_make_nan(to_runnable(model.eval(), torch.randn(2, 8)).data)


@pytest.mark.parametrize(
    "function",
    [
        torch.sqrt,
        torch.log,
        torch.exp,  # of 1,000 it is infinite, and infinity less infinity is NaN
        standardised,
        lambda x: x / x.abs(),
        lambda x: x / x,
        lambda x: x.abs() ** -1.0,
        lambda x: torch.where(x > 0, x, float("-inf")).softmax(-1),
    ],
)
def test_what_may_divide_by_zero_or_take_a_root_of_less_can_make_nan(function):
    assert can_make_nan(to_runnable(Of(function), torch.rand(2, 8) + 1).data)


def graph_of(nodes, constants):
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString()


CONSTANTS = {
    "two": np.array(2, np.float32),
    "three": np.array(3, np.float32),
    "half": np.array(0.5, np.float32),
    "minus": np.array(-1.5, np.float32),
    "none": np.array(0, np.float32),
    "mixed": np.array([1, -2, 0, 3], np.float32),
}
ONE = ("Relu", "Abs", "Sqrt", "Log", "Reciprocal", "Neg", "Tanh", "Sigmoid", "Softmax", "Identity")
TWO = ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min")


@st.composite
def graphs(draw):
    nodes, names = [], ["x0"]
    for i in range(draw(st.integers(1, 7))):
        kind = draw(st.sampled_from(ONE + TWO + ("Clip",)))
        places = st.sampled_from(names[-3:]), st.sampled_from([*names[-3:], *CONSTANTS])
        if kind == "Clip":
            bounds = draw(st.sampled_from([["half"], ["minus"], ["none", "two"], ["", "two"]]))
            inputs = [draw(places[0]), *bounds]
        elif kind in ONE:
            inputs = [draw(places[0])]
        else:
            inputs = [draw(one) for one in draw(st.permutations(places))]
        names.append(f"x{i + 1}")
        nodes.append(helper.make_node(kind, inputs, [names[-1]], name=names[-1]))
    return graph_of(nodes, CONSTANTS)


@settings(max_examples=300, deadline=None)
@given(graphs())
def test_no_graph_that_is_said_to_make_none_makes_nan(graph):
    if can_make_nan(graph):
        return
    session = make_session(graph)
    for values in ([0, 0, 0, 0], [-1, 2, -3, 0.5], [1e-3, -1e-3, 30, -30], [5, 5, 5, 5]):
        (found,) = session.run(None, {"x0": np.array(values, np.float32)})
        assert not np.isnan(found).any(), [
            (n.op_type, n.input) for n in onnx.load_from_string(graph).graph.node
        ]


def test_what_is_not_known_counts_as_able():
    node = helper.make_node("Frobnicate", ["x0"], ["y"], domain="made.up")
    assert can_make_nan(graph_of([node], {}))
    assert can_make_nan(graph_of([helper.make_node("Det", ["x0"], ["y"])], {}))
    infinite = {"c": np.array(np.inf, np.float32)}
    assert can_make_nan(graph_of([helper.make_node("Mul", ["x0", "c"], ["y"])], infinite))
