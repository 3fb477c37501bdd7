"""How a rollout moves: cases, and laws that hold for every rollout."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.storage.tables import UNFINISHED_ROLLOUTS
from modelyard.update_strategy import rollout as states
from modelyard.update_strategy.evidence import Evidence
from modelyard.update_strategy.guard import rollback_reasons
from modelyard.update_strategy.next_move import PATIENCE, Observation, judged
from modelyard.update_strategy.rollout import Move, Rollout, Verdict, moved
from modelyard.update_strategy.settings import UpdateSettings

START = datetime(2024, 1, 1, tzinfo=UTC)
RULES = UpdateSettings()  # three steps of 100 s, 50 answers each
UNCOMPARED = "; the guard alone looked at it: nothing serves beside it"
STATUSES = [
    states.PENDING,
    states.SHADOW,
    states.RUNNING,
    states.WAITING,
    states.PAUSED,
    states.PROMOTING,
    states.BAKING,
    states.ROLLING_BACK,
    states.PROMOTED,
    states.ROLLED_BACK,
    states.ABORTED,
]


def begun(**changes):
    rollout = Rollout(
        rollout_id="rollout-1",
        model_name="ppo",
        old_version_id="old",
        new_version_id="new",
        trigger="manual",
        status=states.RUNNING,
        is_rollback=False,
        shares=RULES.shares,
        step_index=0,
        step_started_at=START.isoformat(),
        started_at=START.isoformat(),
    )
    return replace(rollout, **changes)


def seen(n=0, *, n_errors=0, since_s=0.0, measured=True, latency_ms=1.0):
    candidate = Evidence(n=n, n_errors=n_errors, n_total=n, latency_median_ms=latency_ms)
    return Observation(
        candidate=candidate if measured else None,
        reference=Evidence(n=1000, latency_median_ms=1.0),
        n_at_step=n,
        since=START + timedelta(seconds=since_s),
    )


def at(seconds):
    return START + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("rollout", "after_s", "observation", "move"),
    [
        (begun(), 99, seen(50), Move.WAIT),
        (begun(), 100, seen(49), Move.WAIT),
        (begun(), 100, seen(50), Move.NEXT_STEP),
        (begun(step_index=1), 100, seen(50), Move.NEXT_STEP),
        (begun(step_index=2), 100, seen(50), Move.PROMOTE),
        (begun(), 1000, seen(49), Move.WAIT),
        (begun(), 1001, seen(49), Move.PAUSE),
        (begun(), 5000, seen(49, since_s=4000), Move.WAIT),  # after a restart: time to measure
        (begun(), 5001, seen(49, since_s=4000), Move.PAUSE),
        (begun(), 99, seen(measured=False), Move.WAIT),
        (begun(), 100, seen(measured=False), Move.NEXT_STEP),
        (begun(step_index=2), 100, seen(measured=False), Move.PROMOTE),
        (begun(), 1, seen(3, n_errors=3), Move.ROLL_BACK),
        (begun(step_index=2), 100, seen(50, latency_ms=3.0), Move.ROLL_BACK),
        (begun(status=states.PAUSED), 9999, seen(500), Move.WAIT),
        (begun(status=states.PAUSED), 1, seen(3, n_errors=3), Move.ROLL_BACK),
    ],
)
def test_what_is_done_next(rollout, after_s, observation, move):
    assert judged(rollout, RULES, now=at(after_s), seen=observation).move is move


def test_without_automatic_rollback_a_bad_candidate_is_paused_once():
    rules = UpdateSettings(auto_rollback=False)
    verdict = judged(begun(), rules, now=at(1), seen=seen(3, n_errors=3))
    assert verdict.move is Move.PAUSE
    assert "error rate 100.0% (3 of 3)" in verdict.reason
    paused = moved(begun(), verdict, now=at(1))
    assert judged(paused, rules, now=at(2), seen=seen(3, n_errors=3)).move is Move.WAIT


def test_too_little_traffic_says_how_much_there_was():
    verdict = judged(begun(), RULES, now=at(2000), seen=seen(7))
    assert verdict.reason == ("too little traffic: 7 of 50 answers of the candidate at this step")


@pytest.mark.parametrize(
    ("n_values", "is_reported", "after_s", "move", "said"),
    [
        (0, True, 100, Move.WAIT, "no outcomes: 0 values of sharpe from the candidate"),
        (0, True, 1001, Move.PAUSE, "no outcomes: 0 values of sharpe from the candidate"),
        (
            49,
            True,
            100,
            Move.NEXT_STEP,
            f"the step passed{UNCOMPARED}; sharpe had only 49 of 50 values",
        ),
        (50, True, 100, Move.NEXT_STEP, "the step passed"),
        (
            0,
            False,
            100,
            Move.NEXT_STEP,
            f"the step passed{UNCOMPARED}; no values of sharpe were reported",
        ),
    ],
)
def test_a_step_waits_for_the_key_metric_where_anybody_reports_it(
    n_values, is_reported, after_s, move, said
):
    rules = UpdateSettings(key_metric="sharpe")
    observation = seen(50)
    observation = replace(
        observation,
        candidate=replace(observation.candidate, n_key_metric=n_values, key_metric=1.0),
        is_key_metric_reported=is_reported,
    )
    verdict = judged(begun(), rules, now=at(after_s), seen=observation)
    assert verdict.move is move
    assert verdict.reason.startswith(said)


def test_a_step_begins_anew_when_a_paused_rollout_runs_again():
    paused = moved(begun(), Verdict(move=Move.PAUSE, reason="stop"), now=at(400))
    again = states.resumed(paused, reason="go", now=at(500))
    assert again.status == states.RUNNING
    assert judged(again, RULES, now=at(550), seen=seen(500)).move is Move.WAIT


def test_waiting_changes_nothing():
    assert moved(begun(), Verdict(move=Move.WAIT, reason="x"), now=at(1)) == begun()


@pytest.mark.parametrize("status", STATUSES)
def test_unfinished_is_what_the_store_takes_for_it(status):
    assert begun(status=status).is_unfinished == (status in UNFINISHED_ROLLOUTS)


def test_a_rollout_survives_json():
    rollout = begun(applied_to=("deployment",), finished_at=START.isoformat())
    assert Rollout.from_plain(rollout.to_plain()) == rollout


# Laws

rising = st.lists(st.floats(0.1, 99.9), unique=True, max_size=5).map(
    lambda steps: (*sorted(steps), 100.0)
)
evidences = st.builds(
    lambda n, share, latency_ms: Evidence(
        n=n, n_errors=int(n * share), n_total=n, latency_median_ms=latency_ms
    ),
    st.integers(0, 2000),
    st.floats(0.0, 1.0),
    st.floats(0.01, 10.0),
)


@given(rising, st.data(), st.sampled_from(STATUSES), st.sampled_from(["old", None]))
def test_shares_always_add_up_to_one(steps, data, status, old):
    shares = UpdateSettings(steps=steps).shares
    index = data.draw(st.integers(0, len(shares) - 1))
    traffic = begun(shares=shares, step_index=index, status=status, old_version_id=old).traffic
    assert sum(traffic.values()) == pytest.approx(1.0)
    assert all(0.0 <= share <= 1.0 for share in traffic.values())


@given(evidences, evidences, st.booleans(), st.integers(0, 2), st.floats(0, 1e5), st.booleans())
def test_nothing_is_promoted_while_a_reason_to_go_back_stands(
    candidate, stable, auto_rollback, step_index, after_s, is_paused
):
    rules = UpdateSettings(auto_rollback=auto_rollback)
    rollout = begun(step_index=step_index, status=states.PAUSED if is_paused else states.RUNNING)
    observation = Observation(
        candidate=candidate, reference=stable, n_at_step=candidate.n, since=START
    )
    verdict = judged(rollout, rules, now=at(after_s), seen=observation)
    if rollback_reasons(candidate, stable, rules):
        assert verdict.move not in {Move.PROMOTE, Move.NEXT_STEP}
        assert verdict.move is Move.ROLL_BACK or not auto_rollback


@given(
    rising,
    st.floats(0.0, 30.0),
    st.lists(st.tuples(evidences, st.integers(0, 60)), min_size=1, max_size=20),
    st.booleans(),
)
def test_every_rollout_ends_or_waits_for_a_person(steps, minutes, looks, auto_rollback):
    rules = UpdateSettings(steps=steps, transition_minutes=minutes, auto_rollback=auto_rollback)
    rollout, now = begun(shares=rules.shares), START
    since, step, n_at_step = now, rollout.step_started_at, 0
    pause_s = max(rules.step_s, 1.0)
    for i in range(int((PATIENCE + 3) * len(steps) + 10)):
        candidate, n_new = looks[i % len(looks)]
        now += timedelta(seconds=pause_s)
        if rollout.step_started_at != step:
            since, step, n_at_step = now, rollout.step_started_at, 0
        n_at_step += n_new
        observation = Observation(
            candidate=candidate, reference=Evidence(), n_at_step=n_at_step, since=since
        )
        rollout = moved(rollout, judged(rollout, rules, now=now, seen=observation), now=now)
        if rollout.status != states.RUNNING:
            break
    assert rollout.status in {states.PROMOTING, states.ROLLING_BACK, states.PAUSED}
