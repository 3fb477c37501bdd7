"""A rollout carried to an `InferenceOptimizer`, whose one model is exchanged at the end."""

import contextlib
import logging

import pytest
import torch
from torch import nn

from modelyard._core.errors import InputError
from modelyard.inference_optimizer import InferenceOptimizer


@pytest.fixture
def output_of(x):
    return lambda optimizer: optimizer.predict(x)[0, 0].item()


def test_an_optimizer_is_exchanged_once_the_share_is_whole(yard, ids, x, output_of, caplog):
    optimizer = InferenceOptimizer(yard.registry.load_model(ids[0]))
    strategy = yard.strategy(optimizer, key_metric="sharpe")
    before = output_of(optimizer)
    state = strategy.update_model(ids[2])
    assert state["applied_to"] == ["optimizer"]
    for _ in range(2):
        assert output_of(optimizer) == before
        yard.clock.advance(30.0)
        strategy.advance()
    expected = yard.registry.load_model(ids[2])(x)[0, 0].item()
    assert output_of(optimizer) == expected != before
    yard.clock.advance(30.0)
    assert strategy.advance()["status"] == "promoted"
    assert strategy.rollback()["rolled_back"]
    assert output_of(optimizer) == before
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


def test_an_optimizer_that_was_not_exchanged_keeps_its_own_module(yard, ids):
    module = yard.registry.load_model(ids[0])
    optimizer = InferenceOptimizer(module)
    strategy = yard.strategy(optimizer)
    strategy.update_model(ids[1])
    strategy.rollback()
    assert optimizer.model is module


def test_an_optimizer_without_a_model_gets_production(yard, ids, x):
    optimizer = InferenceOptimizer()
    yard.strategy(optimizer)
    expected = yard.registry.load_model(ids[0])(x)
    assert torch.equal(optimizer.predict(x), expected)


def whole(yard, strategy):
    for _ in range(2):
        yard.clock.advance(30.0)
        strategy.advance()


def record(yard, n, **options):
    for _ in range(n):
        yard.clock.advance(0.1)
        yard.monitor.record_prediction([0.0], 0.001, **options)


@pytest.mark.parametrize("n_before", [0, 300, 1500])
def test_an_exchanged_model_that_fails_is_undone(yard, ids, output_of, n_before):
    optimizer = InferenceOptimizer(yard.registry.load_model(ids[0]))
    strategy = yard.strategy(optimizer)
    before = output_of(optimizer)
    record(yard, n_before)
    strategy.update_model(ids[2])
    whole(yard, strategy)
    assert output_of(optimizer) != before
    record(yard, 20, error=True)
    strategy.advance()
    [record_] = strategy.get_update_history(limit=1)
    assert record_["status"] == "rolled_back"
    assert record_["reason"].startswith("error rate 100.0% (20 of 20)")
    assert output_of(optimizer) == before


def test_errors_of_the_model_before_are_not_the_new_ones(yard, ids):
    optimizer = InferenceOptimizer(yard.registry.load_model(ids[0]))
    strategy = yard.strategy(optimizer)
    record(yard, 500, error=True)
    strategy.update_model(ids[2])
    whole(yard, strategy)
    record(yard, 10)
    yard.clock.advance(30.0)
    assert strategy.advance()["status"] == "running"  # ten are not enough
    record(yard, 10)
    assert strategy.advance()["status"] == "promoted"
    assert not strategy.should_rollback()["should_rollback"]


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_version_that_does_not_answer_its_example_is_not_exchanged(yard, ids, value):
    broken = nn.Linear(4, 2)
    nn.init.constant_(broken.weight, value)
    optimizer = InferenceOptimizer(yard.registry.load_model(ids[0]))
    strategy = yard.strategy(optimizer)
    version_id = yard.registry.save_model(broken, "ppo", example_input=torch.ones(2, 4))
    with pytest.raises(InputError, match="NaN or infinity"):
        strategy.update_model(version_id)
    assert strategy.get_rollout() is None


def wider(yard):
    """A version of ppo with another input width, and its example."""
    example = torch.ones(2, 6)
    return yard.registry.save_model(nn.Linear(6, 2), "ppo", example_input=example), example


def test_a_version_of_another_width_is_exchanged_on_its_own_example(yard, ids):
    optimizer = InferenceOptimizer(yard.registry.load_model(ids[0]), device="cpu")
    optimizer.optimize_for_inference(torch.ones(2, 4), budget_s=0.01)
    version_id, example = wider(yard)
    strategy = yard.strategy(optimizer)
    assert strategy.update_model(version_id, smooth_transition=False)["status"] == "promoted"
    assert optimizer.predict(example).shape == (2, 2)


@pytest.mark.parametrize("smooth", [True, False])
def test_an_exchange_that_fails_ends_the_rollout_with_the_reason(yard, ids, monkeypatch, smooth):
    optimizer = InferenceOptimizer(yard.registry.load_model(ids[0]), device="cpu")
    strategy = yard.strategy(optimizer)
    served = optimizer.model
    swaps = []

    def failing(model, example_input=None):
        swaps.append(example_input)
        raise InputError("no backend takes it")

    monkeypatch.setattr(optimizer, "swap", failing)
    looks = [lambda: strategy.update_model(ids[2], smooth_transition=smooth)]
    looks += [strategy.advance] * 5
    for look in looks:
        with contextlib.suppress(InputError):
            look()
        yard.clock.advance(30.0)
    assert len(swaps) in {1, 2}  # the second look may try again before it gives up
    [rollout, *_] = strategy.get_update_history(limit=1)
    assert rollout["status"] == "rolled_back"
    assert rollout["reason"] == f"{ids[2]} cannot be served: no backend takes it"
    assert yard.production() == ids[0]
    assert torch.equal(optimizer.model.weight, served.weight)


def test_a_version_whose_exchange_failed_may_be_tried_again(yard, ids, monkeypatch, output_of):
    optimizer = InferenceOptimizer(yard.registry.load_model(ids[0]), device="cpu")
    strategy = yard.strategy(optimizer, cooldown_hours=0)

    def failing(model, example_input=None):
        raise InputError("no backend takes it")

    with monkeypatch.context() as patched:
        patched.setattr(optimizer, "swap", failing)
        for look in (
            lambda: strategy.update_model(ids[2], smooth_transition=False),
            strategy.advance,
        ):
            with contextlib.suppress(InputError):
                look()
    assert strategy.get_rollout() is None
    assert strategy.update_model(ids[2], smooth_transition=False)["status"] == "promoted"
    assert output_of(optimizer) == yard.registry.load_model(ids[2])(torch.ones(1, 4))[0, 0].item()
