"""That no business figure is guarded is said where a rollout begins, and where it ends."""

import logging

import pytest

from modelyard.monitor import ModelMonitor
from modelyard.update_strategy import UpdateStrategy

UNGUARDED = "no key metric is set: errors and latency alone are guarded"


def warnings_of(caplog, words):
    found = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    return [message for message in found if words in message]


@pytest.mark.parametrize("is_smooth", [True, False])
def test_without_a_key_metric_the_beginning_says_so_once(yard, ids, caplog, is_smooth):
    strategy = yard.strategy(yard.deploy(), bake_minutes=5.0)
    for candidate in ids[1:3]:
        state = strategy.update_model(candidate, smooth_transition=is_smooth, supersede=True)
        assert UNGUARDED in state["reason"]
    assert any(UNGUARDED in sentence for sentence in strategy.explain())
    [message] = warnings_of(caplog, "key_metric")
    assert "key_metric of 'ppo' is not set" in message


def test_with_one_nothing_is_said(yard, ids, caplog):
    state = yard.strategy(yard.deploy(), key_metric="sharpe").update_model(ids[1])
    assert "key metric" not in state["reason"]
    assert warnings_of(caplog, "key_metric") == []


def test_who_serves_a_rollout_that_was_begun_elsewhere_says_it(yard, ids, ask, caplog):
    remote = UpdateStrategy(yard.registry, ModelMonitor("ppo"), is_remote=True, clock=yard.clock)
    assert UNGUARDED not in remote.update_model(ids[1])["reason"]
    assert warnings_of(caplog, "key_metric") == []
    deployment = yard.deploy()
    strategy = yard.strategy(deployment)
    ask(deployment, 3)
    assert UNGUARDED in strategy.get_rollout()["reason"]
    assert len(warnings_of(caplog, "key_metric")) == 1


@pytest.mark.parametrize("bake_minutes", [0.0, 0.5])
def test_a_key_metric_that_nobody_records_is_told_at_the_end(yard, ids, ask, caplog, bake_minutes):
    deployment = yard.deploy()
    strategy = yard.strategy(
        deployment, key_metric="sharp", steps=[50, 100], bake_minutes=bake_minutes
    )
    strategy.update_model(ids[1])
    ask(deployment, 600, until=lambda: strategy.get_rollout() is None)
    [record] = strategy.get_update_history(1)
    assert record["status"] == "promoted"
    assert "no values of sharp were reported" in record["reason"]
    assert len(warnings_of(caplog, "without a single value of key_metric 'sharp'")) == 1


def test_one_that_is_recorded_is_not(yard, ids, caplog):
    deployment = yard.deploy()
    strategy = yard.strategy(deployment, key_metric="sharpe", steps=[50, 100])
    strategy.update_model(ids[1])
    for i in range(600):
        yard.clock.advance(1.0)
        answer = deployment.predict([[1.0, 1.0, 1.0, 1.0]], user_id=f"user-{i}")
        deployment.record_outcome(answer.request_id, {"sharpe": 1.0 + i % 2})
        if strategy.get_rollout() is None:
            break
    assert strategy.get_update_history(1)[0]["status"] == "promoted"
    assert warnings_of(caplog, "single value") == []
