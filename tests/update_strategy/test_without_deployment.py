"""The life of an update where only the production pointer moves, as the document shows it."""

import logging

import numpy as np
import pytest

from modelyard._core.errors import (
    ConfigError,
    IntegrityError,
    RolloutInProgressError,
    VersionNotFoundError,
)
from modelyard.update_strategy import UpdateTrigger


def record(yard, n, *, seed=0, shift=0.0, error=False, latency=0.001, **metrics):
    rng = np.random.default_rng(seed)
    for _ in range(n):
        yard.clock.advance(0.01)
        yard.monitor.record_prediction(
            rng.normal(shift, 1, 2), latency, rng.normal(shift, 1, 3), error=error
        )
        for name, value in metrics.items():
            yard.monitor.record_metric(name, value)


# Beginning


def test_the_first_version_becomes_production_at_once(yard):
    [first] = yard.save(1)
    state = yard.strategy().update_model(first)
    assert (state["status"], state["shares"]) == ("promoted", {first: 1.0})
    assert state["previous_version_id"] is None
    assert yard.production() == first
    assert [r["action"] for r in yard.registry.get_history("ppo")][-1] == "promote"


def test_production_is_not_rolled_out_again(yard, ids):
    strategy = yard.strategy()
    state = strategy.update_model(ids[0])
    assert (state["status"], state["rollout_id"]) == ("already_running", None)
    assert strategy.get_update_history() == []


def test_the_same_version_twice_is_one_rollout(yard, ids):
    strategy = yard.strategy()
    first = strategy.update_model(ids[1])
    again = strategy.update_model(ids[1])
    assert again == {**first, "status": "already_running"}
    assert len(strategy.get_update_history()) == 1


def test_a_second_rollout_waits_or_supersedes(yard, ids):
    strategy = yard.strategy()
    strategy.update_model(ids[1])
    with pytest.raises(RolloutInProgressError, match="supersede=True"):
        strategy.update_model(ids[2])
    state = strategy.update_model(ids[2], supersede=True)
    assert state["shares"] == {ids[0]: 0.9, ids[2]: 0.1}
    newer, older = strategy.get_update_history()
    assert (newer["status"], older["status"]) == ("running", "aborted")
    assert older["reason"] == f"superseded by {ids[2]}"


@pytest.mark.parametrize("supersede", [False, True])
def test_what_cannot_be_found_neither_begins_nor_ends_a_rollout(yard, ids, supersede):
    strategy = yard.strategy()
    strategy.update_model(ids[1])
    with pytest.raises(VersionNotFoundError):
        strategy.update_model("ppo_v20200101_000000", supersede=supersede)
    assert strategy.get_rollout()["new_version_id"] == ids[1]


def test_a_version_of_another_model_is_an_error(yard, ids):
    [other] = yard.save(1, "dqn")
    with pytest.raises(ConfigError, match="is a version of 'dqn'"):
        yard.strategy().update_model(other)


def test_no_version_is_an_error(yard, ids):
    with pytest.raises(ConfigError, match="must be a version id, got None"):
        yard.strategy().update_model(None)


@pytest.mark.parametrize("limit", [-1, 1.5, True])
def test_a_history_of_a_limit_that_is_no_count_is_an_error(yard, ids, limit):
    with pytest.raises(ConfigError, match="limit must be"):
        yard.strategy().get_update_history(limit=limit)


def test_an_unknown_trigger_is_an_error(yard, ids):
    with pytest.raises(ConfigError, match="trigger 'whim'"):
        yard.strategy().update_model(ids[1], "whim")


def test_that_nothing_serves_is_said_once(yard, ids, caplog):
    strategy = yard.strategy()
    strategy.update_model(ids[1])
    strategy.update_model(ids[2], supersede=True)
    warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "only the production pointer moves" in warnings[0].message


def test_what_serves_must_be_something_that_serves(yard):
    with pytest.raises(ConfigError, match="must be a Deployment or an InferenceOptimizer"):
        yard.strategy(deployment=object())


# Moving


def test_the_clock_moves_the_steps_and_the_pointer_at_the_end(yard, ids):
    strategy = yard.strategy()
    state = strategy.update_model(ids[1], UpdateTrigger.SCHEDULED)
    seen = [state["shares"][ids[1]]]
    assert state["applied_to"] == []
    for _ in range(29):
        yard.clock.advance(3.0)
        state = strategy.advance()
        seen.append(state["shares"][ids[1]])
        assert yard.production() == ids[0]
    assert seen == [0.1] * 10 + [0.5] * 10 + [1.0] * 10
    yard.clock.advance(3.0)
    assert strategy.advance()["status"] == "promoted"
    assert yard.production() == ids[1]
    assert strategy.advance() is None
    [done] = strategy.get_update_history()
    actions = [event["action"] for event in done["events"]]
    assert actions == ["start", "next_step", "next_step", "promote", "promoted"]
    assert (done["trigger"], done["status"]) == ("scheduled", "promoted")


def test_one_long_wait_takes_one_step(yard, ids):
    strategy = yard.strategy()
    strategy.update_model(ids[1])
    yard.clock.advance(1e6)
    assert strategy.advance()["step"] == 2
    assert strategy.advance()["step"] == 2


def test_no_smooth_transition_means_at_once(yard, ids):
    state = yard.strategy().update_model(ids[1], smooth_transition=False)
    assert (state["status"], yard.production()) == ("promoted", ids[1])


def test_a_thread_advances_where_nobody_calls(yard, ids):
    strategy = yard.strategy(transition_minutes=0.0)
    strategy.update_model(ids[1])
    with strategy.running(every_s=0.005):
        for _ in range(2000):
            if strategy.get_rollout() is None:
                break
    assert yard.production() == ids[1]


# Commands


def test_a_paused_rollout_stays_until_it_is_resumed(yard, ids):
    strategy = yard.strategy()
    assert strategy.pause() is strategy.resume() is strategy.abort() is None
    strategy.update_model(ids[1])
    assert strategy.resume() is None
    assert strategy.pause(reason="holiday", actor="ana")["status"] == "paused"
    yard.clock.advance(1e6)
    assert strategy.advance()["reason"] == "holiday"
    assert strategy.resume()["status"] == "running"
    assert strategy.advance()["step"] == 1  # the step begins anew
    yard.clock.advance(30.0)
    assert strategy.advance()["step"] == 2
    [record] = strategy.get_update_history()
    assert [e["actor"] for e in record["events"] if e["action"] == "pause"] == ["ana"]


def test_an_aborted_rollout_leaves_production_alone(yard, ids):
    strategy = yard.strategy()
    strategy.update_model(ids[1])
    assert strategy.abort(reason="mistake")["shares"] == {ids[0]: 1.0}
    assert yard.production() == ids[0]
    assert strategy.get_rollout() is None
    assert strategy.update_model(ids[1])["status"] == "running"


# Going back


def test_going_back_ends_the_rollout_that_runs(yard, ids):
    strategy = yard.strategy()
    strategy.update_model(ids[1])
    result = strategy.rollback(reason="losing money")
    assert result["rolled_back"]
    assert (result["from_version_id"], result["to_version_id"]) == (ids[1], ids[0])
    assert yard.production() == ids[0]
    [record] = strategy.get_update_history()
    assert (record["status"], record["reason"]) == ("rolled_back", "losing money")
    assert [alert["name"] for alert in yard.monitor.get_alerts("critical")] == ["rollback"]


def test_going_back_twice_goes_two_back_and_never_flip_flops(yard, ids):
    strategy = yard.strategy()
    for version_id in ids[1:3]:
        strategy.update_model(version_id, smooth_transition=False)
    targets = [strategy.rollback()["to_version_id"] for _ in range(4)]
    assert targets == [ids[1], ids[0], None, None]
    assert yard.production() == ids[0]


def test_going_back_passes_over_what_is_damaged(yard, ids):
    strategy = yard.strategy()
    for version_id in ids[1:3]:
        strategy.update_model(version_id, smooth_transition=False)
    yard.damage(ids[1])
    result = strategy.rollback(reason="losing money")
    assert (result["rolled_back"], result["to_version_id"]) == (True, ids[0])
    assert result["reason"].startswith(f"losing money; {ids[1]} was passed over: ")
    assert yard.production() == ids[0]


def test_a_damaged_version_does_not_become_production_by_the_clock(yard, ids):
    yard.damage(ids[1])
    with pytest.raises(IntegrityError):
        yard.strategy().update_model(ids[1])
    assert yard.strategy().get_rollout() is None


def test_nothing_to_go_back_to_is_a_critical_alert(yard, ids, caplog):
    strategy = yard.strategy()
    result = strategy.rollback()
    assert not result["rolled_back"]
    assert result["from_version_id"] == ids[0]
    assert "no earlier production" in result["reason"]
    [alert] = yard.monitor.get_alerts("critical")
    assert alert["message"] == result["reason"]
    assert caplog.records[-1].levelno == logging.CRITICAL


def test_an_earlier_version_that_is_gone_leaves_production_as_it_is(yard, ids, monkeypatch):
    strategy = yard.strategy()
    strategy.update_model(ids[1], smooth_transition=False)
    known = yard.registry.verify_version

    def removed(version_id):
        return known("ppo_v20200101_000000" if version_id == ids[0] else version_id)

    monkeypatch.setattr(yard.registry, "verify_version", removed)
    result = strategy.rollback()
    assert not result["rolled_back"]
    assert f"{ids[0]} was passed over: No version" in result["reason"]
    assert yard.production() == ids[1]
    assert strategy.get_rollout() is None


# Production moved by hand


def test_a_rollout_gives_way_to_a_production_named_by_hand(yard, ids):
    strategy = yard.strategy()
    strategy.update_model(ids[1])
    yard.registry.rollback_to_version(ids[2])
    state = strategy.advance()
    assert state["status"] == "aborted"
    assert state["reason"] == f"production was moved to {ids[2]} by someone else"
    assert yard.production() == ids[2]


def test_a_candidate_promoted_by_hand_is_promoted(yard, ids):
    strategy = yard.strategy()
    strategy.update_model(ids[1])
    yard.registry.set_alias("ppo", "production", ids[1])
    assert strategy.advance()["status"] == "promoted"
    assert strategy.rollback()["to_version_id"] == ids[0]


# Deciding


def test_nothing_is_due_before_any_data(yard, ids):
    strategy = yard.strategy()
    strategy.set_baseline()
    decision = strategy.should_update()
    assert not decision["should_update"]
    assert decision["reasons"] == []
    assert decision["blocked_by"] == "0 of 1000 predictions"
    assert not strategy.should_rollback()["should_rollback"]


def test_few_predictions_make_nothing_due(yard, ids):
    strategy = yard.strategy(min_samples=100)
    record(yard, 99, error=True)
    assert strategy.should_update()["blocked_by"] == "99 of 100 predictions"
    record(yard, 1, error=True)
    decision = strategy.should_update()
    assert decision["should_update"]
    assert decision["triggers"] == ["high_error_rate"]
    assert decision["n_samples"] == 100


def test_a_rollout_and_its_cooldown_block_the_next(yard, ids):
    strategy = yard.strategy(min_samples=100, cooldown_hours=24)
    record(yard, 100, error=True)
    strategy.update_model(ids[1])
    decision = strategy.should_update()
    assert not decision["should_update"]
    assert "is rolling out" in decision["blocked_by"]
    assert decision["triggers"] == ["high_error_rate"]
    strategy.abort()
    decision = strategy.should_update()
    assert "cooldown" in decision["blocked_by"]
    assert decision["cooldown_until"] is not None
    yard.clock.advance(24 * 3600 - 60)
    assert not strategy.should_update()["should_update"]
    yard.clock.advance(120)
    assert strategy.should_update()["should_update"]


def test_the_cooldown_binds_no_person(yard, ids):
    strategy = yard.strategy(cooldown_hours=24)
    strategy.update_model(ids[1], smooth_transition=False)
    assert strategy.update_model(ids[2])["status"] == "running"


def test_the_schedule_makes_an_update_due_once(yard, ids):
    strategy = yard.strategy(schedule="0 3 * * *", cooldown_hours=0)
    assert not strategy.should_update()["should_update"]
    yard.clock.advance(3 * 3600)
    decision = strategy.should_update()
    assert decision["should_update"]
    assert decision["triggers"] == ["scheduled"]
    strategy.update_model(ids[1], UpdateTrigger.SCHEDULED, smooth_transition=False)
    yard.clock.advance(60)
    assert not strategy.should_update()["should_update"]
    yard.clock.advance(24 * 3600)
    assert strategy.should_update()["should_update"]


def test_drift_that_is_not_calibrated_triggers_only_where_that_is_allowed(yard, ids, monkeypatch):
    verdict = {
        "is_drifted": True,
        "drift_score": 0.9,
        "effective_threshold": 0.3,
        "calibrated": False,
    }
    monkeypatch.setattr(yard.monitor, "detect_prediction_drift", lambda: verdict)
    record(yard, 100)
    assert not yard.strategy(min_samples=100).should_update()["should_update"]
    decision = yard.strategy(min_samples=100, allow_uncalibrated_drift=True).should_update()
    assert decision["triggers"] == ["distribution_drift"]


def test_drift_of_independent_data_triggers(yard, ids):
    strategy = yard.strategy(min_samples=500)
    record(yard, 1000)
    strategy.set_baseline()
    assert not strategy.should_update()["should_update"]
    record(yard, 1000, seed=1, shift=2.0)
    decision = strategy.should_update()
    assert decision["triggers"] == ["distribution_drift"]
    assert len(decision["reasons"]) == 2


def test_a_fallen_key_metric_triggers_and_then_rolls_back(yard, ids):
    strategy = yard.strategy(min_samples=100, key_metric="sharpe")
    record(yard, 1000, sharpe=1.0)
    strategy.set_baseline()
    record(yard, 1000, sharpe=0.75)
    assert strategy.should_update()["triggers"] == ["performance_degradation"]
    assert not strategy.should_rollback()["should_rollback"]
    record(yard, 1000, sharpe=0.6)
    decision = strategy.should_rollback()
    assert decision["should_rollback"]
    assert "sharpe fell from 1 to 0.6" in decision["reasons"][0]
    assert decision["evidence"]["now"]["key_metric"] == pytest.approx(0.6)


def test_a_baseline_outlives_its_process(yard, ids):
    strategy = yard.strategy(min_samples=100)
    record(yard, 200, latency=0.001)
    strategy.set_baseline()
    later = yard.again()
    record(later, 200, latency=0.003)
    assert "over 2 x the baseline of 1 ms" in later.strategy().should_rollback()["reasons"][0]


def test_a_baseline_armed_before_any_data_replaces_the_stored_one(yard, ids):
    strategy = yard.strategy()
    record(yard, 200)
    strategy.set_baseline()
    later = yard.again()
    later.strategy().set_baseline()
    record(later, 200, latency=1.0)
    assert not later.strategy().should_rollback()["should_rollback"]
