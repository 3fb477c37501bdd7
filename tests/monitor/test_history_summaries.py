"""Summaries of windows: nothing is lost that is said to be kept, and sums are sums."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from history_helpers import START, assert_same, recording_of, verdict
from hypothesis import given
from hypothesis import strategies as st

from modelyard._core.errors import ConfigError
from modelyard.monitor.history.merging import merged
from modelyard.monitor.history.summaries import WindowSummary
from modelyard.monitor.recording.health import Health, health_of

LATENCIES = st.floats(1e-6, 1e3) | st.just(math.nan)
VALUES = st.floats(-1e6, 1e6)


@st.composite
def records(draw):
    """The records of one window: latencies, errors, predictions, metrics, a verdict."""
    n = draw(st.integers(1, 12))
    many = {"min_size": n, "max_size": n}
    return {
        "latencies_s": draw(st.lists(LATENCIES, **many)),
        "errors": draw(st.lists(st.sampled_from([0.0, 1.0]), **many)),
        "predictions": np.array(
            draw(st.lists(st.tuples(VALUES, VALUES), **many)), dtype=float
        ).reshape(n, 2),
        "metrics": {"sharpe": draw(st.lists(VALUES, max_size=5))},
        "score": draw(st.none() | st.floats(0, 3)),
        "threshold": draw(st.sampled_from([0.3, 0.5])),
        "second": draw(st.integers(0, 10**6)),
    }


def summary_of(given):
    data = recording_of(
        given["latencies_s"],
        given["errors"],
        given["predictions"],
        {name: values for name, values in given["metrics"].items() if values},
    )
    at = START.replace(year=2024 + given["second"] % 3).isoformat()
    drift = {"prediction": verdict(given["score"], threshold=given["threshold"])}
    return WindowSummary.of(data, started_at=at, ended_at=at, drift=drift)


@given(st.lists(records(), min_size=1, max_size=5), st.randoms())
def test_the_order_of_windows_does_not_matter(windows, random):
    summaries = [summary_of(window) for window in windows]
    shuffled = list(summaries)
    random.shuffle(shuffled)
    one, other = merged(summaries, span="hour"), merged(shuffled, span="hour")
    assert_same(one.to_plain(), other.to_plain())


@given(st.lists(records(), min_size=2, max_size=5), st.data())
def test_windows_of_hours_of_a_day_are_the_windows_of_a_day(windows, data):
    summaries = [summary_of(window) for window in windows]
    cut = data.draw(st.integers(1, len(summaries) - 1))
    hours = [merged(part, span="hour") for part in (summaries[:cut], summaries[cut:])]
    one, other = merged(hours, span="day"), merged(summaries, span="day")
    assert_same(one.to_plain(), other.to_plain())


@given(st.lists(records(), min_size=1, max_size=5))
def test_several_windows_together_are_the_window_of_all_their_records(windows):
    together = merged([summary_of(window) for window in windows], span="hour")
    latencies_s = np.concatenate([window["latencies_s"] for window in windows])
    predictions = np.concatenate([window["predictions"] for window in windows])
    sharpes = np.concatenate([window["metrics"]["sharpe"] for window in windows])
    health = health_of(
        latencies_s,
        np.concatenate([window["errors"] for window in windows]),
        {"sharpe": sharpes} if len(sharpes) else {},
    )
    found = together.health
    assert (found.n_predictions, found.n_errors) == (health.n_predictions, health.n_errors)
    assert found.error_rate == health.error_rate
    assert found.latency_mean_ms == pytest.approx(health.latency_mean_ms, rel=1e-9, nan_ok=True)
    known_ms = latencies_s[np.isfinite(latencies_s)] * 1000
    if len(known_ms):
        want = np.quantile(known_ms, (0.5, 0.95, 0.99), method="lower").tolist()
        got = [found.latency_median_ms, found.latency_p95_ms, found.latency_p99_ms]
        assert got == pytest.approx(want, rel=0.0101)
    assert {n: (m.n, m.mean) for n, m in found.metrics.items()} == {
        n: (m.n, pytest.approx(m.mean, rel=1e-6, abs=1e-6)) for n, m in health.metrics.items()
    }
    assert [o.n for o in together.outputs] == [len(predictions)] * 2
    for moments, column in zip(together.outputs, predictions.T, strict=True):
        assert moments.mean == pytest.approx(column.mean(), rel=1e-6, abs=1e-6)
        assert moments.m2 == pytest.approx(column.var() * len(column), rel=1e-6, abs=1.0)
    assert together.n_windows == len(windows)


@given(st.lists(records(), min_size=1, max_size=5))
def test_the_worst_drift_and_the_share_of_drifted_windows_are_kept(windows):
    drift = merged([summary_of(window) for window in windows], span="hour").drift["prediction"]
    judged = [window for window in windows if window["score"] is not None]
    n_drifted = sum(window["score"] > window["threshold"] for window in judged)
    assert (drift.n_windows, drift.n_drifted) == (len(judged), n_drifted)
    assert drift.is_drifted == (n_drifted > 0)
    if judged:
        assert drift.score == max(window["score"] for window in judged)
        assert drift.drifted_share == n_drifted / len(judged)
    else:
        assert math.isnan(drift.score)
        assert math.isnan(drift.drifted_share)


@given(records())
def test_a_summary_is_found_again_in_its_plain_values(window):
    summary = summary_of(window)
    plain = json.loads(json.dumps(summary.to_plain(), allow_nan=False))
    again = WindowSummary.from_plain(plain)
    assert again.to_plain() == summary.to_plain()
    assert np.array_equal(again.predictions, summary.predictions)
    apart = WindowSummary.from_plain(summary.figures_to_plain(), summary.sketches_to_plain())
    assert apart.to_plain() == summary.to_plain()


def test_quantiles_of_a_column_far_from_zero_stay_apart():
    rows = 1e9 + np.linspace(0, 1e-3, 300).reshape(-1, 1)
    data = recording_of(np.full(300, 0.01), predictions=rows)
    summary = WindowSummary.of(data, started_at="a", ended_at="b")
    again = WindowSummary.from_plain(json.loads(json.dumps(summary.to_plain())))
    assert len(np.unique(again.predictions)) == 50


def test_a_summary_stored_by_an_earlier_version_is_still_read():
    health = health_of(np.array([0.01, 0.03]), np.array([0.0, 1.0]), {"sharpe": np.array([1.0])})
    plain = {
        "ended_at": START.isoformat(),
        "health": health.to_plain(),
        "predictions": [[0.1, 0.2], [None, None]],
        "features": [],
    }
    old = WindowSummary.from_plain(plain)
    assert (old.span, old.n_windows, old.started_at) == ("window", 1, START.isoformat())
    assert old.predictions[0].tolist() == [0.1, 0.2]
    assert np.isnan(old.predictions[1]).all()
    assert old.features.shape == (0, 0)
    both = merged([old, old], span="hour")
    assert both.health.n_predictions == 4
    assert both.health.latency_mean_ms == pytest.approx(20.0)
    # Without counts by bucket there is only what the windows told.
    assert both.health.latency_p99_ms == pytest.approx(old.health.latency_p99_ms)


def test_old_and_new_summaries_go_together():
    new = summary_of_latencies([0.02] * 4)
    old = replace(new, latency=type(new.latency)())
    both = merged([old, new], span="hour")
    assert both.n_latencies == 8
    assert both.health.latency_mean_ms == pytest.approx(20.0)
    assert both.health.latency_p99_ms == pytest.approx(20.0, rel=0.01)


def test_windows_of_other_widths_go_together():
    one = summary_of_latencies([0.01] * 3, predictions=np.ones((3, 1)))
    two = summary_of_latencies([0.01] * 3, predictions=np.ones((3, 2)))
    assert [moments.n for moments in merged([one, two], span="hour").outputs] == [6, 3]


def test_numbers_too_large_for_sums_of_squares_leave_no_nan_in_the_plain_values():
    summary = summary_of_latencies([0.01] * 3, predictions=np.array([[1e300], [-1e300], [1e300]]))
    both = merged([summary, summary], span="hour")
    json.dumps(both.to_plain(), allow_nan=False)
    assert WindowSummary.from_plain(both.to_plain()).outputs[0].n == 6


def test_nothing_cannot_be_merged():
    with pytest.raises(ConfigError, match="one summary or more"):
        merged([], span="hour")


def test_a_window_without_predictions_has_no_latency():
    data = recording_of([], predictions=np.empty((0, 0)), duration_s=0.0)
    summary = WindowSummary.of(data, started_at="a", ended_at="b")
    again = WindowSummary.from_plain(json.loads(json.dumps(summary.to_plain(), allow_nan=False)))
    assert again.health.n_predictions == 0
    assert isinstance(merged([again], span="hour").health, Health)


def summary_of_latencies(latencies_s, **more):
    at = START.isoformat()
    return WindowSummary.of(recording_of(latencies_s, **more), started_at=at, ended_at=at)
