"""An ONNX graph as a module."""

import copy
import threading

import numpy as np
import pytest
import torch
from torch import nn

from modelyard._core.errors import ConversionError, InputError
from modelyard.torchtools.conversion import to_onnx
from modelyard.torchtools.onnx_module import OnnxModule


@pytest.fixture
def module(mlp):
    return OnnxModule(to_onnx(mlp, torch.zeros(2, 8)).data, recipe="float").eval()


def test_it_answers_like_the_module_it_came_from(module, mlp):
    for n in (1, 5):
        x = torch.randn(n, 8)
        torch.testing.assert_close(module(x), mlp(x).detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(module(input=x), module(x))


def test_copies_and_state_dicts_carry_the_graph(module):
    x = torch.randn(2, 8)
    want = module(x)
    assert torch.equal(copy.deepcopy(module)(x), want)
    other = OnnxModule(module.graph_bytes)
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(x), want)
    assert torch.equal(module.half().to(torch.float64)(x), want)  # bytes have no precision


def test_float64_is_a_wish_for_float_and_other_dtypes_are_mistakes(module):
    x = torch.randn(2, 8)
    assert torch.equal(module(x.double()), module(x.double().float()))
    assert torch.equal(module(x.numpy()), module(x))
    with pytest.raises(InputError, match=r"takes: input .*int64"):
        module(torch.zeros(2, 8, dtype=torch.int64))


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, 2), {}), ((), {"other": torch.zeros(2, 8)}), ((torch.zeros(2, 9),), {})],
)
def test_wrong_inputs_say_what_the_graph_takes(module, args, kwargs):
    args = tuple(torch.zeros(2, 8) if isinstance(arg, int) else arg for arg in args)
    with pytest.raises(InputError, match=r"The graph takes: input \['batch_size', 8\]"):
        module(*args, **kwargs)


def test_it_has_no_parameters_and_prints_its_recipe(module):
    assert list(module.parameters()) == []
    assert "recipe='float'" in repr(module)


def test_threads_may_call_it_at_once(module):
    x = torch.randn(4, 8)
    want = module(x)
    fresh = OnnxModule(module.graph_bytes)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(fresh(x))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert all(torch.equal(answer, want) for answer in answers)


def test_its_own_graph_is_its_conversion(module):
    assert to_onnx(module, torch.zeros(2, 8), opset=14).data == module.graph_bytes
    with pytest.raises(ConversionError, match="built at opset 14, not 17"):
        to_onnx(module, torch.zeros(2, 8), opset=17)


def test_several_outputs_are_a_tuple():
    class Two(nn.Module):
        def forward(self, x):
            return x + 1, {"double": 2 * x}

    graph = to_onnx(Two(), torch.zeros(2, 3)).data
    first, second = OnnxModule(graph)(torch.ones(2, 3))
    assert np.array_equal(first.numpy(), second.numpy())


def test_every_way_to_give_an_input_gives_the_same_answer(module):
    """The plain one takes a shorter way through `forward`."""
    x = torch.randn(3, 8)
    answer = module(x)
    same = [
        module(input=x),
        module(x.double()),
        module(x.clone().requires_grad_()),
        module(torch.cat([x, x], dim=1)[:, :8]),  # not contiguous
        module(nn.Parameter(x)),
        module(x.numpy()),
        copy.deepcopy(module)(x),
    ]
    assert all(torch.equal(other, answer) for other in same)
    with pytest.raises(InputError, match="The graph takes"):
        module(x.long())
    with pytest.raises(InputError, match="The graph takes"):
        module(x, x)
    with pytest.raises(InputError, match="The graph takes"):
        module(torch.randn(3, 9))


def test_another_state_dict_is_another_graph(new_mlp):
    """A hot swap must not leave the old session answering."""
    small, large = (
        OnnxModule(to_onnx(new_mlp(n_hidden=n, seed=n), torch.zeros(2, 8)).data) for n in (16, 32)
    )
    same_size = OnnxModule(to_onnx(new_mlp(seed=5), torch.zeros(2, 8)).data)
    x = torch.randn(3, 8)
    small(x)
    for other in (same_size, large):
        small.load_state_dict(other.state_dict())
        assert torch.equal(small(x), other(x))
    with pytest.raises(RuntimeError, match="Missing key"):
        small.load_state_dict({})
