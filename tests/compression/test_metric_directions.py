"""Metrics of which less is better: what a drop means is told, and a search the wrong way warns."""

import pytest
import torch
from torch import nn

from modelyard import ModelCompressor
from modelyard._core.errors import CompressionError
from modelyard.compression.evaluation import name_of


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def mean_squared_error(outputs, targets):
    return float(((outputs - targets) ** 2).mean())


def accuracy(outputs, targets):
    return float((outputs.argmax(1) == targets.argmax(1)).float().mean())


@pytest.fixture
def pruned(new_mlp):
    """A model that answers its targets exactly, and a copy that does not."""
    model, inputs = new_mlp(), normal(64, 8)
    with torch.no_grad():
        loader = [(inputs, model(inputs))]
    compressor = ModelCompressor(model)
    compressor.prune_model(0.6)
    return compressor, loader


def test_an_error_that_rises_is_told_to_be_a_loss(pruned, caplog):
    compressor, loader = pruned
    found = compressor.evaluate_compressed_model(loader, mean_squared_error)
    assert found["lower_is_better"]
    assert found["metric_drop"] < 0
    assert "mean_squared_error rose from" in caplog.text


def test_of_an_accuracy_nothing_is_said(pruned, caplog):
    compressor, loader = pruned
    found = compressor.evaluate_compressed_model(loader, accuracy)
    assert not found["lower_is_better"]
    assert "rose from" not in caplog.text


@pytest.mark.parametrize(("maximize", "is_warned"), [(True, True), (False, False)])
def test_a_search_the_wrong_way_warns(new_mlp, caplog, maximize, is_warned):
    def val_loss(model):
        return float(model(normal(8, 8)).square().mean().detach())

    compressor = ModelCompressor(new_mlp())
    try:
        compressor.search(val_loss, maximize=maximize, max_metric_drop=10.0, progress=False)
    except CompressionError:
        pytest.fail("nothing kept the limits")
    assert ("Pass maximize=False" in caplog.text) is is_warned


def test_metrics_are_called_by_their_functions():
    assert name_of(mean_squared_error) == "mean_squared_error"
    assert name_of(nn.MSELoss()) == "MSELoss"
    assert name_of(lambda model: 0.0) == "function"
