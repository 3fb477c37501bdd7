"""The life of an update where a deployment serves and measures both versions."""

from datetime import timedelta

import pytest
import torch

from modelyard._core.errors import StorageError, UntrustedClassError


@pytest.fixture
def deployment(yard, ids):
    return yard.deploy()


@pytest.fixture
def strategy(yard, deployment):
    return yard.strategy(deployment)


def is_over(strategy):
    return lambda: strategy.get_rollout() is None


# Taking up what is decided


def test_an_empty_deployment_serves_production_before_the_first_request(ids, deployment, strategy):
    assert deployment.shares() == {ids[0]: 1.0}


def test_without_production_the_first_update_is_direct(yard):
    [first] = yard.save(1)
    deployment = yard.deploy()
    strategy = yard.strategy(deployment)
    assert deployment.shares() == {}
    state = strategy.update_model(first)
    assert (state["status"], state["applied_to"]) == ("promoted", ["deployment"])
    assert deployment.shares() == {first: 1.0}


def test_production_that_cannot_be_loaded_is_an_error_at_the_start(yard):
    [version] = yard.save(1)
    yard.registry.rollback_to_version(version)
    yard.damage(version)
    with pytest.raises(Exception, match="blob"):
        yard.strategy(yard.deploy())


# Steps


@pytest.mark.slow
def test_samples_and_time_move_the_shares_and_then_production(
    yard, ids, deployment, strategy, ask
):
    state = strategy.update_model(ids[1])
    assert state["applied_to"] == ["deployment"]
    assert deployment.shares() == {ids[0]: 0.9, ids[1]: 0.1}
    answers = ask(deployment, 2000, until=is_over(strategy))
    assert yard.production() == ids[1]
    assert deployment.shares() == {ids[1]: 1.0}
    assert deployment.versions() == [ids[1]]
    assert all(answer.error is None for answer in answers)
    [record] = strategy.get_update_history(limit=1)
    shares = [e["detail"]["shares"].get(ids[1]) for e in record["events"]]
    assert shares == [0.1, 0.5, 1.0, 1.0, 1.0]
    judged = [e["detail"] for e in record["events"] if "n_at_step" in e["detail"]]
    assert all(detail["n_at_step"] >= 20 for detail in judged)


@pytest.mark.slow
def test_a_full_window_does_not_hide_new_answers(yard, ids, ask):
    # With more answers than the window holds, the count at each step must go on.
    deployment = yard.deploy(window_size=50)
    strategy = yard.strategy(deployment, transition_minutes=30.0)
    strategy.update_model(ids[1])
    ask(deployment, 5000, seconds=2.0, until=is_over(strategy))
    assert yard.production() == ids[1]
    assert deployment.n_answers(ids[1]) > 200


@pytest.mark.slow
def test_time_alone_promotes_nobody(yard, ids, deployment, strategy, ask):
    strategy.update_model(ids[1])
    yard.clock.advance(300.0)
    assert strategy.advance()["step"] == 1
    yard.clock.advance(1.0)
    state = strategy.advance()
    assert state["status"] == "paused"
    assert "too little traffic: 0 of 20" in state["reason"]
    assert deployment.shares() == {ids[0]: 0.9, ids[1]: 0.1}
    assert strategy.resume()["status"] == "running"
    ask(deployment, 2000, until=is_over(strategy))
    assert yard.production() == ids[1]


@pytest.mark.slow
@pytest.mark.parametrize("hours", [1, -1, 24 * 365])
def test_a_clock_that_is_set_neither_ends_a_step_or_a_bake_nor_holds_it_up(
    yard, ids, ask, monkeypatch, hours
):
    deployment = yard.deploy()
    strategy = yard.strategy(deployment, transition_minutes=10.0, bake_minutes=20.0)
    strategy.update_model(ids[1])
    ask(deployment, 60)
    now, began_s = yard.clock.now, yard.clock.monotonic_s()
    monkeypatch.setattr(yard.clock, "now", lambda: now() + timedelta(hours=hours))
    ask(deployment, 3000, until=lambda: strategy.get_rollout()["status"] == "baking")
    assert yard.clock.monotonic_s() - began_s == pytest.approx(540.0, abs=60.0)
    monkeypatch.setattr(yard.clock, "now", now)
    began_s = yard.clock.monotonic_s()
    ask(deployment, 3000, until=is_over(strategy))
    assert yard.clock.monotonic_s() - began_s == pytest.approx(1200.0, abs=15.0)


# Going back by itself


@pytest.mark.parametrize("how", ["fails", "nan", "inf"])
def test_a_failing_candidate_is_undone_and_nobody_notices(
    yard, ids, deployment, strategy, ask, gone_wrong, how
):
    deployment.add_version(ids[1], gone_wrong(how))
    strategy.update_model(ids[1])
    answers = ask(deployment, 500, until=is_over(strategy))
    assert deployment.shares() == {ids[0]: 1.0}
    assert deployment.versions() == [ids[0]]
    assert yard.production() == ids[0]
    assert all(answer.version_id == ids[0] for answer in answers)
    rescued = [answer for answer in answers if answer.error is not None]
    assert {answer.routed_to for answer in rescued} == {ids[1]}
    [record] = strategy.get_update_history(limit=1)
    assert record["status"] == "rolled_back"
    assert record["reason"].startswith("error rate 100.0%")
    assert yard.monitor.get_alerts("critical")[0]["message"].startswith(ids[1])


@pytest.mark.slow
def test_a_slow_candidate_is_undone(yard, ids, deployment, strategy, ask, gone_wrong):
    deployment.add_version(ids[1], gone_wrong("slow"))
    strategy.update_model(ids[1])
    ask(deployment, 3000, until=is_over(strategy))
    [record] = strategy.get_update_history(limit=1)
    assert record["status"] == "rolled_back"
    assert "median latency" in record["reason"]


@pytest.mark.slow
def test_a_candidate_with_a_poor_key_metric_is_undone(yard, ids, deployment, ask):
    strategy = yard.strategy(deployment, key_metric="sharpe", transition_minutes=60.0)
    strategy.update_model(ids[1])
    for i in range(3000):
        [answer] = ask(deployment, 1, first_user=i)
        good = 1.0 if answer.version_id == ids[0] else 0.5
        deployment.record_outcome(answer.request_id, {"sharpe": good})
        if strategy.get_rollout() is None:
            break
    [record] = strategy.get_update_history(limit=1)
    assert record["status"] == "rolled_back"
    assert record["reason"] == "sharpe fell from 1 to 0.5 (50%, over 20 values)"


@pytest.mark.slow
@pytest.mark.parametrize("candidates", [None, float("nan")])
def test_a_candidate_without_a_value_of_the_key_metric_is_not_promoted(
    yard, ids, deployment, ask, candidates
):
    strategy = yard.strategy(deployment, key_metric="sharpe")
    strategy.update_model(ids[1])
    for i in range(1000):
        [answer] = ask(deployment, 1, first_user=i)
        value = 1.0 if answer.version_id == ids[0] else candidates
        if value is not None:
            deployment.record_outcome(answer.request_id, {"sharpe": value})
        if strategy.get_rollout()["status"] == "paused":
            break
    state = strategy.get_rollout()
    assert (state["status"], state["step"]) == ("paused", 1)
    assert state["reason"] == "no outcomes: 0 values of sharpe from the candidate"
    assert yard.production() == ids[0]


@pytest.mark.slow
def test_outcomes_that_come_late_are_waited_for(yard, ids, deployment, ask):
    strategy = yard.strategy(deployment, key_metric="sharpe")
    strategy.update_model(ids[1])
    answer = next(a for a in ask(deployment, 20) if a.version_id == ids[0])
    deployment.record_outcome(answer.request_id, {"sharpe": 1.0})
    late = ask(deployment, 280, first_user=20)
    assert strategy.get_rollout()["step"] == 1
    for answer in late:
        deployment.record_outcome(answer.request_id, {"sharpe": 1.0})
    yard.clock.advance(1.0)
    assert strategy.advance()["step"] == 2


@pytest.mark.slow
def test_a_key_metric_that_nobody_reports_blocks_nothing_and_is_told(yard, ids, deployment, ask):
    strategy = yard.strategy(deployment, key_metric="sharpe")
    strategy.update_model(ids[1])
    ask(deployment, 2000, until=is_over(strategy))
    [record] = strategy.get_update_history(limit=1)
    assert record["status"] == "promoted"
    assert record["reason"] == "every step passed; no values of sharpe were reported"


@pytest.mark.slow
def test_production_is_judged_by_the_deployments_own_measurements(
    yard, ids, deployment, ask, gone_wrong
):
    strategy = yard.strategy(deployment, key_metric="sharpe", min_samples=50)
    for i in range(300):
        yard.monitor.record_prediction([0.0], 1e-5, [0.0] * 4)
        yard.monitor.record_metric("sharpe", 1.0)
        [answer] = ask(deployment, 1, first_user=i)
        deployment.record_outcome(answer.request_id, {"sharpe": 0.5})
    strategy.set_baseline()
    decision = strategy.should_rollback()
    assert "sharpe fell from 1 to 0.5 (50%, over 300 values)" in decision["reasons"]
    assert "performance_degradation" in strategy.should_update()["triggers"]
    deployment.add_version(ids[1], gone_wrong("fails"))
    strategy.update_model(ids[1], smooth_transition=False)
    for i in range(20):
        yard.clock.advance(1.0)
        deployment.predict(torch.ones(1, 4), user_id=str(i), fallback=None)
    reasons = strategy.should_rollback()["reasons"]
    assert any(reason.startswith("error rate 100.0% (20 of 20)") for reason in reasons)


def test_drift_comes_from_productions_own_monitor_once_it_has_a_baseline(yard, ids, deployment, x):
    strategy = yard.strategy(deployment, min_samples=200)

    def send(shift):
        rng = torch.Generator().manual_seed(0)
        for _ in range(1000):
            deployment.predict(torch.randn(1, 4, generator=rng) + shift)

    send(0.0)
    deployment.monitor(ids[0]).set_baseline()
    assert strategy.should_update()["triggers"] == []
    send(3.0)
    assert "distribution_drift" in strategy.should_update()["triggers"]


def test_without_automatic_rollback_a_person_decides(yard, ids, deployment, ask, gone_wrong):
    strategy = yard.strategy(deployment, auto_rollback=False)
    deployment.add_version(ids[1], gone_wrong("fails"))
    strategy.update_model(ids[1])
    ask(deployment, 300, until=lambda: strategy.get_rollout()["status"] == "paused")
    assert strategy.get_rollout()["status"] == "paused"
    assert strategy.should_rollback()["should_rollback"]
    assert strategy.rollback()["rolled_back"]
    assert deployment.shares() == {ids[0]: 1.0}


def test_the_guard_stays_on_while_paused(yard, ids, deployment, strategy, ask, gone_wrong):
    deployment.add_version(ids[1], gone_wrong("fails"))
    strategy.update_model(ids[1])
    strategy.pause()
    ask(deployment, 300, until=is_over(strategy))
    assert strategy.get_update_history(limit=1)[0]["status"] == "rolled_back"


def test_going_back_after_promotion_loads_and_serves_the_earlier_version(
    yard, ids, deployment, strategy
):
    strategy.update_model(ids[1], smooth_transition=False)
    assert deployment.versions() == [ids[1]]
    assert strategy.rollback()["applied_to"] == ["deployment"]
    assert deployment.shares() == {ids[0]: 1.0}
    assert deployment.versions() == [ids[0]]
    assert yard.production() == ids[0]


# What cannot be served


@pytest.mark.parametrize("smooth", [True, False])
def test_a_damaged_version_begins_nothing(yard, ids, deployment, strategy, smooth):
    yard.damage(ids[1])
    strategy.update_model(ids[2])
    with pytest.raises(OSError, match="blob"):
        strategy.update_model(ids[1], smooth_transition=smooth, supersede=True)
    assert strategy.get_rollout()["new_version_id"] == ids[2]
    assert deployment.shares() == {ids[0]: 0.9, ids[2]: 0.1}


def test_a_version_of_unknown_classes_begins_nothing(yard, ids, strategy, monkeypatch):
    def refuse(*_, **__):
        raise UntrustedClassError("nobody vouched for it")

    monkeypatch.setattr(yard.registry, "load_model", refuse)
    with pytest.raises(UntrustedClassError):
        strategy.update_model(ids[1])
    assert strategy.get_update_history() == []


def test_a_candidate_damaged_midway_is_undone_by_the_next_process(yard, ids, strategy, ask):
    strategy.update_model(ids[1])
    yard.damage(ids[1])
    later = yard.again()
    deployment = later.deploy()
    strategy = later.strategy(deployment)
    assert deployment.shares() == {ids[0]: 1.0}
    assert all(answer.version_id == ids[0] for answer in ask(deployment, 30))
    [record] = strategy.get_update_history(limit=1)
    assert record["status"] == "rolled_back"
    assert "cannot be served" in record["reason"]
    assert later.production() == ids[0]


@pytest.mark.slow
def test_a_new_process_serves_the_shares_it_finds_before_its_first_request(
    yard, ids, deployment, strategy, ask
):
    strategy.update_model(ids[1])
    ask(deployment, 2000, until=lambda: strategy.get_rollout()["step"] == 2)
    later = yard.again()
    another = later.deploy()
    strategy = later.strategy(another)
    assert another.shares() == {ids[0]: 0.5, ids[1]: 0.5}
    # An hour without traffic is no reason to pause: this process has to measure first.
    ask(another, 5)
    assert strategy.get_rollout()["status"] == "running"
    ask(another, 2000, until=is_over(strategy))
    assert later.production() == ids[1]
    assert another.versions() == [ids[1]]


# Production named by hand


@pytest.mark.parametrize("during_rollout", [False, True])
def test_what_serves_follows_the_pointer(yard, ids, deployment, strategy, ask, during_rollout):
    if during_rollout:
        strategy.update_model(ids[1])
        ask(deployment, 5)
    yard.registry.rollback_to_version(ids[2])
    ask(deployment, 2)
    assert deployment.shares() == {ids[2]: 1.0}
    assert deployment.versions() == [ids[2]]
    assert strategy.get_rollout() is None


def test_a_production_named_by_hand_that_cannot_be_served_is_an_alert(
    yard, ids, deployment, strategy, ask
):
    yard.registry.set_alias("ppo", "production", ids[2])
    yard.damage(ids[2])
    ask(deployment, 5)
    assert deployment.shares() == {ids[0]: 1.0}
    [alert] = yard.monitor.get_alerts("critical")
    assert "is production and cannot be served" in alert["message"]
    assert alert["count"] == 1


# The store out of reach


@pytest.mark.slow
def test_requests_are_answered_while_the_store_is_out_of_reach(
    yard, ids, deployment, strategy, ask, monkeypatch, caplog
):
    strategy.update_model(ids[1])
    database = type(yard.registry.store.database)

    def unreachable(_):
        raise StorageError("the disk is gone")

    with monkeypatch.context() as broken:
        broken.setattr(database, "reading", unreachable)
        broken.setattr(database, "writing", unreachable)
        answers = ask(deployment, 50)
        assert len(answers) == 50
        with pytest.raises(StorageError):
            strategy.advance()
    assert deployment.shares() == {ids[0]: 0.9, ids[1]: 0.1}
    # Looked at fifty times in fifty seconds, told once.
    assert sum("could not advance: the disk is gone" in r.message for r in caplog.records) == 1
    ask(deployment, 2000, until=is_over(strategy))
    assert yard.production() == ids[1]


@pytest.mark.slow
@pytest.mark.parametrize("broken", [["reading", "writing"], ["writing"]])
def test_a_bad_candidate_answers_nobody_though_the_store_is_out_of_reach(
    yard, ids, deployment, strategy, ask, monkeypatch, gone_wrong, broken
):
    deployment.add_version(ids[1], gone_wrong("fails"))
    strategy.update_model(ids[1])
    database = type(yard.registry.store.database)

    def unreachable(_):
        raise StorageError("the network is gone")

    with monkeypatch.context() as partition:
        for method in broken:
            partition.setattr(database, method, unreachable)
        ask(deployment, 300)
        later = ask(deployment, 100, first_user=300)
        assert {(answer.version_id, answer.error) for answer in later} == {(ids[0], None)}
    answers = ask(deployment, 100, first_user=400, until=is_over(strategy))
    assert {answer.version_id for answer in answers} == {ids[0]}
    [record] = strategy.get_update_history(limit=1)
    assert record["status"] == "rolled_back"
    ask(deployment, 5)
    assert deployment.versions() == [ids[0]]
    strategy.update_model(ids[2])  # the next one gets its share again
    answers = ask(deployment, 100, first_user=600)
    assert ids[2] in {answer.version_id for answer in answers}


def test_nothing_that_a_look_raises_reaches_a_request(deployment, strategy, ask, monkeypatch):
    def broken():
        raise ZeroDivisionError

    monkeypatch.setattr(strategy, "advance", broken)
    assert len(ask(deployment, 20)) == 20
