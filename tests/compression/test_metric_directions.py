"""Whether more of a metric is better: by its function's name, or as the caller says."""

import functools

import pytest
import torch
from torch import nn

from modelyard import ModelCompressor
from modelyard.compression.metric_forms import is_more_better, warn_of_direction


def mean_squared_error(outputs, targets):
    return float((outputs - targets).square().mean())


def accuracy(outputs, targets):
    return float((outputs > 0).eq(targets > 0).float().mean())


def figure(outputs, targets):
    return mean_squared_error(outputs, targets)


@pytest.fixture
def pruned():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1))
    inputs = torch.randn(64, 4)
    targets = model(inputs).detach()
    compressor = ModelCompressor(model, validation_data=inputs)
    compressor.prune_model(0.8)
    return compressor, [(inputs, targets + 0.1)]


def warnings_in(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "modelyard"]


@pytest.mark.parametrize(
    ("metric_fn", "is_more"),
    [
        (mean_squared_error, False),
        (functools.partial(mean_squared_error), False),
        (nn.MSELoss(), False),
        (accuracy, True),
        (figure, True),
        (lambda outputs, targets: 1.0, True),
    ],
)
def test_the_name_tells_the_direction(metric_fn, is_more):
    assert is_more_better(metric_fn, (0.1, 0.2)) is is_more


def test_an_error_that_grew_is_a_drop(pruned):
    compressor, loader = pruned
    found = compressor.evaluate_compressed_model(loader, mean_squared_error)
    assert found["compressed_metric"] > found["original_metric"]
    assert found["metric_drop"] > 0
    assert found["relative_drop"] > 0
    assert found["lower_is_better"] is True


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_larger_drawdown_is_a_drop_whichever_sign_it_has(pruned, sign):
    def max_drawdown(outputs, targets):
        return sign * mean_squared_error(outputs, targets)

    compressor, loader = pruned
    found = compressor.evaluate_compressed_model(loader, max_drawdown)
    assert found["metric_drop"] > 0
    assert found["lower_is_better"] is (sign > 0)


@pytest.mark.parametrize("maximize", [True, False])
def test_who_says_the_direction_is_believed(pruned, maximize):
    compressor, loader = pruned
    for metric_fn in (mean_squared_error, figure):
        found = compressor.evaluate_compressed_model(loader, metric_fn, maximize=maximize)
        assert (found["metric_drop"] < 0) is maximize
        assert found["lower_is_better"] is not maximize


@pytest.mark.parametrize(
    ("metric_fn", "maximize", "is_warned"),
    [
        (mean_squared_error, True, True),
        (mean_squared_error, False, False),
        (accuracy, True, False),
        (accuracy, False, True),
        (figure, True, False),
        (figure, False, False),
        (None, True, False),
    ],
)
def test_the_other_way_than_the_name_says_is_warned_of(metric_fn, maximize, is_warned, caplog):
    warn_of_direction(metric_fn, maximize=maximize, call="search")
    assert bool(warnings_in(caplog)) is is_warned


def test_a_training_judged_by_an_error_warns(pruned, caplog):
    compressor, loader = pruned
    compressor.fine_tune(
        loader, epochs=1, validation_loader=loader, metric_fn=mean_squared_error, progress=False
    )
    [warned] = warnings_in(caplog)
    assert warned == (
        "fine_tune(mean_squared_error, maximize=True): by its name the other way is better. Pass "
        "maximize=False if that was meant."
    )


def test_a_distillation_judged_by_an_error_warns(pruned, caplog):
    compressor, loader = pruned
    compressor.knowledge_distillation(
        compressor.original_model,
        nn.Linear(4, 1),
        loader,
        epochs=1,
        validation_loader=loader,
        metric_fn=mean_squared_error,
        progress=False,
    )
    assert any("knowledge_distillation(mean_squared_error" in one for one in warnings_in(caplog))


def test_a_search_judged_by_an_error_warns(pruned, caplog):
    compressor, loader = pruned
    inputs, targets = loader[0]

    def val_mse(model):
        with torch.no_grad():
            return mean_squared_error(model(inputs), targets)

    compressor.search(val_mse, max_metric_drop=1.0, time_budget_s=0.0, progress=False)
    assert any("search(val_mse, maximize=True)" in one for one in warnings_in(caplog))
