"""What a copy to try things on copies, and what it shares."""

import numpy as np
import pytest
import torch
from torch import nn

from modelyard.torchtools.apart import apart
from modelyard.torchtools.onnx_module import OnnxModule


class Holds(nn.Module):
    def __init__(self, held):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.held = held

    def forward(self, x):
        return self.layer(x)


class Vocabulary:
    def __init__(self, words):
        self.words, self.n_unknown = words, [0]


def words(n):
    return {f"word {i}": (i, (str(i), b"x", None)) for i in range(n)}


@pytest.mark.parametrize("wrapped", [lambda held: held, lambda held: [held], Vocabulary])
def test_a_vocabulary_is_not_copied_word_by_word(wrapped):
    held = words(2000)
    model = Holds(wrapped(held))
    with apart(model) as other:
        assert other is not model
        found = other.held
        found = getattr(found, "words", found)
        found = found[0] if isinstance(found, list) else found
        assert found["word 7"] is held["word 7"]
        found["new"] = (0, ())
    assert len(held) == 2000


def test_an_objects_own_small_things_are_copied():
    model = Holds(Vocabulary(words(2000)))
    with apart(model) as other:
        other.held.n_unknown[0] += 1
        other.held.n_words = 3
    assert model.held.n_unknown == [0]
    assert not hasattr(model.held, "n_words")


def test_tensors_are_copied_however_many():
    model = Holds([torch.zeros(1) for _ in range(1500)])
    model.parts = nn.ModuleList(nn.BatchNorm1d(1) for _ in range(1001))
    with apart(model) as other:
        other.held[7].add_(1)
        other.parts[1000].running_mean.add_(1)
    assert float(model.held[7]) == 0
    assert float(model.parts[1000].running_mean) == 0


@pytest.mark.parametrize(
    "held",
    [
        {i: [0.0] for i in range(2000)},
        {i: (0, [0.0]) for i in range(2000)},
        [{"price": 0.0} for _ in range(2000)],
        [np.zeros(300_000)],
    ],
)
def test_a_state_of_many_is_copied(held):
    model = Holds(held)
    before = repr(held)
    with apart(model) as other:
        one = other.held[0]
        one = one[1] if isinstance(one, tuple) else one
        one["price" if isinstance(one, dict) else 0] = 1.0
    assert repr(held) == before


def test_arrays_that_may_only_be_read_are_shared():
    table = np.zeros(3)
    table.flags.writeable = False
    model = Holds([table])
    with apart(model) as other:
        assert other.held[0] is table


def test_a_graph_within_a_module_is_given_itself():
    model = Holds(None)
    model.graph = OnnxModule(b"unread")
    with apart(model) as other:
        assert other is not model
        assert other.graph is model.graph


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta:UserWarning")
def test_sparse_buffers_and_lists_that_hold_themselves_are_copied():
    held = [1]
    held.append(held)
    model = Holds(held)
    model.register_buffer("edges", torch.eye(2).to_sparse_csr())
    with apart(model) as other:
        assert other is not model
        assert other.edges.values().data_ptr() != model.edges.values().data_ptr()
        assert other.held[1] is other.held


class CannotBeCopied(Holds):
    def __deepcopy__(self, memo):
        raise TypeError


@pytest.mark.parametrize("kind", [Holds, CannotBeCopied])
def test_weights_of_its_own_keep_the_modules_as_they_are(kind):
    model = kind(None)
    tied = model.layer.weight
    model.again = tied
    before, n_writes = tied.detach().clone(), model.layer.bias._version
    with apart(model, has_own_weights=True) as other, torch.inference_mode():
        assert other.again is other.layer.weight
        assert (other is model) == (kind is CannotBeCopied)
        other.layer.weight.add_(1.0)
    assert torch.equal(tied, before)
    assert tied is model.again
    assert model.layer.bias._version == n_writes


class TooLarge(nn.Parameter):
    def __deepcopy__(self, memo):
        raise torch.OutOfMemoryError


def test_weights_that_no_memory_is_left_for_are_shared():
    model = Holds([0])
    model.layer.weight = TooLarge(torch.ones(2, 2))
    with apart(model, has_own_weights=True) as other:
        assert other.layer.weight is model.layer.weight
        other.held[0] = 1
    assert model.held == [0]
