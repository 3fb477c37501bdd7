"""Names and varying sizes of a model's inputs and outputs."""

from collections import namedtuple
from dataclasses import dataclass

import onnx
import pytest
import torch
from torch import nn

from modelyard._core.errors import ConfigError, ConversionError, InputError
from modelyard.torchtools.conversion import to_onnx
from modelyard.torchtools.conversion.interface import interface_of
from modelyard.torchtools.onnx_module import make_session, run_session

Answer = namedtuple("Answer", ["action", "value"])  # noqa: PYI024 - what users return


@dataclass
class Fields:
    scores: torch.Tensor
    total: torch.Tensor


class Nested(nn.Module):
    def forward(self, batch, weights, bias=None, *, scale=2.0):
        x = batch["prices"] * weights[0] + batch["volumes"] * weights[1]
        return scale * (x if bias is None else x + bias)


class Answers(nn.Module):
    """Answers as `form` says."""

    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, x):
        return self.form(x)


class Recurrent(nn.Module):
    """The hidden state has its batch on the second axis."""

    def __init__(self):
        super().__init__()
        self.net = nn.GRU(4, 3, batch_first=True)

    def forward(self, x, h):
        return self.net(x, h)


class Heads(nn.Module):
    """The batch, times two, comes out on the first axis."""

    def forward(self, x):
        return x.reshape(x.shape[0] * 2, -1)


class AtMostSix(nn.Module):
    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(6, 3))

    def forward(self, x):
        return x + self.positions[: x.shape[1]]


class Even(nn.Module):
    """Takes sequences of even length only."""

    def forward(self, x):
        return x.reshape(x.shape[0], x.shape[1] // 2, 2 * x.shape[2])


class OnlyTwo(nn.Module):
    def forward(self, x):
        return x.view(2, 3)


def nested_example():
    batch = {"prices": torch.randn(2, 4), "volumes": torch.randn(2, 4)}
    return (batch, [torch.randn(2, 4), torch.randn(2, 1)], None)


def test_nested_inputs_are_named_by_argument_key_and_position():
    found = interface_of(Nested(), nested_example())
    assert found.inputs == ("batch_prices", "batch_volumes", "weights_0", "weights_1")
    assert found.outputs == ("output",)
    assert found.axes == {name: {0: "batch_size"} for name in (*found.inputs, "output")}


def test_nested_optional_and_constant_arguments_are_converted():
    example = nested_example()
    batch, weights, _ = example
    by_name = {"batch": batch, "weights": weights, "scale": 3.0}
    for given, scale in ((example, 2.0), (by_name, 3.0)):
        graph = to_onnx(Nested(), given).data
        tensors = [batch["prices"], batch["volumes"], *weights]
        (answer,) = run_session(make_session(graph), tensors)
        torch.testing.assert_close(answer, Nested()(batch, weights, scale=scale))


@pytest.mark.parametrize(
    ("form", "names"),
    [
        (lambda x: x + 1, ("output",)),
        (lambda x: {"only": x + 1}, ("output",)),
        (lambda x: {"action": x, "softmax": torch.softmax(x, 1)}, ("action", "softmax")),
        (lambda x: Answer(x + 1, x.sum(1)), ("action", "value")),
        (lambda x: (x + 1, None, [x.sum(1)]), ("output_0", "output_1")),
        (lambda x: Fields(x + 1, x.sum(1)), ("scores", "total")),
        (lambda x: {"a": x, "b": (x, x)}, ("output_0", "output_1", "output_2")),
        (lambda x: {"input": x + 1, "b": x}, ("input_1", "b")),
    ],
)
def test_outputs_are_named_by_what_the_model_calls_them(form, names):
    data = to_onnx(Answers(form), torch.randn(2, 3)).data
    graph = onnx.load_from_string(data).graph
    assert tuple(value.name for value in graph.output) == names
    assert [value.name for value in graph.input] == ["input"]


@pytest.mark.slow
@pytest.mark.parametrize("opset", [14, 18])
def test_a_name_that_is_also_an_operators_is_the_outputs_own(opset):
    model = Answers(lambda x: {"softmax": torch.softmax(x, 1), "Add": x + 1, "x": x * 2})
    graph = onnx.load_from_string(to_onnx(model, torch.randn(2, 3), opset=opset).data)
    onnx.checker.check_model(graph, full_check=True)
    assert [value.name for value in graph.graph.output] == ["softmax", "Add", "x"]


def test_names_can_be_chosen():
    found = interface_of(
        nn.Linear(3, 2), torch.randn(2, 3), input_names=["state"], output_names=["action"]
    )
    assert (found.inputs, found.outputs) == (("state",), ("action",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_names": ["a", "b"]}, "input_names must be 1 different names"),
        ({"input_names": "x"}, "input_names must be 1 different names"),
        ({"output_names": ["input"]}, "input names an input and an output"),
        ({"dynamic_axes": {"x": {0: "n"}}}, "names x; this model has input, output"),
        ({"dynamic_axes": {"input": {2: "n"}}}, "gives input an axis 2; it has 2 dimensions"),
        ({"dynamic_axes": {"input": {-1: "n"}}}, "an axis -1"),
        ({"dynamic_axes": {"input": {1: "width"}}}, "itself does not run at width 4"),
        ({"dynamic_axes": {"output": {3: "n"}}}, "gives output an axis 3"),
    ],
)
def test_wrong_names_and_axes_are_refused_with_the_right_ones(options, message):
    with pytest.raises(ConfigError, match=message):
        interface_of(nn.Linear(3, 2), torch.randn(2, 3), **options)


def test_sizes_of_outputs_that_vary_are_found():
    example = (torch.randn(2, 5, 4), torch.zeros(1, 2, 3))
    axes = {"x": {0: "n", 1: "time"}, "h": {1: "n"}}
    found = interface_of(Recurrent(), example, dynamic_axes=axes)
    assert found.axes["output_0"] == {0: "n", 1: "time"}
    assert found.axes["output_1"] == {1: "n"}
    heads = interface_of(Heads(), torch.randn(2, 6))
    assert heads.axes["output"] == {0: "batch_size_0_0"}


@pytest.mark.slow
def test_a_graph_with_two_varying_sizes_runs_at_others():
    example = (torch.randn(2, 5, 4), torch.zeros(1, 2, 3))
    axes = {"x": {0: "n", 1: "time"}, "h": {1: "n"}}
    model = Recurrent().eval()
    for opset in (14, 18):
        graph = to_onnx(model, example, opset=opset, dynamic_axes=axes)
        assert graph.verification.sizes == {
            "n": (1, 2, 3, 8, 33, 130),
            "time": (1, 2, 4, 5, 6, 11, 28),
        }
        x, h = torch.randn(7, 9, 4), torch.randn(1, 7, 3)
        for want, got in zip(
            model(x, h), run_session(make_session(graph.data), [x, h]), strict=True
        ):
            torch.testing.assert_close(got, want.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "tried"), [(AtMostSix(), {1, 3, 5, 6}), (Even(), {6, 12, 33 - 1})]
)
def test_a_size_the_model_does_not_take_is_not_tried(model, tried):
    axes = {"input": {0: "batch_size", 1: "time"}}
    graph = to_onnx(model, torch.randn(2, 6, 3), dynamic_axes=axes)
    assert {*graph.verification.sizes["time"]} <= tried | {6}


def test_inputs_whose_first_axes_differ_need_words():
    example = (torch.randn(2, 5, 4), torch.zeros(1, 2, 3))
    with pytest.raises(InputError, match=r"x \(2, 5, 4\), h \(1, 2, 3\).*dynamic_axes"):
        interface_of(Recurrent(), example)
    assert interface_of(Recurrent(), example, dynamic_axes={}).sizes == {}


def test_equal_names_are_equal_sizes():
    example = (torch.randn(2, 5, 4), torch.zeros(1, 2, 3))
    with pytest.raises(ConfigError, match="'n' is 2 in one input and 1 in h"):
        interface_of(Recurrent(), example, dynamic_axes={"x": {0: "n"}, "h": {0: "n"}})


def test_a_batch_the_model_fixes_itself_is_told():
    with pytest.raises(
        ConfigError, match=r"OnlyTwo itself does not run at batch_size 3.*{} fixes"
    ):
        to_onnx(OnlyTwo(), torch.randn(2, 3))
    assert to_onnx(OnlyTwo(), torch.randn(2, 3), dynamic_axes={}).max_abs_diff == 0


def test_an_empty_input_is_refused():
    with pytest.raises(InputError, match="input is empty"):
        interface_of(nn.Linear(3, 2), torch.randn(0, 3))


@pytest.mark.slow
def test_unused_inputs_are_told():
    class Ignores(nn.Module):
        def forward(self, x, y):
            del y
            return x + 1

    with pytest.raises(ConversionError, match="does not depend on y"):
        to_onnx(Ignores(), (torch.randn(2, 3), torch.randn(2, 3)))
