"""The drift verdict as a function of numbers, and how often it is wrong."""

import math

import numpy as np
import pytest
from scipy.signal import lfilter

from modelyard.monitor.alerting.alerts import Severity, breaches_of
from modelyard.monitor.drift.baseline import (
    Baseline,
    Reference,
    reference_of,
    reference_of_blocks,
)
from modelyard.monitor.drift.detection import detect_drift, scores_between
from modelyard.monitor.drift.sketches import MAX_SCORE, sketch_of
from modelyard.monitor.recording.health import health_of


def verdict(reference, rows, null_scores=(), threshold=0.3):
    return detect_drift(
        reference, rows, threshold=threshold, null_scores=null_scores, min_samples=200
    )


def autoregression(rng, r, n, columns):
    noise = rng.normal(size=(n + 500, columns))
    return lfilter([math.sqrt(1 - r * r)], [1, -r], noise, axis=0)[500:]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("shift", [0.25, 0.5, 1.0, 3.0])
def test_the_score_is_the_shift_in_standard_deviations(shift, rng):
    reference = reference_of(rng.normal(5, 2, size=(2000, 1)))
    found = verdict(reference, rng.normal(5 + 2 * shift, 2, size=(2000, 1)))
    assert found.score == pytest.approx(shift, abs=0.08)
    assert found.is_drifted == (shift > 0.3)


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.normal(size=(1000, 20)),
        lambda rng: rng.standard_t(3, size=(1000, 20)),
        lambda rng: rng.lognormal(size=(1000, 20)),
        lambda rng: rng.integers(0, 3, size=(1000, 20)).astype(float),
    ],
)
def test_unchanged_data_raise_no_alarm(draw, rng):
    alarms = [verdict(reference_of(draw(rng)), draw(rng)).is_drifted for _ in range(30)]
    assert sum(alarms) == 0


def test_one_moved_feature_among_263_is_found(rng):
    moved = np.where(np.arange(263) == 17, 0.5, 0.0)
    for _ in range(10):
        reference = reference_of(rng.normal(size=(1000, 263)))
        found = verdict(reference, rng.normal(moved, 1, size=(1000, 263)))
        assert found.is_drifted
        assert np.flatnonzero(found.columns.is_drifted).tolist() == [17]


def test_a_wider_spread_is_drift(rng):
    reference = reference_of(rng.normal(size=(1000, 3)))
    assert verdict(reference, rng.normal(0, 1.5, size=(1000, 3))).is_drifted


def test_a_large_score_by_chance_is_no_drift(rng):
    reference = reference_of(rng.normal(size=(1000, 263)))
    found = verdict(reference, rng.normal(size=(200, 263)), threshold=0.1)
    assert found.score > 0.1
    assert not found.is_drifted
    assert "not significant" in found.reason


def test_a_constant_column_that_changes_is_drift_and_rounding_is_not():
    reference = reference_of(np.ones((500, 2)))
    assert not verdict(reference, np.ones((500, 2))).is_drifted
    assert not verdict(reference, np.ones((500, 2)) * (1 + 1e-7)).is_drifted
    changed = verdict(reference, np.tile([1.0, 2.0], (500, 1)))
    assert changed.is_drifted
    assert changed.score == MAX_SCORE


def test_missing_values_are_left_out_by_column(rng):
    reference = reference_of(rng.normal(size=(1000, 3)))
    rows = rng.normal([0.0, 2.0, 0.0], 1, size=(1000, 3))
    rows[::2, 1] = np.nan
    rows[:900, 2] = np.inf
    found = verdict(reference, rows)
    assert found.columns.is_drifted.tolist() == [False, True, False]
    assert math.isnan(found.columns.scores[2])
    assert "1 columns had too few finite values" in found.reason
    all_missing = verdict(reference, np.full((500, 3), np.nan))
    assert all_missing.score is None
    assert "finite values" in all_missing.reason


def test_a_reference_with_missing_columns_tests_the_others(rng):
    rows = rng.normal(size=(500, 2))
    rows[:, 0] = np.nan
    found = verdict(reference_of(rows), rng.normal(2, 1, size=(500, 2)))
    assert found.columns.is_drifted.tolist() == [False, True]


def test_autocorrelated_data_without_history_are_not_calibrated(rng):
    x = autoregression(rng, 0.95, 2000, 1)
    found = verdict(reference_of(x[:1000]), x[1000:] + 2.0)
    assert found.is_drifted
    assert not found.is_calibrated
    assert "Not calibrated" in found.reason
    independent = verdict(reference_of(rng.normal(size=(1000, 1))), rng.normal(size=(1000, 1)))
    assert independent.is_calibrated


@pytest.mark.parametrize("columns", [1, 20])
def test_past_windows_calibrate_the_threshold_for_autocorrelation(columns, rng):
    naive = calibrated = found = 0
    for _ in range(40):
        x = autoregression(rng, 0.95, 22_000, columns)
        reference = reference_of(x[:1000])
        sketches = [sketch_of(x[i : i + 1000], 50) for i in range(1000, 21_000, 1000)]
        scores = scores_between(sketches, reference.std)
        naive += verdict(reference, x[21_000:]).is_drifted
        calibrated += verdict(reference, x[21_000:], scores).is_drifted
        found += verdict(reference, x[21_000:] + 1.5, scores).is_drifted
    assert naive >= 8
    assert calibrated <= 4
    assert found >= 38


def test_a_long_baseline_calibrates_itself_from_its_blocks(rng):
    alarms = found = 0
    for _ in range(20):
        x = autoregression(rng, 0.95, 21_000, 2)
        reference = reference_of_blocks(x[:20_000], block_size=1000)
        assert len(reference.null_scores) == 20
        alarms += verdict(reference, x[20_000:], reference.null_scores).is_drifted
        found += verdict(reference, x[20_000:] + 1.5, reference.null_scores).is_drifted
    assert alarms <= 3
    assert found == 20
    assert reference_of_blocks(x[:5000], block_size=1000).null_scores == ()


def test_a_change_while_calibrating_does_not_hide_itself(rng):
    x = autoregression(rng, 0.9, 21_000, 1)
    x[10_000:] += 2.0
    reference = reference_of(x[:1000])
    sketches = [sketch_of(x[i : i + 1000], 50) for i in range(0, 20_000, 1000)]
    found = verdict(reference, x[20_000:], scores_between(sketches, reference.std))
    assert found.is_calibrated
    assert found.is_drifted


def test_a_reference_and_a_baseline_survive_json(rng):
    reference = reference_of(rng.normal(size=(300, 3)))
    again = Reference.from_plain(reference.to_plain())
    assert np.allclose(again.sketch, reference.sketch, rtol=1e-5)
    empty = Baseline(set_at="", predictions=None, features=None, health=None)
    assert Baseline.from_plain(empty.to_plain()) == empty


@pytest.mark.parametrize(
    ("score", "is_drifted", "is_calibrated", "severity"),
    [
        (0.2, False, True, None),
        (0.5, True, True, Severity.WARNING),
        (0.7, True, True, Severity.CRITICAL),
        (0.7, True, False, Severity.WARNING),
        (0.7, False, True, None),
    ],
)
def test_uncalibrated_drift_is_at_most_a_warning(score, is_drifted, is_calibrated, severity, rng):
    rows = rng.normal(size=(300, 1))
    base = verdict(reference_of(rows), rows)
    changed = {"score": score, "is_drifted": is_drifted, "is_calibrated": is_calibrated}
    fields = {name: getattr(base, name) for name in base.__dataclass_fields__} | changed
    health = health_of(np.array([]), np.array([]), {})
    breaches = breaches_of(
        health, {"prediction_drift": type(base)(**fields)}, {}, {"prediction_drift": 0.3}
    )
    assert [breach.severity for breach in breaches] == ([severity] if severity else [])


@pytest.mark.parametrize("r", [0.9, 0.95, 0.99])
def test_false_alarms_on_autocorrelated_windows_are_rare(r, rng):
    alarms = 0
    for _ in range(300):
        x = autoregression(rng, r, 22_000, 1)
        reference = reference_of(x[:1000])
        sketches = [sketch_of(x[i : i + 1000], 50) for i in range(1000, 21_000, 1000)]
        scores = scores_between(sketches, reference.std)
        alarms += verdict(reference, x[21_000:], scores).is_drifted
    assert alarms <= 0.08 * 300
