"""The judgement of a step, as tables of cases."""

import math

import pytest

from modelyard.update_strategy.evidence import Evidence
from modelyard.update_strategy.judging import judge
from modelyard.update_strategy.settings import UpdateSettings

RULES = UpdateSettings()


def evidence(n=1000, n_errors=0, **changes):
    return Evidence(
        **{
            "n": n,
            "n_errors": n_errors,
            "latency_median_ms": 10.0,
            "latency_log_error": 0.02,
            **changes,
        }
    )


@pytest.mark.parametrize(
    ("candidate", "stable", "share", "answer"),
    [
        (evidence(), evidence(), 1.0, "pass"),
        (evidence(n_errors=100), evidence(n_errors=100), 1.0, "pass"),  # as bad as the other
        (evidence(n_errors=300), evidence(), 1.0, "fail"),
        (evidence(n_errors=50), evidence(), 1.0, "inconclusive"),
        (evidence(n=60, n_errors=2), evidence(), 1.0, "inconclusive"),  # too few to say
        (evidence(n_errors=60), evidence(), 0.1, "pass"),  # borne by a tenth of the users
        (evidence(latency_median_ms=30.0), evidence(), 1.0, "fail"),
        (evidence(latency_median_ms=12.0), evidence(), 1.0, "pass"),
        (evidence(latency_median_ms=15.0), evidence(), 1.0, "inconclusive"),
        (evidence(latency_median_ms=0.4), evidence(latency_median_ms=0.1), 1.0, "pass"),
        (evidence(latency_log_error=math.nan), evidence(), 1.0, "pass"),
    ],
)
def test_a_candidate_against_the_stable_version_of_the_same_time(candidate, stable, share, answer):
    judgement = judge(candidate, stable, RULES, next_share=share)
    assert judgement.answer == answer
    assert judgement.checks
    assert judgement.reason


@pytest.mark.parametrize(
    ("n", "n_stable", "is_stable_serving", "answer"),
    [
        (50, 49, True, "inconclusive"),
        (1000, 0, True, "inconclusive"),
        (49, 1000, True, "inconclusive"),
        (50, 49, False, "pass"),  # nothing can come of waiting
        (49, 0, False, "inconclusive"),
    ],
)
def test_nothing_to_compare_with_passes_no_step_with_a_stable_version(
    n, n_stable, is_stable_serving, answer
):
    judgement = judge(
        evidence(n), evidence(n_stable), RULES, next_share=1.0, is_stable_serving=is_stable_serving
    )
    assert (judgement.answer, judgement.checks) == (answer, ())
    assert "of 50 answers of the" in judgement.reason


def test_latencies_are_compared_since_the_shares_changed():
    slow, slow_too = (evidence(latency_median_ms=ms) for ms in (50.0, 49.0))
    assert judge(slow, evidence(), RULES, next_share=1.0).answer == "fail"
    judged = judge(slow, evidence(), RULES, next_share=1.0, at_step=(slow, slow_too))
    assert judged.answer == "pass"


@pytest.mark.parametrize(
    ("mean", "n", "answer"),
    [(1.0, 1000, "pass"), (0.5, 1000, "fail"), (0.92, 100, "inconclusive"), (1.0, 40, None)],
)
def test_a_required_key_metric_is_proved(mean, n, answer):
    rules = UpdateSettings(key_metric="sharpe", require_key_metric=True)
    sides = [
        evidence(key_metric=value, n_key_metric=n, key_metric_std=0.3) for value in (mean, 1.0)
    ]
    judgement = judge(*sides, rules, next_share=1.0)
    assert judgement.answer == (answer or "inconclusive")
    assert [check.what for check in judgement.checks][-1] == "sharpe"


def test_checks_are_plain_values():
    [errors, latency] = judge(evidence(), evidence(), RULES, next_share=1.0).checks
    assert errors.to_plain()["what"] == "error rate"
    assert latency.to_plain()["answer"] == "pass"
    assert "is allowed" in latency.sentence
