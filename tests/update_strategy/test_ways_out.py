"""What a rollout must never do, and what there always is a way out of."""

import threading
from datetime import timedelta

import pytest
import torch

from modelyard._core.clock import SystemClock
from modelyard._core.errors import ConfigError, ConflictError
from modelyard.deployment import Deployment
from modelyard.monitor import ModelMonitor
from modelyard.update_strategy import UpdateStrategy, UpdateTrigger
from modelyard.update_strategy.history import RolloutLog


@pytest.fixture
def deployment(yard, ids):
    return yard.deploy()


def over(strategy):
    return lambda: strategy.get_rollout() is None


def answered_by(deployment, x, n=100):
    return {deployment.predict(x, user_id=f"w{i}").version_id for i in range(n)}


def last(strategy):
    return strategy.get_update_history(limit=1)[0]


def actions(strategy):
    return [event["action"] for event in last(strategy)["events"]]


# Ends


@pytest.mark.slow
def test_a_bake_ends_once_and_the_cooldown_counts_from_then(yard, ids, deployment, ask):
    strategy = yard.strategy(deployment, bake_minutes=20.0, cooldown_hours=1.0)
    strategy.update_model(ids[1], smooth_transition=False)
    ask(deployment, 1300, until=over(strategy))
    assert last(strategy)["finished_at"] == yard.clock.now().isoformat()
    assert actions(strategy) == ["start", "bake", "promoted"]
    until = strategy.should_update()["cooldown_until"]
    assert until == (yard.clock.now() + timedelta(hours=1)).isoformat()


def test_a_cooldown_from_a_clock_that_ran_a_year_ahead_lasts_no_longer_than_any(
    yard, ids, deployment, monkeypatch
):
    strategy = yard.strategy(deployment, cooldown_hours=24.0, schedule="0 * * * *")
    now = yard.clock.now
    with monkeypatch.context() as ahead:
        ahead.setattr(yard.clock, "now", lambda: now() + timedelta(days=365))
        strategy.update_model(ids[1], smooth_transition=False)
        assert yard.production() == ids[1]
    decision = strategy.should_update()
    assert decision["cooldown_until"] == (now() + timedelta(hours=24)).isoformat()
    yard.clock.advance(23 * 3600.0)
    assert strategy.should_update()["cooldown_until"] == decision["cooldown_until"]
    yard.clock.advance(2 * 3600.0)
    decision = strategy.should_update()
    assert (decision["should_update"], decision["triggers"]) == (True, ["scheduled"])


# Halts


@pytest.mark.slow
@pytest.mark.parametrize("bake_minutes", [0.0, 10.0])
def test_nothing_is_promoted_while_updates_are_stopped(
    yard, ids, deployment, ask, x, bake_minutes
):
    strategy = yard.strategy(deployment, bake_minutes=bake_minutes, approval_steps=[50])
    strategy.update_model(ids[1])
    ask(deployment, 2000, until=lambda: strategy.get_rollout()["status"] == "waiting")
    strategy._log.set_halt(None, actor="x", reason="x", now=yard.clock.now())  # none: no matter
    assert strategy.halt(reason="emergency", actor="eve")["status"] == "paused"
    assert strategy.approve() is None
    for command in (strategy.promote, strategy.resume):
        with pytest.raises(ConflictError, match=r"eve has stopped all updates.*emergency"):
            command()
    assert yard.production() == ids[0]
    assert answered_by(deployment, x) == {ids[0]}


@pytest.mark.slow
def test_a_bake_is_not_ended_while_updates_are_stopped(yard, ids, deployment, ask, x):
    strategy = yard.strategy(deployment, bake_minutes=1.0)
    strategy.update_model(ids[1], smooth_transition=False)
    strategy.halt(reason="emergency")
    for command in (strategy.promote, strategy.resume):
        with pytest.raises(ConflictError):
            command()
    ask(deployment, 120)
    assert strategy.get_rollout()["status"] == "paused"
    assert answered_by(deployment, x) == {ids[0]}
    assert strategy.rollback()["to_version_id"] == ids[0]  # going back stays possible
    assert yard.production() == ids[0]


def test_a_promotion_that_a_halt_overtook_is_left_standing(yard, ids, deployment, ask, x):
    strategy = yard.strategy(deployment)
    remote = UpdateStrategy(
        yard.registry, ModelMonitor("ppo", clock=yard.clock), is_remote=True, clock=yard.clock
    )
    strategy.update_model(ids[1])
    ask(deployment, 5)
    assert remote.promote()["status"] == "promoting"
    assert remote.halt(reason="emergency")["status"] == "promoting"
    ask(deployment, 5, seconds=2.0)
    assert yard.production() == ids[0]
    assert answered_by(deployment, x) == {ids[0]}
    assert remote.release()
    ask(deployment, 5, seconds=2.0)
    assert yard.production() == ids[1]


def test_who_stopped_updates_and_who_allowed_them_is_in_the_audit(yard, ids, deployment):
    strategy = yard.strategy(deployment)
    strategy.update_model(ids[1])
    strategy.halt(reason="first", actor="eve")
    strategy.halt(reason="second", actor="bob")
    assert strategy.release(reason="mended", actor="ann")
    assert not strategy.release()
    found = [
        (event["action"], event["actor"], event["detail"]["reason"])
        for event in yard.registry.get_history("ppo")
        if event["action"] in {"halt", "release"}
    ]
    assert found == [
        ("halt", "eve", "first"),
        ("halt", "bob", "second"),
        ("release", "ann", "mended"),
    ]
    assert [a for a in actions(strategy) if a in {"halt", "release"}] == [
        "halt",
        "halt",
        "release",
    ]
    assert yard.registry.verify()["problems"] == []


# Going back


def test_a_rollback_passes_over_a_target_that_does_not_load(yard, ids, deployment):
    strategy = yard.strategy(deployment, bake_minutes=60.0)
    strategy.update_model(ids[1], smooth_transition=False)
    strategy.promote()
    strategy.update_model(ids[2], smooth_transition=False)
    yard.damage(ids[1])
    later = yard.again(after_s=60.0)
    another = later.deploy()
    strategy = later.strategy(another, bake_minutes=60.0)
    result = strategy.rollback(reason="losing money")
    assert (result["rolled_back"], result["to_version_id"]) == (True, ids[0])
    assert f"{ids[1]} was passed over" in result["reason"]
    assert later.production() == ids[0]
    assert another.shares() == {ids[0]: 1.0}


@pytest.fixture
def stuck(yard, ids, deployment):
    """A watched version whose only predecessor is damaged, in a new process."""
    strategy = yard.strategy(deployment, bake_minutes=60.0)
    strategy.update_model(ids[1], smooth_transition=False)
    yard.damage(ids[0])
    later = yard.again(after_s=60.0)
    another = later.deploy()
    return later, another, later.strategy(another, bake_minutes=60.0)


def test_where_nothing_serves_it_stays_paused_with_an_alert(stuck, ids, ask):
    yard, deployment, strategy = stuck
    result = strategy.rollback(reason="losing money")
    assert not result["rolled_back"]
    assert "has to go back and cannot: losing money" in result["reason"]
    assert strategy.get_rollout()["status"] == "paused"
    assert deployment.shares() == {ids[1]: 1.0}
    [alert] = yard.monitor.get_alerts("critical")
    assert "cannot" in alert["message"]
    ask(deployment, 20)
    assert strategy.get_rollout()["status"] == "paused"


@pytest.mark.slow
def test_the_guard_that_cannot_go_back_says_so_once(stuck, ids, ask, gone_wrong):
    yard, deployment, strategy = stuck
    deployment._routing.served[ids[1]].optimizer.set_model(gone_wrong("fails"))
    for i in range(200):
        yard.clock.advance(1.0)
        deployment.predict(torch.ones(1, 4), user_id=str(i), fallback=None)
    assert strategy.get_rollout()["status"] == "paused"
    assert actions(strategy)[-1] == "cannot_roll_back"
    assert actions(strategy).count("cannot_roll_back") == 1


@pytest.mark.slow
@pytest.mark.parametrize("way_out", ["promote", "supersede", "abort then supersede"])
def test_there_is_a_way_out(stuck, ids, way_out):
    _, deployment, strategy = stuck
    strategy.rollback()
    if way_out == "promote":
        assert strategy.promote()["status"] == "promoted"
        return
    if way_out.startswith("abort"):
        assert strategy.abort()["status"] == "paused"
    strategy.update_model(ids[2], supersede=True)
    assert deployment.shares() == {ids[1]: 0.9, ids[2]: 0.1}


def test_a_rollback_that_was_written_and_cannot_be_done_is_left(stuck, ids, yard):
    later, _, strategy = stuck
    log = strategy._log
    rollout = log.current()
    log.change(
        type(rollout).from_plain({**rollout.to_plain(), "status": "rolling_back"}),
        action="roll_back",
        actor="an older process",
        now=later.clock.now(),
        detail={},
    )
    later.clock.advance(60.0)
    assert strategy.advance()["status"] == "paused"
    strategy.update_model(ids[2], supersede=True)
    assert strategy.get_rollout()["new_version_id"] == ids[2]


def test_two_that_roll_back_at_once_go_back_once(yard, ids, deployment, monkeypatch):
    strategy = yard.strategy(deployment, bake_minutes=60.0)
    strategy.update_model(ids[1], smooth_transition=False)
    strategy.promote()
    strategy.update_model(ids[2], smooth_transition=False)
    other = yard.again(after_s=0.0)
    theirs = other.strategy(other.deploy(), bake_minutes=60.0)
    original = yard.registry.set_alias

    def set_alias(*arguments, **options):
        moved = original(*arguments, **options)
        monkeypatch.setattr(yard.registry, "set_alias", original)
        theirs.rollback(reason="theirs")
        return moved

    monkeypatch.setattr(yard.registry, "set_alias", set_alias)
    assert strategy.rollback(reason="ours")["to_version_id"] == ids[1]
    assert yard.production() == ids[1]


# Beginning


@pytest.mark.parametrize(("steps", "share"), [([10.0, 50.0, 100.0], 10.0), ([100.0], 100.0)])
def test_the_first_share_waits_for_its_approval(yard, ids, deployment, ask, x, steps, share):
    strategy = yard.strategy(deployment, steps=steps, approval_steps=[share])
    state = strategy.update_model(ids[1])
    assert (state["status"], state["step"], state["shares"]) == ("waiting", 0, {ids[0]: 1.0})
    ask(deployment, 50)
    assert answered_by(deployment, x) == {ids[0]}
    state = strategy.approve()
    assert (state["step"], state["shares"][ids[1]]) == (1, share / 100.0)


@pytest.mark.slow
def test_the_first_share_waits_for_its_approval_after_the_shadow_too(yard, ids, deployment, ask):
    strategy = yard.strategy(deployment, shadow_minutes=0.5, approval_steps=[10])
    strategy.update_model(ids[1])
    for i in range(200):
        ask(deployment, 1, first_user=i)
        if deployment._routing.shadow is not None:
            deployment._routing.shadow.drain()
    state = strategy.get_rollout()
    assert (state["status"], state["step"]) == ("waiting", 0)
    assert "copies of requests were answered well; 10% of the traffic waits" in state["reason"]
    assert strategy.approve()["shares"][ids[1]] == 0.1


def test_a_start_that_fails_frees_what_it_loaded(yard, ids, deployment, monkeypatch):
    strategy = yard.strategy(deployment)

    def full(*_, **__):
        raise OSError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(RolloutLog, "start", full)
        with pytest.raises(OSError, match="disk full"):
            strategy.update_model(ids[1])
    assert deployment.versions() == [ids[0]]
    assert strategy.update_model(ids[1])["status"] == "running"


def test_a_window_that_holds_too_little_is_refused(yard, ids, caplog):
    with pytest.raises(ConfigError, match=r"step_min_samples=50 is more than.*window_size=40"):
        yard.strategy(yard.deploy(window_size=40), step_min_samples=50)
    yard.strategy(yard.deploy(window_size=100), step_min_samples=50)
    assert "95th percentiles of latencies are never compared: they need 500" in caplog.text


# What is compared


@pytest.mark.slow
def test_steps_without_a_stable_version_say_that_nothing_was_compared(yard, ids, deployment, ask):
    strategy = yard.strategy(deployment, steps=[100.0])
    strategy.update_model(ids[1])
    ask(deployment, 300, until=over(strategy))
    assert "nothing was compared" in last(strategy)["reason"]
    assert "nothing was compared" in strategy.explain()[-1]


@pytest.mark.slow
def test_a_step_waits_for_the_stable_versions_answers(yard, ids, deployment, ask):
    strategy = yard.strategy(deployment, steps=[90.0, 100.0])
    strategy.update_model(ids[1])
    ask(deployment, 60)
    assert strategy.get_rollout()["step"] == 1  # 20 answers of the candidate, six of the other
    ask(deployment, 2000, until=over(strategy), first_user=60)
    assert last(strategy)["status"] == "promoted"
    assert "nothing was compared" not in last(strategy)["reason"]


@pytest.mark.slow
def test_errors_of_before_the_rollout_excuse_no_candidate(yard, ids, deployment, gone_wrong, x):
    strategy = yard.strategy(
        deployment, steps=[50.0, 100.0], error_margin=0.05, step_min_samples=50
    )
    stable = deployment._routing.served[ids[0]].optimizer
    module = stable.model
    stable.set_model(gone_wrong("nan"))
    for i in range(400):
        deployment.predict(x, user_id=f"u{i}", fallback=None)
    stable.set_model(module)
    assert deployment.health(ids[0]).error_rate == 1.0
    strategy.update_model(ids[1])
    for i in range(3000):
        yard.clock.advance(1.0)
        if i % 8 == 0:  # an eighth of the candidate's answers
            good = deployment._routing.served[ids[1]].optimizer.model
            deployment._routing.served[ids[1]].optimizer.set_model(gone_wrong("nan"))
        deployment.predict(x, user_id=f"u{i}")
        if i % 8 == 0 and ids[1] in deployment.versions():
            deployment._routing.served[ids[1]].optimizer.set_model(good)
        if strategy.get_rollout() is None:
            break
    assert last(strategy)["status"] == "rolled_back"


@pytest.mark.slow
def test_what_the_stable_version_and_the_baseline_did_are_told_apart(yard, ids, deployment, ask):
    for i in range(500):
        yard.monitor.record_prediction([0.0], 0.123, error=i % 50 == 0)
    strategy = yard.strategy(deployment, steps=[90.0, 100.0])
    strategy.set_baseline()
    strategy.update_model(ids[1])
    strategy.pause()
    ask(deployment, 100)
    seen = strategy._conductor.observer.observe(strategy._log.current())
    assert seen.is_baseline
    assert seen.reference.n == 500
    assert seen.stable.n < 20


@pytest.mark.slow
def test_after_a_broken_limit_a_resumed_rollout_is_measured_anew(
    yard, ids, deployment, ask, gone_wrong
):
    strategy = yard.strategy(deployment, auto_rollback=False)
    strategy.update_model(ids[1])
    served = deployment._routing.served[ids[1]].optimizer
    good = served.model
    served.set_model(gone_wrong("fails"))
    ask(deployment, 300, until=lambda: strategy.get_rollout()["status"] == "paused")
    served.set_model(good)
    assert strategy.resume()["reason"] == "asked for; what was measured begins anew"
    ask(deployment, 2000, until=over(strategy))
    assert last(strategy)["status"] == "promoted"


# Several processes, clocks


def test_a_process_that_does_not_lead_guards_its_own_traffic(yard, ids, ask, gone_wrong):
    leading, following = yard.deploy(), None
    leader = yard.strategy(leading)
    other = yard.again(after_s=0.0)
    following = other.deploy()
    following.add_version(ids[1], gone_wrong("fails"))
    follower = other.strategy(following)
    leader.update_model(ids[1])
    ask(following, 500, until=lambda: follower.get_rollout() is None)
    leader.advance()
    assert last(leader)["status"] == "rolled_back"
    assert leading.shares() == {ids[0]: 1.0}


class SetBack:
    """A clock that can be set back."""

    def __init__(self, clock):
        self.clock, self.by = clock, timedelta(0)

    def now(self):
        return self.clock.now() - self.by

    def monotonic_s(self):
        return self.clock.monotonic_s()


def test_a_clock_that_was_set_back_leaves_no_lease_behind(tmp_path, clock):
    from modelyard.storage import open_store, take_lease

    store, moved = open_store(tmp_path), SetBack(clock)
    assert take_lease(store, "l", "dead", seconds=30, clock=moved)
    moved.by = timedelta(seconds=20)  # clocks that disagree a little
    assert not take_lease(store, "l", "new", seconds=30, clock=moved)
    moved.by = timedelta(hours=1)
    assert take_lease(store, "l", "new", seconds=30, clock=moved)


# Requests wait for nothing


@pytest.mark.slow
def test_a_locked_store_or_a_slow_version_keeps_no_request_waiting(yard, ids, monkeypatch, x):
    registry = type(yard.registry)(yard.folder)
    deployment = Deployment(registry, "ppo", seed=0)
    strategy = UpdateStrategy(registry, yard.monitor, deployment=deployment, clock=SystemClock())
    entered, let_go = threading.Event(), threading.Event()

    def blocked():
        entered.set()
        let_go.wait(60.0)

    monkeypatch.setattr(strategy, "advance", blocked)
    for _ in range(50):
        assert deployment.predict(x).version_id == ids[0]
    assert entered.is_set()
    assert strategy._looker._thread.is_alive()
    let_go.set()
    strategy._looker._thread.join()


# Without a deployment


def test_by_the_clock_the_guard_is_asked_before_each_step(yard, ids):
    strategy = yard.strategy()
    for _ in range(200):
        yard.monitor.record_prediction([0.0], 0.001)
    strategy.set_baseline()
    strategy.update_model(ids[1])
    for _ in range(30):
        yard.monitor.record_prediction(None, 0.001, error=True)
    yard.clock.advance(31.0)
    strategy.advance()
    assert last(strategy)["status"] == "rolled_back"
    assert yard.production() == ids[0]


@pytest.mark.parametrize("trigger", [UpdateTrigger.MANUAL, UpdateTrigger.HIGH_ERROR_RATE])
def test_what_was_bad_before_is_not_the_candidates_fault(yard, ids, trigger):
    strategy = yard.strategy()
    for _ in range(200):
        yard.monitor.record_prediction(None, 0.001, error=True)
    strategy.update_model(ids[1], trigger)
    for _ in range(10):
        yard.monitor.record_prediction(None, 0.001, error=True)
        yard.clock.advance(31.0)
        strategy.advance()
    assert last(strategy)["status"] == "promoted"
    assert last(strategy)["reason"] == "every step passed; by the clock; nothing was measured"


# When


def test_a_schedule_is_due_for_processes_that_live_a_moment(yard, ids):
    n_due = 0
    for _ in range(48):
        yard.clock.advance(3600.0)
        strategy = yard.strategy(schedule="30 3 * * *", cooldown_hours=0.0)
        if strategy.should_update()["should_update"]:
            n_due += 1
            strategy.update_model(ids[1 + n_due], smooth_transition=False)
    assert n_due == 2


def test_hours_in_which_it_may_take_no_step_try_no_patience(yard, ids, deployment, ask):
    strategy = yard.strategy(deployment, update_windows=["00:00-00:02", "22:00-23:00"])
    strategy.update_model(ids[1])
    ask(deployment, 60)
    yard.clock.advance(22 * 3600.0)
    ask(deployment, 2)
    assert strategy.get_rollout()["status"] == "running"


def test_a_version_that_was_fled_from_by_hand_is_not_chosen(yard, ids):
    strategy = yard.strategy(key_metric="sharpe")
    strategy.update_model(ids[3], smooth_transition=False)
    assert strategy.rollback()["rolled_back"]
    assert strategy.choose_candidate() == ids[2]


def test_a_rollback_by_hand_is_no_promotion_to_its_readers(yard, ids):
    from datetime import UTC, datetime

    from modelyard.update_strategy import rollout_report

    strategy = yard.strategy()
    strategy.update_model(ids[1], smooth_transition=False)
    strategy.rollback()
    records = strategy.get_update_history()
    assert [record["is_rollback"] for record in records] == [True, False]
    page = rollout_report("ppo", records, generated_at=datetime(2024, 1, 1, tzinfo=UTC))
    assert "gone_back" in page
