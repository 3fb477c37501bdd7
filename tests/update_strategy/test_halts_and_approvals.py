"""What people do to a rollout, and what it waits for."""

from datetime import UTC, datetime

import pytest

from modelyard._core.clock import ManualClock
from modelyard._core.errors import (
    ConfigError,
    ConflictError,
    NotFoundError,
    RolloutInProgressError,
)
from modelyard.monitor import ModelMonitor
from modelyard.update_strategy import UpdateStrategy


@pytest.fixture
def deployment(yard, ids):
    return yard.deploy()


def state_is(strategy, status):
    return lambda: (strategy.get_rollout() or {"status": "none"})["status"] == status


def over(strategy):
    return lambda: strategy.get_rollout() is None


@pytest.mark.slow
def test_a_step_that_needs_it_waits_for_approval_and_the_guard_stays_on(
    yard, ids, deployment, ask, gone_wrong
):
    strategy = yard.strategy(deployment, approval_steps=[50, 100])
    strategy.update_model(ids[1])
    ask(deployment, 1000, until=state_is(strategy, "waiting"))
    assert strategy.get_rollout()["shares"][ids[1]] == 0.1
    yard.clock.advance(1e6)
    ask(deployment, 20)
    assert state_is(strategy, "waiting")()
    assert strategy.approve(actor="ana", reason="looks well")["step"] == 2
    assert strategy.approve() is None  # nothing waits now
    ask(deployment, 1000, until=state_is(strategy, "waiting"))
    deployment._routing.served[ids[1]].optimizer.set_model(gone_wrong("fails"))
    ask(deployment, 300, until=over(strategy))
    [record] = strategy.get_update_history(limit=1)
    assert record["status"] == "rolled_back"
    [approval] = [event for event in record["events"] if event["action"] == "approve"]
    assert (approval["actor"], approval["detail"]["reason"]) == ("ana", "looks well")


def test_promoted_by_hand_it_is_watched_all_the_same(yard, ids, deployment, ask, gone_wrong):
    strategy = yard.strategy(deployment, bake_minutes=5.0)
    strategy.update_model(ids[1])
    ask(deployment, 5)
    assert strategy.promote(actor="ana")["status"] == "baking"
    assert yard.production() == ids[1]
    assert set(deployment.versions()) == {ids[0], ids[1]}  # the one before is kept
    deployment._routing.served[ids[1]].optimizer.set_model(gone_wrong("fails"))
    answers = ask(deployment, 300, until=over(strategy))
    assert {answer.version_id for answer in answers} == {ids[0]}
    assert yard.production() == ids[0]
    assert strategy.get_update_history(1)[0]["status"] == "rolled_back"


@pytest.mark.slow
def test_a_bake_that_holds_ends_and_frees_the_version_before(yard, ids, deployment, ask):
    strategy = yard.strategy(deployment, bake_minutes=2.0)
    strategy.update_model(ids[1], smooth_transition=False)
    assert state_is(strategy, "baking")()
    ask(deployment, 100)
    assert state_is(strategy, "baking")()
    ask(deployment, 100, until=over(strategy))
    assert deployment.versions() == [ids[1]]
    assert strategy.get_update_history(1)[0]["status"] == "promoted"


def test_a_rollback_in_the_bake_goes_back_and_a_new_update_ends_it(yard, ids, deployment, ask):
    strategy = yard.strategy(deployment, bake_minutes=60.0)
    strategy.update_model(ids[1], smooth_transition=False)
    assert strategy.rollback()["to_version_id"] == ids[0]
    assert yard.production() == ids[0]
    strategy.update_model(ids[1], smooth_transition=False)
    with pytest.raises(RolloutInProgressError):
        strategy.update_model(ids[2])
    strategy.update_model(ids[2], supersede=True)
    assert yard.production() == ids[1]  # what was watched stays production
    statuses = [record["status"] for record in strategy.get_update_history()]
    assert statuses == ["running", "promoted", "rolled_back"]


@pytest.mark.parametrize("status", ["shadow", "baking"])
def test_a_pause_is_taken_up_where_it_was(yard, ids, deployment, ask, status):
    strategy = yard.strategy(deployment, bake_minutes=60.0, shadow_minutes=5.0)
    strategy.update_model(ids[1], smooth_transition=status == "shadow")
    ask(deployment, 5)
    assert state_is(strategy, status)()
    shares = strategy.get_rollout()["shares"]
    assert strategy.pause()["status"] == "paused"
    yard.clock.advance(1e6)
    ask(deployment, 5)
    assert strategy.get_rollout()["shares"] == shares
    assert strategy.resume()["status"] == status


def test_copies_of_requests_come_first_where_wanted(yard, ids, deployment, ask):
    strategy = yard.strategy(deployment, shadow_minutes=0.5)
    strategy.update_model(ids[1])
    answers = []
    for i in range(200):
        answers += ask(deployment, 1, first_user=i)
        deployment._routing.shadow and deployment._routing.shadow.drain()
        if state_is(strategy, "running")():
            break
    assert {answer.version_id for answer in answers} == {ids[0]}
    assert len(answers) >= 30
    assert deployment.shadow_comparison() is None
    assert deployment.shares()[ids[1]] == 0.1


@pytest.mark.slow
def test_outside_its_windows_a_rollout_waits_and_a_rollback_does_not(tmp_path, yard_in, ask):
    yard = yard_in(str(tmp_path / "m"), ManualClock(datetime(2024, 1, 3, 12, 0, tzinfo=UTC)))
    ids = yard.save(2)
    yard.registry.rollback_to_version(ids[0])
    deployment = yard.deploy()
    strategy = yard.strategy(deployment, update_windows=["13:00-13:05"], min_samples=100)
    assert strategy.update_model(ids[1])["status"] == "pending"
    ask(deployment, 60)
    assert deployment.shares() == {ids[0]: 1.0}
    yard.clock.advance(3600.0 - 60.0)
    ask(deployment, 3)
    assert deployment.shares()[ids[1]] == 0.1
    yard.clock.advance(600.0)
    ask(deployment, 400)
    assert strategy.get_rollout()["step"] == 1  # the window has closed again
    assert strategy.rollback()["rolled_back"]
    assert deployment.shares() == {ids[0]: 1.0}
    yard.clock.advance(80 * 3600.0)
    assert "outside the update windows until" in strategy.should_update()["blocked_by"]


@pytest.mark.slow
def test_a_halt_stops_everything_in_every_process(yard, ids, deployment, ask):
    ours = yard.strategy(deployment)
    theirs = UpdateStrategy(
        yard.registry, ModelMonitor("ppo", clock=yard.clock), is_remote=True, clock=yard.clock
    )
    ours.update_model(ids[1])
    theirs.halt(reason="exchange outage", actor="ana")
    ask(deployment, 5)
    answers = ask(deployment, 100, first_user=5)
    assert {answer.version_id for answer in answers} == {ids[0]}
    assert ours.get_rollout()["status"] == "paused"
    with pytest.raises(ConflictError, match=r"ana has stopped all updates.*exchange outage"):
        ours.update_model(ids[2], supersede=True)
    assert ours.rollback()["rolled_back"]  # going back stays possible
    assert "ana has stopped all updates" in ours.should_update()["blocked_by"]
    theirs.release()
    ask(deployment, 5)
    assert ours.update_model(ids[2])["status"] == "running"


def test_after_a_rollback_the_cooldown_is_longer_and_three_in_a_row_need_a_person(
    yard, ids, deployment
):
    strategy = yard.strategy(deployment, cooldown_hours=1.0, rollback_cooldown_hours=10.0)
    for _ in range(3):
        strategy.update_model(ids[1])
        strategy.rollback(reason="bad")
        yard.clock.advance(2 * 3600.0)
    assert "3 updates were rolled back" in strategy.should_update()["blocked_by"]
    strategy.update_model(ids[2], smooth_transition=False)
    yard.clock.advance(2 * 3600.0)
    blocked = strategy.should_update()["blocked_by"]
    assert "predictions" in blocked  # the cooldown of a success is over
    strategy.update_model(ids[3])
    strategy.rollback(reason="bad")
    yard.clock.advance(2 * 3600.0)
    assert "cooldown" in strategy.should_update()["blocked_by"]


def test_the_candidate_is_the_best_that_has_not_just_failed(yard, ids, deployment):
    strategy = yard.strategy(deployment, key_metric="sharpe", rollback_cooldown_hours=10.0)
    assert strategy.choose_candidate() == ids[3]
    strategy.update_model(ids[3])
    strategy.rollback(reason="bad")
    assert strategy.choose_candidate() == ids[2]
    assert strategy.choose_candidate("sharpe", direction="lower") is None
    yard.clock.advance(11 * 3600.0)
    assert strategy.choose_candidate() == ids[3]
    with pytest.raises(ConfigError, match="metric"):
        yard.strategy(deployment).choose_candidate()


@pytest.mark.slow
def test_a_rollout_is_told_in_sentences(yard, ids, deployment, ask):
    strategy = yard.strategy(deployment)
    with pytest.raises(NotFoundError):
        strategy.explain()
    strategy.update_model(ids[1])
    ask(deployment, 3000, until=over(strategy))
    told = strategy.explain()
    assert told[0].endswith("(manual): promoted.")
    assert any("took the next step" in sentence and "failed" in sentence for sentence in told)
    rollout_id = strategy.get_update_history(1)[0]["rollout_id"]
    assert strategy.explain(rollout_id) == told
    with pytest.raises(NotFoundError, match="nothing"):
        strategy.explain("nothing")
