"""Which answers are about one sample each, as tried on the module and noted in its graph."""

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from modelyard.torchtools.by_sample import noted_by_sample, noting_by_sample, outputs_by_sample


class Answering(nn.Module):
    """Answers with what `answer` makes of its inputs."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, *inputs):
        return self.answer(*inputs)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (lambda x: x * 2, [True]),
        (lambda x: x - x.mean(dim=0), [False]),
        (lambda x: x.cumsum(dim=0), [False]),
        (lambda x: x - x.amax(dim=0), [False]),
        (lambda x: x - x.amin(dim=0), [False]),
        (lambda x: x - x.median(dim=0).values, [False]),
        (lambda x: x.argsort(dim=0).argsort(dim=0).float(), [False]),
        (lambda x: x * (x > 5).any(), [False]),
        (lambda x: torch.softmax(x, dim=1), [True]),
        (lambda x: (x + 1, x.sum(), x.sum(dim=0)), [True, False, False]),
        (lambda x: (x.sum(dim=1), x.argmax(dim=1)), [True, True]),
        (lambda x: (-x.abs()).sqrt(), [False]),
        (lambda x: x.transpose(0, 1), [False]),
        (lambda x: x[:, :0], [True]),
        (lambda x: x.view(2, 4), []),
    ],
)
def test_each_output_is_told_apart(answer, expected):
    example = torch.rand(2, 4, generator=torch.Generator().manual_seed(0)) + 0.5
    assert outputs_by_sample(Answering(answer).eval(), example) == expected


def test_every_input_counts_and_whole_numbers_do_not():
    state, x, ids = torch.ones(2, 3), torch.rand(2, 3), torch.tensor([[0], [1]])
    mixes = Answering(lambda state, x: x + state.sum(dim=0)).eval()
    assert outputs_by_sample(mixes, (state, x)) == [False]
    looks_up = Answering(lambda ids, x: x * ids).eval()
    assert outputs_by_sample(looks_up, (ids, x)) == [True]
    assert outputs_by_sample(looks_up, (torch.tensor(3), x)) == []


def graph_of(*names):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in names]
    nodes = [helper.make_node("Identity", ["x"], [name]) for name in names]
    return helper.make_model(helper.make_graph(nodes, "g", [x], outputs))


def test_the_note_names_outputs_and_a_graph_without_one_has_none():
    graph = graph_of("a", "b")
    assert noted_by_sample(graph) == frozenset()
    for by_sample, names in (([True, False], {"a"}), ([True, True], {"a", "b"}), ([True], set())):
        noted = onnx.load_from_string(noting_by_sample(graph.SerializeToString(), by_sample))
        assert noted_by_sample(noted) == names
