"""Which version to update to, and what has failed."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from modelyard.update_strategy import rollout as states
from modelyard.update_strategy.candidates import (
    best_candidate,
    consecutive_rollbacks,
    has_just_failed,
)
from modelyard.update_strategy.rollout import Rollout

NOW = datetime(2024, 1, 10, tzinfo=UTC)


def version(name, **metrics):
    return {"version_id": name, "metrics": metrics}


VERSIONS = [
    version("e"),
    version("d", sharpe=float("nan")),
    version("c", sharpe=2.0),
    version("b", sharpe=3.0),
    version("a", sharpe=1.0),
]


@pytest.mark.parametrize(
    ("production", "excluded", "direction", "expected"),
    [
        ("a", (), 1.0, "b"),
        ("a", ("b",), 1.0, "c"),
        ("b", (), 1.0, None),  # it is the best already
        ("c", ("b",), 1.0, None),
        ("c", (), -1.0, "a"),
        (None, (), 1.0, "b"),
        ("e", (), 1.0, "b"),  # production without the metric
    ],
)
def test_the_best_that_is_better_than_what_runs(production, excluded, direction, expected):
    found = best_candidate(
        VERSIONS,
        "sharpe",
        direction=direction,
        production=production,
        excluded=frozenset(excluded),
    )
    assert found == expected


def test_of_equals_the_newest_is_taken():
    versions = [version("new", m=1.0), version("old", m=1.0)]
    assert best_candidate(versions, "m", direction=1.0, production=None) == "new"


def ended(status, version_id="v", *, hours_ago=1.0, is_rollback=False):
    at = (NOW - timedelta(hours=hours_ago)).isoformat()
    return Rollout(
        rollout_id="r",
        model_name="m",
        old_version_id="old",
        new_version_id=version_id,
        trigger="manual",
        status=status,
        is_rollback=is_rollback,
        shares=(1.0,),
        step_index=0,
        step_started_at=at,
        started_at=at,
        finished_at=at,
    )


def test_only_the_last_try_of_a_version_counts_and_only_for_a_while():
    back, gone = states.ROLLED_BACK, states.PROMOTED
    rollouts = [
        ended(back, "fresh"),
        ended(gone, "mended"),
        ended(back, "mended", hours_ago=2),
        ended(back, "long ago", hours_ago=100),
        ended(gone, "target", is_rollback=True),
    ]
    # From "old" somebody went back to "target" by hand.
    assert has_just_failed(rollouts, now=NOW, within_hours=72.0) == {"fresh", "old"}
    again = [ended(gone, "old"), *rollouts]
    assert has_just_failed(again, now=NOW, within_hours=72.0) == {"fresh"}


@pytest.mark.parametrize(
    ("statuses", "n"),
    [
        ([], 0),
        (["rolled_back", "rolled_back", "promoted", "rolled_back"], 2),
        (["aborted", "rolled_back", "aborted", "rolled_back"], 2),
        (["promoted", "rolled_back"], 0),
        (["by hand", "promoted", "rolled_back"], 2),
        (["by hand", "by hand", "promoted", "promoted", "promoted"], 2),
    ],
)
def test_rollbacks_in_a_row(statuses, n):
    rollouts = [
        ended(states.PROMOTED, is_rollback=True) if status == "by hand" else ended(status)
        for status in statuses
    ]
    assert consecutive_rollbacks(rollouts) == n


def test_what_is_running_ends_the_row():
    rollouts = [ended(states.RUNNING), ended(states.ROLLED_BACK)]
    assert consecutive_rollbacks([replace(rollouts[0], finished_at=None), rollouts[1]]) == 0
