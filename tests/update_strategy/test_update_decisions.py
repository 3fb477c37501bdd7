"""Decisions as tables of cases, and laws over all of them."""

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.update_strategy.due import is_scheduled, updates_due
from modelyard.update_strategy.earlier import earlier_productions
from modelyard.update_strategy.evidence import Evidence, evidence_since, present_of, reference_for
from modelyard.update_strategy.guard import has_too_many_errors, relative_drop, rollback_reasons
from modelyard.update_strategy.settings import UpdateSettings
from modelyard.update_strategy.triggers import UpdateTrigger

RULES = UpdateSettings(key_metric="sharpe")
WELL = Evidence(
    n=1000,
    n_errors=10,
    n_total=1000,
    latency_median_ms=10.0,
    latency_p95_ms=20.0,
    latency_p99_ms=30.0,
    key_metric=1.0,
    n_key_metric=100,
)
CALM = {"is_drifted": False, "drift_score": 0.1, "effective_threshold": 0.3, "calibrated": True}
DRIFTED = {"is_drifted": True, "drift_score": 0.5, "effective_threshold": 0.3, "calibrated": True}


def but(evidence=WELL, **changes):
    return Evidence(**{**evidence.__dict__, **changes})


# When an update is due


@pytest.mark.parametrize(
    ("now", "drifts", "triggers"),
    [
        (WELL, {}, []),
        (WELL, {"prediction": CALM}, []),
        (WELL, {"prediction": DRIFTED}, ["DISTRIBUTION_DRIFT"]),
        (WELL, {"prediction": {**DRIFTED, "calibrated": False}}, []),
        (WELL, {"prediction": {**DRIFTED, "drift_score": 0.25}}, []),
        (WELL, {"prediction": {**DRIFTED, "drift_score": None, "is_drifted": False}}, []),
        (WELL, {"prediction": DRIFTED, "feature": DRIFTED}, ["DISTRIBUTION_DRIFT"] * 2),
        (but(n_errors=50), {}, []),
        (but(n_errors=51), {}, ["HIGH_ERROR_RATE"]),
        (but(key_metric=0.81), {}, []),
        (but(key_metric=0.79), {}, ["PERFORMANCE_DEGRADATION"]),
        (but(key_metric=0.1, n_key_metric=49), {}, []),
        (but(key_metric=math.nan, n_key_metric=0), {}, []),
        (but(latency_median_ms=20.0), {}, []),
        (but(latency_median_ms=20.1), {}, ["PERFORMANCE_DEGRADATION"]),
        (but(latency_median_ms=math.nan), {}, []),
        (
            but(n_errors=90, key_metric=0.0, latency_median_ms=99.0),
            {"feature": DRIFTED},
            ["PERFORMANCE_DEGRADATION"] * 2 + ["HIGH_ERROR_RATE", "DISTRIBUTION_DRIFT"],
        ),
    ],
)
def test_what_makes_an_update_due(now, drifts, triggers):
    due = updates_due(now, WELL, drifts, RULES)
    assert [item.trigger for item in due] == [UpdateTrigger[name] for name in triggers]


def test_reasons_carry_their_numbers():
    now = but(n_errors=90, key_metric=0.5, latency_median_ms=25.0)
    sentences = " / ".join(item.sentence for item in updates_due(now, WELL, {"f": DRIFTED}, RULES))
    assert "error rate 9.0% (90 of 1000) is over 5.0%" in sentences
    assert "sharpe fell from 1 to 0.5 (50%, over 100 values)" in sentences
    assert "median latency 25 ms is over 2 x the baseline of 10 ms" in sentences
    assert "f drift 0.500 is over 0.300" in sentences


def test_uncalibrated_drift_counts_when_that_is_allowed():
    rules = UpdateSettings(allow_uncalibrated_drift=True)
    assert updates_due(WELL, WELL, {"f": {**DRIFTED, "calibrated": False}}, rules)


def test_nothing_is_due_without_any_data():
    assert updates_due(Evidence(), Evidence(), {}, RULES) == []
    assert rollback_reasons(Evidence(), Evidence(), RULES) == []


@pytest.mark.parametrize(
    ("schedule", "since", "now", "is_due"),
    [
        (None, "2024-01-01T00:00", "2025-01-01T00:00", False),
        ("0 3 * * *", "2024-01-01T00:00", "2024-01-01T02:59", False),
        ("0 3 * * *", "2024-01-01T00:00", "2024-01-01T03:00", True),
        ("0 3 * * *", "2024-01-01T03:00", "2024-01-01T23:00", False),
        ("0 3 * * 1", "2024-01-01T04:00", "2024-01-07T12:00", False),
        ("0 3 * * 1", "2024-01-01T04:00", "2024-01-08T03:00", True),
    ],
)
def test_the_schedule(schedule, since, now, is_due):
    moments = [datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (since, now)]
    assert is_scheduled(schedule, since=moments[0], now=moments[1]) is is_due


# When to go back


@pytest.mark.parametrize(
    ("now", "reasons"),
    [
        (WELL, []),
        (but(n_errors=100), []),
        (but(n_errors=101), ["error rate"]),
        (but(n=20, n_errors=4), []),  # 20 %, and still no evidence against a limit of 10 %
        (but(n=20, n_errors=8), ["error rate"]),
        (but(n=3, n_errors=3), ["error rate"]),
        (but(latency_median_ms=20.1), ["median latency"]),
        (but(latency_median_ms=20.1, n=49, n_errors=0), []),
        (but(latency_p95_ms=41.0), ["p95 latency"]),
        (but(latency_p95_ms=41.0, n=499, n_errors=0), []),
        (but(n=60, n_errors=13), ["error rate"]),  # 22 %, where the baseline has 1 %
        (but(n=60, n_errors=10), []),
        (but(latency_median_ms=25.0, latency_log_error=0.05), ["median latency"]),
        (but(latency_median_ms=25.0, latency_log_error=0.5), []),  # so noisy that it may be chance
        (but(key_metric=0.71), []),
        (but(key_metric=0.69), ["sharpe"]),
        (but(key_metric=0.69, n_key_metric=49), []),
    ],
)
def test_what_is_rolled_back(now, reasons):
    found = rollback_reasons(now, WELL, RULES)
    assert len(found) == len(reasons)
    assert all(text.startswith(start) for text, start in zip(found, reasons, strict=True))


# With 8 % errors, a window is over 10 % now and then by chance.
AS_BAD = but(n_errors=80)


@pytest.mark.parametrize(
    ("now", "baseline", "is_blamed"),
    [
        (but(n_errors=101), AS_BAD, False),
        (but(n_errors=115), AS_BAD, False),
        (but(n_errors=116), AS_BAD, True),  # 1.645 standard errors over 10 %
        (but(n_errors=101), WELL, True),
        (but(n_errors=101), Evidence(), False),
        (but(n=100, n_errors=19), AS_BAD, False),
        (but(n=100, n_errors=20), AS_BAD, True),
    ],
)
def test_twice_the_threshold_is_proved_or_much_more_than_the_baseline_has(
    now, baseline, is_blamed
):
    assert has_too_many_errors(now, baseline, RULES) is is_blamed


def test_slow_answers_of_about_one_in_twenty_are_no_slow_tail():
    # 4.9 % of the baseline's answers take ten times as long, and 5.1 % of the other's.
    bimodal = but(latency_p95_ms=20.0, latency_p99_ms=220.0)
    assert rollback_reasons(but(bimodal, latency_p95_ms=195.0), bimodal, RULES) == []
    [reason] = rollback_reasons(but(bimodal, latency_p95_ms=230.0), bimodal, RULES)
    assert reason.startswith("p95 latency")


def test_a_machine_that_is_slow_for_both_blames_neither():
    slow, slow_too = but(latency_median_ms=50.0), but(latency_median_ms=49.0)
    assert rollback_reasons(slow, WELL, RULES) != []
    assert rollback_reasons(slow, WELL, RULES, at_step=(slow, slow_too)) == []
    assert rollback_reasons(WELL, WELL, RULES, at_step=(slow, WELL)) != []


def test_a_missing_baseline_blames_nobody():
    slow = but(latency_median_ms=1e6, latency_p95_ms=1e6, key_metric=-5.0)
    assert rollback_reasons(slow, Evidence(), RULES) == []


@pytest.mark.parametrize(
    ("metric", "before", "now", "drop"),
    [
        ("sharpe", 1.0, 0.7, 0.3),
        ("sharpe", -0.5, -0.4, -0.2),
        ("sharpe", -0.5, -0.8, 0.6),
        ("sharpe", 0.0, -0.0005, 0.5),  # relative to the floor of 0.001
        ("max_dd", 0.1, 0.2, 1.0),
        ("max_dd", 0.2, 0.1, -0.5),
    ],
)
def test_a_drop_is_relative_and_in_the_metrics_direction(metric, before, now, drop):
    rules = UpdateSettings(key_metric=metric)
    found = relative_drop(but(key_metric=now), but(key_metric=before), rules)
    assert found == pytest.approx(drop)


@pytest.mark.parametrize(
    ("n", "n_key_metric", "latency_ms", "metric"),
    [(50, 50, 5.0, 3.0), (49, 50, 10.0, 3.0), (50, 49, 5.0, 1.0), (0, 0, 10.0, 1.0)],
)
def test_the_stable_version_is_the_reference_where_it_has_samples(
    n, n_key_metric, latency_ms, metric
):
    stable = Evidence(n=n, latency_median_ms=5.0, key_metric=3.0, n_key_metric=n_key_metric)
    found = reference_for(stable, WELL, RULES)
    assert (found.latency_median_ms, found.key_metric) == (latency_ms, metric)


def test_evidence_survives_json():
    for evidence in (WELL, Evidence()):
        assert str(Evidence.from_plain(evidence.to_plain())) == str(evidence)


# Where to go back to


def newest_earlier(history):
    return next(iter(earlier_productions(history, "production")), None)


def events(text):
    """Audit records from words: `A` promoted, `<A` rolled back to, `-` something else."""
    for word in text.split():
        action = "rollback" if word.startswith("<") else "promote"
        alias = "candidate" if word == "-" else "production"
        yield {"action": action, "version_id": word.lstrip("<"), "detail": {"alias": alias}}


@pytest.mark.parametrize(
    ("history", "earlier"),
    [
        ("", None),
        ("A", None),
        ("A -", None),
        ("A A", None),
        ("A B", "A"),
        ("A B C", "B"),
        ("A B <A", None),
        ("A B C <B", "A"),
        ("A B C <B <A", None),
        ("A B <A C", "A"),
        ("A B <A B", "A"),
        ("A B A", "B"),
        ("A B A <B", None),  # fled from A: B has nothing before it but A
        ("A B <C", "A"),  # to one that never was production: B was fled from all the same
        ("A B C <A", None),
        ("A B A C <A", "B"),
        ("B A B A <B", None),
        ("<A", None),
        ("A <A", None),
    ],
)
def test_the_production_before(history, earlier):
    found = earlier_productions(list(events(history)), "production")
    assert next(iter(found), None) == earlier


@given(st.lists(st.tuples(st.sampled_from(["promote", "back", "to"]), st.sampled_from("ABCD"))))
def test_nobody_is_sent_back_to_what_was_fled_from(moves):
    history, fled, production = [], set(), None
    for kind, version in moves:
        target = newest_earlier(history) if kind == "back" else version
        if target is None or target == production:
            continue
        is_rollback = kind != "promote"
        if is_rollback and production is not None:
            fled.add(production)
        fled.discard(target)
        production = target
        record = {"action": "rollback" if is_rollback else "promote", "version_id": target}
        history.append({**record, "detail": {"alias": "production"}})
        found = newest_earlier(history)
        assert found not in fled
        assert found is None or found != production


@given(st.lists(st.sampled_from("ABCD"), max_size=12))
def test_going_back_again_and_again_comes_to_an_end_without_repeating(promoted):
    history = list(events(" ".join(promoted)))
    seen = []
    while (target := newest_earlier(history)) is not None:
        assert target not in seen
        seen.append(target)
        history += events(f"<{target}")
    assert len(seen) < 4


# Two sources, and one window over two versions


@pytest.mark.parametrize(
    ("n_own", "n_monitored", "n"),
    [(0, 0, 0), (49, 1000, 1000), (50, 1000, 50), (10, 9, 10), (9, 10, 10)],
)
def test_production_is_judged_by_what_serves_it_where_that_has_enough(n_own, n_monitored, n):
    own = Evidence(n=n_own, n_key_metric=n_own, key_metric=1.0)
    monitored = Evidence(n=n_monitored, n_key_metric=n_monitored, key_metric=2.0)
    present = present_of(own, monitored, UpdateSettings())
    assert (present.n, present.n_key_metric) == (n, n)


def test_a_window_over_two_versions_never_blames_the_new_one_for_the_old_ones_errors():
    before = Evidence(n=1000, n_errors=300, n_total=5000, key_metric=1.0, n_key_metric=1000)
    now = Evidence(n=1000, n_errors=310, n_total=5100, key_metric=0.9, n_key_metric=1000)
    since = evidence_since(now, before)
    assert (since.n, since.n_errors, since.n_total, since.n_key_metric) == (100, 10, 100, 100)
    later = Evidence(n=1000, n_errors=200, n_total=6000, key_metric=1.0, n_key_metric=1000)
    since = evidence_since(later, before)
    assert (since.n, since.n_errors, since.n_total) == (1000, 200, 1000)
    assert since.n_key_metric == 0  # no value came since


def test_a_noisy_metric_is_not_blamed_for_chance():
    # The mean of 1,000 values of spread 3 is known to 0.13 only when compared with another.
    noisy = but(key_metric_std=3.0, n_key_metric=1000)
    assert rollback_reasons(but(noisy, key_metric=0.56), noisy, RULES) == []
    assert rollback_reasons(but(noisy, key_metric=0.50), noisy, RULES) != []


def test_a_metric_that_is_better_low_got_worse_by_rising():
    rules = UpdateSettings(key_metric="max_dd")
    [item] = updates_due(but(key_metric=0.1959), but(key_metric=0.0498), {}, rules)
    assert item.sentence.startswith("max_dd got worse: it rose from 0.0498 to 0.1959 (293%")
