"""A rollout told in sentences."""

import pytest

from modelyard.update_strategy.explaining import explained
from modelyard.update_strategy.telling import percent


def numbers(n, **changes):
    return {
        "n": n,
        "n_errors": 1,
        "latency_median_ms": 1.5,
        "key_metric": None,
        "n_key_metric": 0,
        **changes,
    }


def told(action, *, actor="ana", is_rollback=False, **detail):
    event = {
        "at": "2024-01-01T00:00:00+00:00",
        "action": action,
        "actor": actor,
        "detail": {"shares": {"old": 0.996, "new": 0.004}, **detail},
    }
    record = {
        "new_version_id": "new",
        "old_version_id": "old",
        "model_name": "ppo",
        "trigger": "manual",
        "status": "running",
        "is_rollback": is_rollback,
        "events": [event],
    }
    return explained(record)


@pytest.mark.parametrize(
    ("action", "sentence"),
    [
        ("start", "ana began it"),
        ("ask_for_approval", "ana asked for approval"),
        ("approve", "ana approved the next step"),
        ("promoted", "ana ended the rollout; its version is production"),
        ("halt", "ana stopped all updates of the model"),
        ("something new", "something new by ana"),
    ],
)
def test_who_did_what(action, sentence):
    [_, text] = told(action, reason="asked for")
    assert (
        text == f"2024-01-01 00:00:00 {sentence}; traffic old 99.6%, new 0.4%; reason: asked for."
    )


def test_an_actor_with_braces_is_told_as_it_is():
    assert "{x} paused it" in told("pause", actor="{x}")[1]


def test_whose_numbers_are_whose():
    [_, text] = told(
        "next_step",
        candidate=numbers(50),
        stable=numbers(13, latency_median_ms=None),
        baseline=numbers(500, key_metric=1.25, n_key_metric=40),
        checks=[{"sentence": "error rate worse by 1.0 points at most", "answer": "pass"}],
    )
    assert "Candidate: 1 of 50 failed, median 1.5 ms." in text
    assert "Stable: 1 of 13 failed." in text
    assert "Baseline: 1 of 500 failed, median 1.5 ms, key metric 1.25 over 40 values." in text
    assert text.endswith("error rate worse by 1.0 points at most (pass).")


def test_the_first_sentence_says_what_became_of_it():
    assert told("start")[0] == "new for old of ppo (manual): running."
    assert (
        told("start", is_rollback=True)[0] == "new for old of ppo (manual, going back): running."
    )


@pytest.mark.parametrize(
    ("share", "text"), [(0.1, "10%"), (0.004, "0.4%"), (0.99996, "99.996%"), (1.0, "100%")]
)
def test_shares_have_the_digits_they_need(share, text):
    assert percent(share) == text
