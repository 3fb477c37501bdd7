"""Trying things on a copy: the module in use does not notice."""

import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from modelyard.torchtools.apart import apart, sharing_copy
from modelyard.torchtools.onnx_module import OnnxModule


class Remembers(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.register_buffer("mean", torch.zeros(4))
        self.last = None

    def forward(self, x):
        self.mean.mul_(0.9).add_(0.1 * x.mean(0))
        self.last = x
        return self.layer(x - self.mean)


class CannotBeCopied(Remembers):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


def spoil(model):
    with torch.no_grad():
        model(torch.full((2, 4), float("nan")))


def test_what_a_copy_goes_through_the_module_does_not():
    model = Remembers()
    with apart(model) as other:
        assert other is not model
        assert other.layer.weight is model.layer.weight
        spoil(other)
        assert other.mean.isnan().all()
    assert model.mean.eq(0).all()
    assert model.last is None


def test_what_cannot_be_copied_is_put_back():
    model = CannotBeCopied()
    assert sharing_copy(model) is None
    with apart(model) as other:
        assert other is model
        spoil(other)
    assert model.mean.eq(0).all()
    assert model.last is None


def test_masked_and_tied_weights_stay_what_they_are():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    prune.l1_unstructured(model[0], "bias", 0.5)
    x = torch.randn(3, 4)
    want = model(x)
    with apart(model) as other:
        assert other is not model
        assert other[2].weight is other[0].weight is model[0].weight
        assert torch.equal(other(x), want)


@pytest.mark.filterwarnings("ignore")  # of scripts, that they are deprecated
def test_a_graph_keeps_nothing_and_a_script_is_put_back():
    script = torch.jit.script(nn.BatchNorm1d(4))
    with apart(script) as other:
        other(torch.ones(3, 4))
        assert other is script
    assert script.running_mean.eq(0).all()
    graph = OnnxModule(b"unread")
    with apart(graph) as other:
        assert other is graph
