"""Example inputs: found where they can be, proved by running, refused with a reason."""

import numpy as np
import pytest
import torch
from torch import nn

from modelyard._core.errors import ExampleInputRequiredError, InputError
from modelyard.torchtools.inputs import (
    as_inputs,
    batch_size,
    resolve_example,
    synthetic_like,
    with_batch,
)
from modelyard.torchtools.layers import evaluating, own_tensors, size_bytes, unwrapped


class Channels(nn.Module):
    """Takes (batch, length, channels), as TS2Vec does."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3, padding=1)
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        return self.out(self.conv(x.mT).mean(-1))


INFERRED = {
    "linear": (nn.Linear(8, 2), (2, 8)),
    "convolution": (nn.Conv2d(3, 4, 3), (2, 3, 32, 32)),
    "recurrent": (nn.LSTM(5, 4, batch_first=True), (2, 16, 5)),
    "transformer": (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), (2, 16, 4)),
    "channels last": (Channels(), (2, 64, 4)),
    "embedding": (nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2)), (2, 16)),
}


@pytest.mark.parametrize("name", INFERRED)
def test_input_is_inferred_from_the_first_layer(name):
    model, shape = INFERRED[name]
    found = resolve_example(model)
    assert tuple(found.shape) == shape
    model(found)


def test_what_cannot_be_inferred_asks_for_an_example():
    with pytest.raises(ExampleInputRequiredError, match="pass example_input="):
        resolve_example(nn.ReLU())


def test_given_input_that_does_not_run_is_refused_with_the_models_words(mlp):
    with pytest.raises(InputError, match=r"\(1, 3\).*shapes cannot be multiplied"):
        resolve_example(mlp, torch.zeros(1, 3))
    with pytest.raises(InputError, match="does not run"):
        resolve_example(mlp, shape=(1, 3))


def test_resolving_leaves_modes_and_chance_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.BatchNorm1d(4)).train()
    model[2].eval()  # frozen
    mean = model[2].running_mean.clone()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    resolve_example(model)
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert torch.equal(model[2].running_mean, mean)
    assert torch.equal(torch.get_rng_state(), state)


def test_eval_mode_is_undone_for_each_part_also_after_an_error():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout()).train()
    model[0].eval()

    def fail():
        with evaluating(model):
            assert not any(module.training for module in model.modules())
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert [module.training for module in model.modules()] == [True, False, True]


@pytest.mark.parametrize(
    ("value", "shapes"),
    [
        (np.zeros((2, 3)), [(2, 3)]),
        ([[1.0, 2.0], [3.0, 4.0]], [(2, 2)]),
        ([1.0, 2.0], [(2,)]),
        ((torch.zeros(1, 2), np.zeros((1, 3))), [(1, 2), (1, 3)]),
        ({"a": np.zeros((1, 2))}, [(1, 2)]),
    ],
)
def test_kinds_of_input(value, shapes):
    found = as_inputs(value)
    tensors = found.values() if isinstance(found, dict) else found
    tensors = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
    assert [tuple(tensor.shape) for tensor in tensors] == shapes


def test_what_is_no_input_is_refused():
    with pytest.raises(InputError, match="must be a tensor or array, got object"):
        as_inputs({"a": object()})


def test_batch_of_disagreeing_inputs_is_an_error():
    with pytest.raises(InputError, match="first dimension"):
        batch_size((torch.zeros(2, 1), torch.zeros(3, 1)))
    with pytest.raises(InputError, match="first dimension"):
        batch_size(torch.tensor(1.0))


def test_batches_are_cut_and_repeated():
    x = torch.arange(3).reshape(3, 1)
    assert with_batch(x, 5).flatten().tolist() == [0, 1, 2, 0, 1]
    assert with_batch(x, 2).flatten().tolist() == [0, 1]


def test_imitations_keep_shape_dtype_and_valid_indices():
    given = {
        "x": torch.zeros(2, 3, dtype=torch.float64),
        "ids": torch.tensor([[5], [7]]),
        "mask": torch.tensor([[True], [False]]),
    }
    made = synthetic_like(given, 20, seed=1)
    assert {name: (t.dtype, t.shape[1:]) for name, t in made.items()} == {
        name: (t.dtype, t.shape[1:]) for name, t in given.items()
    }
    assert set(made["ids"].flatten().tolist()) <= {5, 7}
    assert torch.equal(made["x"], synthetic_like(given, 20, seed=1)["x"])


def test_size_counts_tied_weights_once_and_buffers_always():
    model = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)])
    model[1].weight = model[0].weight
    model.register_buffer("mask", torch.zeros(3, dtype=torch.uint8), persistent=False)
    assert size_bytes(model) == 4 * 16 + 3
    assert [name for name, _ in own_tensors(model)] == ["mask", "0.weight"]


def test_wrappers_are_taken_off(mlp):
    assert unwrapped(nn.DataParallel(mlp)) is mlp
    assert unwrapped(torch.compile(mlp, backend="eager")) is mlp
    with pytest.raises(InputError, match=r"Expected an nn\.Module, got a OrderedDict"):
        unwrapped(mlp.state_dict())
