"""One store, several processes: who leads, who follows, and what a crash leaves behind."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from crashing import MORE_RULES

from modelyard._core.clock import ManualClock
from modelyard._core.errors import ConfigError, RolloutInProgressError, StaleRevisionError
from modelyard.storage import drop_lease, open_store, take_lease
from modelyard.storage.leases import Lease
from modelyard.update_strategy import UpdateStrategy, rollout_history

CRASHING = Path(__file__).with_name("crashing.py")
# Where the process dies, and how the next one must end what it finds.
CRASHES = {
    "before_first_shares": "promoted",
    "after_first_shares": "promoted",
    "before_second_shares": "promoted",
    "before_whole": "promoted",
    "before_alias": "promoted",
    "after_alias": "promoted",
    "before_going_back": "rolled_back",
    "after_going_back": "rolled_back",
    "before_direct": "promoted",
    "before_write_shadow": "promoted",
    "after_write_shadow": "promoted",
    "after_write_approve": "promoted",
    "before_write_bake": "promoted",
    "after_write_bake": "promoted",
    "before_write_promoted": "promoted",
    "after_write_promoted": "promoted",
}


# Leases


def test_a_lease_has_one_holder_until_it_runs_out(tmp_path, clock):
    store = open_store(tmp_path)
    assert take_lease(store, "l", "a", seconds=30, clock=clock)
    assert not take_lease(store, "l", "b", seconds=30, clock=clock)
    assert take_lease(store, "other", "b", seconds=30, clock=clock)
    clock.advance(29)
    assert take_lease(store, "l", "a", seconds=30, clock=clock)
    clock.advance(29)
    assert not take_lease(store, "l", "b", seconds=30, clock=clock)
    clock.advance(1)
    assert take_lease(store, "l", "b", seconds=30, clock=clock)
    drop_lease(store, "l", "a")  # not a's any more
    assert not take_lease(store, "l", "a", seconds=30, clock=clock)


def test_a_lease_is_renewed_in_good_time_and_given_back(tmp_path, clock):
    store = open_store(tmp_path)
    a, b = (Lease(store, "l", name, seconds=30, clock=clock) for name in "ab")
    b.give_back()
    for _ in range(20):
        clock.advance(7)
        assert a.is_held()
        assert not b.is_held()
    a.give_back()
    assert b.is_held()
    assert not a.is_held()


# Two that serve


@pytest.fixture
def pair(yard, ids):
    """Two processes that serve ppo from one store."""
    yards = [yard, yard.again(after_s=0.0)]
    deployments = [each.deploy() for each in yards]
    strategies = [
        each.strategy(deployment) for each, deployment in zip(yards, deployments, strict=True)
    ]
    return deployments, strategies


def n_events(yard):
    return sum(len(record["events"]) for record in rollout_history(yard.registry.store, "ppo"))


@pytest.mark.slow
def test_one_leads_and_the_other_serves_the_same_shares(yard, ids, pair, ask):
    (leading, following), (leader, follower) = pair
    leader.update_model(ids[1])
    ask(following, 1)
    assert following.shares() == leading.shares() == {ids[0]: 0.9, ids[1]: 0.1}
    for i in range(2000):
        # Only the follower has traffic enough, and that moves nothing: the leader measures.
        ask(following, 3, seconds=0.1, first_user=3 * i)
        ask(leading, 1, seconds=1.0, first_user=i)
        if leader.get_rollout() is None:
            break
    assert yard.production() == ids[1]
    assert n_events(yard) == 5
    ask(following, 1, seconds=2.0)
    assert following.shares() == {ids[1]: 1.0}
    assert following.versions() == [ids[1]]
    assert follower.get_rollout() is None


@pytest.mark.slow
def test_the_other_takes_over_when_the_leader_is_gone(yard, ids, pair, ask):
    (_, following), (leader, follower) = pair
    leader.update_model(ids[1])
    ask(following, 20)
    assert follower.get_rollout()["step"] == 1
    yard.clock.advance(31.0)  # the leader says nothing more
    ask(following, 2000, until=lambda: follower.get_rollout() is None)
    assert yard.production() == ids[1]


def test_the_other_may_take_over_at_once_when_the_leader_says_so(yard, ids, pair):
    _, (leader, follower) = pair
    leader.update_model(ids[1])
    follower.advance()
    assert not follower._lease.is_held()
    leader.close()
    assert follower._lease.is_held()


def test_a_bad_candidate_leaves_every_process(yard, ids, pair, ask, gone_wrong):
    (leading, following), (leader, _) = pair
    leading.add_version(ids[1], gone_wrong("fails"))
    leader.update_model(ids[1])
    ask(following, 1)
    ask(leading, 500, until=lambda: leader.get_rollout() is None)
    ask(following, 1, seconds=2.0)
    assert leading.versions() == following.versions() == [ids[0]]


def test_commands_reach_the_process_that_leads(yard, ids, pair, ask):
    (leading, following), (leader, follower) = pair
    leader.update_model(ids[1])
    assert follower.pause(reason="look")["status"] == "paused"
    ask(leading, 5)
    assert leader.get_rollout()["reason"] == "look"
    assert follower.rollback()["rolled_back"]
    ask(leading, 1, seconds=2.0)
    assert leading.shares() == following.shares() == {ids[0]: 1.0}


def test_a_second_rollout_from_another_process_is_refused(ids, pair):
    _, (leader, follower) = pair
    leader.update_model(ids[1])
    with pytest.raises(RolloutInProgressError):
        follower.update_model(ids[2])
    assert follower.update_model(ids[1])["status"] == "already_running"


def test_what_another_process_superseded_is_let_go(ids, pair, ask):
    (leading, _), (leader, follower) = pair
    leader.update_model(ids[1])
    follower.update_model(ids[2], supersede=True)
    ask(leading, 1)
    assert leading.shares() == {ids[0]: 0.9, ids[2]: 0.1}
    assert leading.versions() == [ids[0], ids[2]]


def test_a_command_is_tried_again_when_the_leader_was_quicker(yard, ids, pair, monkeypatch):
    _, (leader, follower) = pair
    leader.update_model(ids[1])
    log, original = follower._log, follower._log.change
    refusals = [1, 2, 3]

    def change(*arguments, **options):
        if refusals:
            refusals.pop()
            raise StaleRevisionError("someone was quicker")
        return original(*arguments, **options)

    monkeypatch.setattr(log, "change", change)
    assert follower.pause()["status"] == "paused"
    refusals += [1, 2, 3, 4, 5]
    with pytest.raises(StaleRevisionError):
        follower.resume()


@pytest.mark.slow
def test_two_that_finish_one_promotion_agree(yard, ids, pair, monkeypatch):
    # The other process finishes between this one's pointer and its last word.
    _, (leader, follower) = pair
    registry = leader._registry
    original = registry.set_alias

    def set_alias(*arguments, **options):
        moved = original(*arguments, **options)
        monkeypatch.setattr(registry, "set_alias", original)
        leader.close()
        assert follower.advance()["status"] == "promoted"
        return moved

    monkeypatch.setattr(registry, "set_alias", set_alias)
    assert leader.update_model(ids[1], smooth_transition=False)["status"] == "promoted"
    assert [r["status"] for r in leader.get_update_history()] == ["promoted"]


# One that serves, one that does not


@pytest.mark.slow
def test_what_is_served_is_not_moved_by_the_clock_of_a_process_that_serves_nothing(yard, ids, ask):
    watcher = yard.strategy()
    watcher.update_model(ids[1])  # leads, and has no traffic to measure
    deployment = yard.deploy()
    server = yard.strategy(deployment)
    assert deployment.shares() == {ids[0]: 0.9, ids[1]: 0.1}
    server.advance()  # says that it serves
    yard.clock.advance(60.0)
    for _ in range(5):
        assert watcher.advance()["applied_to"] == ["deployment"]
        yard.clock.advance(2.0)
    assert watcher.get_rollout()["step"] == 1
    ask(deployment, 2000, until=lambda: server.get_rollout() is None)
    assert yard.production() == ids[1]
    actions = [event["action"] for event in server.get_update_history(1)[0]["events"]]
    assert actions[:2] == ["start", "claim"]


def test_a_remote_control_gives_commands_and_takes_no_steps(yard, ids, caplog):
    remote = UpdateStrategy(yard.registry, yard.monitor, is_remote=True, clock=yard.clock)
    remote.update_model(ids[1])
    yard.clock.advance(1e6)
    assert remote.advance()["step"] == 1
    assert caplog.records == []
    assert yard.strategy().advance()["step"] == 2  # this one is free to lead
    assert remote.rollback()["rolled_back"]
    with pytest.raises(ConfigError, match="pass no deployment"):
        UpdateStrategy(yard.registry, yard.monitor, deployment=yard.deploy(), is_remote=True)


# Crashes


@pytest.fixture(scope="module")
def crashed(tmp_path_factory):
    """A registry for each crash point, as the dead process left it."""
    folder = tmp_path_factory.mktemp("crashed")
    done = subprocess.run(
        [sys.executable, str(CRASHING), str(folder), *CRASHES],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("point", CRASHES)
def test_the_next_process_ends_what_a_dead_one_began(crashed, point, ask, yard_in):
    folder, exit_codes = crashed
    assert exit_codes[point] == 9  # it died where it should
    clock = ManualClock()
    clock.advance(7200.0)
    yard = yard_in(str(folder / point), clock)
    old, new = [v["version_id"] for v in yard.registry.list_versions("ppo", ascending=True)]
    found = rollout_history(yard.registry.store, "ppo")[0]
    deployment = yard.deploy()
    strategy = yard.strategy(deployment, **MORE_RULES.get(point.partition("_write_")[2], {}))
    # Before its first request it serves what was decided, whole and by versions that load.
    expected = found["events"][-1]["detail"]["shares"]
    assert deployment.shares() == {v: share for v, share in expected.items() if share}
    answers = ask(deployment, 3000, until=lambda: strategy.get_rollout() is None)
    assert all(answer.error is None for answer in answers)
    [record] = rollout_history(yard.registry.store, "ppo")
    assert record["status"] == CRASHES[point], record
    assert record["events"][: len(found["events"])] == found["events"]  # the audit lost nothing
    kept = new if CRASHES[point] == "promoted" else old
    assert yard.production() == kept
    assert deployment.versions() == [kept]
    moves = [r["version_id"] for r in yard.registry.get_history("ppo") if r["detail"].get("alias")]
    assert moves == ([old, new] if kept == new else [old])  # and nothing was done twice
