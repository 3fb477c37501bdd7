"""The drift verdict as a function of numbers, and how often it is wrong."""

import json
import math

import numpy as np
import pytest
from scipy.signal import lfilter

from modelyard._core.clock import ManualClock
from modelyard.monitor import ModelMonitor
from modelyard.monitor.alerting.alerts import Severity
from modelyard.monitor.alerting.readings import State
from modelyard.monitor.alerting.thresholds import threshold_readings
from modelyard.monitor.drift.baseline import Baseline
from modelyard.monitor.drift.detection import DriftRule, detect_drift
from modelyard.monitor.drift.methods import COLUMN_METHODS, MAX_SCORE, WASSERSTEIN
from modelyard.monitor.drift.past import PastSketches
from modelyard.monitor.drift.references import Reference, reference_of
from modelyard.monitor.drift.sketches import sketch_of
from modelyard.monitor.recording.health import health_of


def verdict(reference, rows, past=(), threshold=0.3, **rule):
    return detect_drift(
        reference, rows, PastSketches(past), DriftRule(threshold=threshold, **rule)
    )


def calibrated_reference(rows, method=WASSERSTEIN):
    return reference_of(rows, block_size=1000, methods=(method,))


def windows(x, start, stop):
    return [sketch_of(x[i : i + 1000], 64) for i in range(start, stop, 1000)]


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


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 20])
def test_past_windows_calibrate_the_threshold_for_autocorrelation(columns, rng):
    naive = calibrated = found = 0
    for _ in range(40):
        x = autoregression(rng, 0.95, 22_000, columns)
        reference, past = reference_of(x[:1000]), windows(x, 1000, 21_000)
        naive += verdict(reference, x[21_000:]).is_drifted
        calibrated += verdict(reference, x[21_000:], past).is_drifted
        found += verdict(reference, x[21_000:] + 1.5, past).is_drifted
    assert naive >= 8
    assert calibrated <= 4
    assert found >= 38


def test_a_long_baseline_calibrates_itself_from_its_blocks(rng):
    alarms = found = 0
    for _ in range(20):
        x = autoregression(rng, 0.95, 21_000, 2)
        reference = calibrated_reference(x[:20_000])
        assert reference.null["wasserstein"].shape == (20, 2)
        alarms += verdict(reference, x[20_000:]).is_drifted
        found += verdict(reference, x[20_000:] + 1.5).is_drifted
    assert alarms <= 3
    assert found == 20
    assert calibrated_reference(x[:5000]).null == {}


def test_a_change_while_calibrating_does_not_hide_itself(rng):
    x = autoregression(rng, 0.9, 21_000, 1)
    x[10_000:] += 2.0
    reference = reference_of(x[:1000])
    found = verdict(reference, x[20_000:], windows(x, 0, 20_000))
    assert found.is_calibrated
    assert found.is_drifted


def test_a_reference_and_a_baseline_survive_json(rng):
    reference = calibrated_reference(rng.normal(1e9, 1e-3, size=(12_000, 3)))
    plain = json.loads(json.dumps(reference.to_plain()))
    again = Reference.from_plain(plain)
    assert np.array_equal(again.sketch, reference.sketch)
    assert again.to_plain() == plain
    empty = Baseline(set_at="", predictions=None, features=None, health=None)
    assert Baseline.from_plain(empty.to_plain()).to_plain() == empty.to_plain()


def test_a_reference_of_an_earlier_version_is_still_read(rng):
    old = {
        "sketch": [[1.0, 2.0, 3.0], [None, None, None]],
        "std": [0.5, None],
        "n": 300,
        "lag1": 0.9,
        "null_scores": [0.1 * i for i in range(12)],
    }
    reference = Reference.from_plain(old)
    assert reference.null["wasserstein"].shape == (12, 2)
    assert verdict(reference, rng.normal(2, 0.5, size=(300, 2))).is_calibrated


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
    readings = threshold_readings(
        health, {"prediction_drift": type(base)(**fields)}, {}, {"prediction_drift": 0.3}
    )
    breaches = [reading for reading in readings if reading.state is State.BREACH]
    assert [breach.severity for breach in breaches] == ([severity] if severity else [])


@pytest.mark.slow
@pytest.mark.parametrize("r", [0.9, 0.95, 0.99])
def test_false_alarms_on_autocorrelated_windows_are_rare(r, rng):
    alarms = 0
    for _ in range(300):
        x = autoregression(rng, r, 22_000, 1)
        past = windows(x, 1000, 21_000)
        alarms += verdict(reference_of(x[:1000]), x[21_000:], past).is_drifted
    assert alarms <= 0.06 * 300


def test_a_column_that_wanders_does_not_hide_another_ones_move(rng):
    """Each column has its own limit: that of the calm one stays where it was set."""
    found = alarms = 0
    for _ in range(20):
        x = np.hstack([autoregression(rng, 0.99, 21_000, 1), rng.normal(size=(21_000, 1))])
        reference = calibrated_reference(x[:20_000])
        alarms += verdict(reference, x[20_000:]).is_drifted
        moved = verdict(reference, x[20_000:] + np.array([0.0, 0.5]))
        found += bool(moved.columns.is_drifted[1])
        assert moved.columns.limits[0] > 0.5
        assert moved.columns.limits[1] == 0.3
    assert found == 20
    assert alarms <= 3


def test_a_window_that_is_not_full_may_wander_further(rng):
    x = autoregression(rng, 0.95, 21_000, 1)
    reference = calibrated_reference(x[:20_000])
    full, quarter = (verdict(reference, x[20_000 : 20_000 + n]) for n in (1000, 250))
    assert quarter.effective_threshold == pytest.approx(2 * full.effective_threshold)


@pytest.mark.parametrize("method", sorted(COLUMN_METHODS))
def test_every_column_method_finds_a_move_and_nothing_else(method, rng):
    threshold = COLUMN_METHODS[method].default_threshold
    for draw in (rng.normal, rng.lognormal, lambda size: rng.integers(0, 4, size).astype(float)):
        reference = reference_of(draw(size=(1000, 5)))
        same = verdict(reference, draw(size=(1000, 5)), threshold=threshold, method=method)
        assert not same.is_drifted
        assert same.method == COLUMN_METHODS[method].label
    reference = reference_of(rng.normal(size=(1000, 5)))
    rows = rng.normal([0.0, 0.0, 1.0, 0.0, 0.0], 1, size=(1000, 5))
    moved = verdict(reference, rows, threshold=threshold, method=method)
    assert np.flatnonzero(moved.columns.is_drifted).tolist() == [2]


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted(COLUMN_METHODS))
def test_every_column_method_can_be_calibrated(method, rng):
    how = COLUMN_METHODS[method]
    alarms = 0
    for _ in range(40):
        x = autoregression(rng, 0.95, 21_000, 3)
        reference = calibrated_reference(x[:20_000], how)
        found = verdict(reference, x[20_000:], threshold=how.default_threshold, method=method)
        assert found.is_calibrated
        alarms += found.is_drifted
    assert alarms <= 4


@pytest.mark.parametrize("method", sorted(COLUMN_METHODS))
def test_constant_columns_that_change_are_drift_by_every_method(method, rng):
    reference = reference_of(np.ones((500, 2)))
    found = verdict(
        reference,
        np.tile([1.0, 0.0], (500, 1)),
        threshold=COLUMN_METHODS[method].default_threshold,
        method=method,
    )
    assert found.columns.is_drifted.tolist() == [False, True]


def test_categories_are_compared_by_their_shares(rng):
    codes = np.array([7.0, 100.0, 3.0])

    def draw(shares):
        return rng.choice(codes, p=shares, size=(1000, 1))

    reference = reference_of(draw([0.5, 0.3, 0.2]), categorical={0})
    assert not verdict(reference, draw([0.5, 0.3, 0.2])).is_drifted
    moved = verdict(reference, draw([0.2, 0.6, 0.2]))
    assert moved.is_drifted
    assert moved.score == pytest.approx(0.3 / math.sqrt(0.3 * 0.7), abs=0.1)
    new = draw([0.5, 0.3, 0.2])
    new[:100] = 55.0
    assert verdict(reference, new).is_drifted  # a category that never came before
    # The codes' order means nothing: exchanged names are a change like any other.
    swapped = np.where(draw([0.5, 0.3, 0.2]) == 7.0, 3.0, 7.0)
    assert verdict(reference, swapped).is_drifted


def test_what_has_settled_is_told_from_what_is_moving(rng):
    x = rng.normal(size=(21_000, 1))
    reference = reference_of(x[:1000])
    x[8_000:] += 1.0
    settled = verdict(reference, x[20_000:], windows(x, 1000, 20_000))
    assert settled.is_drifted
    assert settled.is_changing is False
    assert settled.rolling_score < 0.1
    sudden = verdict(reference, x[20_000:] + 1.0, windows(x, 1000, 20_000))
    assert sudden.is_changing is True


@pytest.mark.slow
@pytest.mark.parametrize("r", [0.0, 0.9])
def test_mmd_sees_what_no_column_shows(r, rng):
    def draw(correlation):
        x = autoregression(rng, r, 3000, 2)
        x[:, 1] = correlation * x[:, 0] + math.sqrt(1 - correlation**2) * x[:, 1]
        return x

    alarms = found = 0
    for seed in range(20):
        reference = reference_of(draw(0.0))
        rule = {"threshold": 0.005, "method": "mmd", "seed": seed}
        alarms += verdict(reference, draw(0.0)[:1000], **rule).is_drifted
        found += verdict(reference, draw(0.95)[:1000], **rule).is_drifted
    assert alarms <= 3
    assert found >= (20 if r == 0 else 15)
    assert not verdict(reference, draw(0.95)[:1000]).is_drifted or r > 0


def test_a_joint_method_says_what_it_cannot_do(rng):
    reference = reference_of(rng.normal(size=(500, 2)))
    rows = np.full((500, 2), np.nan)
    assert verdict(reference, rows, method="mmd").score is None


# ── what hides a change, and what only looks like one ───────────────────────────────────────


def test_one_bad_tick_does_not_blind_a_column(rng):
    for tick in (1e6, 100.0):
        baseline = rng.normal(size=(1000, 1))
        baseline[500] = tick
        reference = reference_of(baseline)
        assert reference.std[0] < 1.5
        assert verdict(reference, rng.normal(1.0, 1, size=(1000, 1))).is_drifted


def test_few_other_values_in_a_column_that_was_constant_are_drift(rng):
    reference = reference_of(np.ones((1000, 263)))
    rows = np.ones((1000, 263))
    rows[rng.random(1000) < 0.05, 7] = 2.0
    found = verdict(reference, rows)
    assert np.flatnonzero(found.columns.is_drifted).tolist() == [7]


@pytest.mark.slow
@pytest.mark.parametrize("columns", [1, 263])
@pytest.mark.parametrize("n", [200, 1000])
def test_any_size_of_window_raises_no_alarm_by_chance(n, columns, rng):
    alarms = sum(
        verdict(
            reference_of(rng.normal(size=(n, columns))),
            rng.normal(size=(n, columns)),
            window_size=n,
        ).is_drifted
        for _ in range(60)
    )
    assert alarms <= 2


def test_slow_movement_under_noise_is_not_called_calibrated(rng):
    alarms = 0
    for _ in range(30):
        slow = autoregression(rng, 0.999, 2000, 1)
        x = math.sqrt(0.6) * rng.normal(size=(2000, 1)) + math.sqrt(0.4) * slow
        found = verdict(reference_of(x[:1000]), x[1000:])
        alarms += found.is_drifted and found.is_calibrated
    assert alarms <= 2
    season = np.sin(np.arange(2000) / 500.0)[:, None] + rng.normal(size=(2000, 1))
    found = verdict(reference_of(season[:1000]), season[1000:])
    assert not found.is_calibrated
    assert "Not calibrated" in found.reason


def test_an_incident_does_not_hide_the_next_change(rng):
    found = alarms = 0
    for _ in range(20):
        x = rng.normal(size=(17_000, 1))
        x[13_000:14_000] += 3.0
        reference, past = reference_of(x[:1000]), windows(x, 1000, 16_000)
        alarms += verdict(reference, x[16_000:], past).is_drifted
        found += verdict(reference, x[16_000:] + 1.0, past).is_drifted
    assert found == 20
    assert alarms == 0


def test_answers_of_one_value_only_are_a_problem(rng):
    varied = rng.choice([0.0, 1.0], p=[0.96, 0.04], size=(1000, 1))
    found = verdict(reference_of(varied), np.zeros((1000, 1)))
    assert "had one value only" in found.problem
    rare = rng.choice([0.0, 1.0], p=[0.999, 0.001], size=(1000, 1))
    assert verdict(reference_of(rare), np.zeros((1000, 1))).problem == ""
    constant = verdict(reference_of(rng.normal(size=(1000, 1))), np.full((1000, 1), 0.3))
    assert constant.is_drifted
    assert constant.is_calibrated
    assert "had one value only" in constant.problem


def test_a_column_that_goes_missing_more_often_is_a_problem(rng):
    rows = rng.normal(size=(1000, 2))
    half = rows.copy()
    half[::2, 1] = np.nan
    assert "1 of 2 columns miss up to 50% of rows" in verdict(reference_of(rows), half).problem
    assert verdict(reference_of(half), half).problem == ""
    few = rows.copy()
    few[::50, 1] = np.nan
    assert verdict(reference_of(rows), few).problem == ""


@pytest.mark.parametrize("has_baseline", [False, True])
def test_answers_without_a_number_are_critical_and_over_when_numbers_come(has_baseline, rng):
    monitor = ModelMonitor("ppo", background=False, clock=ManualClock())
    if has_baseline:
        monitor.set_baseline(predictions=rng.normal(size=(1000, 1)))
    for _ in range(60):
        monitor.record_prediction(math.nan, 0.01)
    assert [a["name"] for a in monitor.get_alerts("critical")] == ["prediction_data"]
    for value in rng.normal(size=1000):
        monitor.record_prediction(value, 0.01)
    assert [a["is_active"] for a in monitor.get_alerts("critical")] == [False]


@pytest.mark.parametrize("n_new", [100, 300, 500, 900])
def test_a_change_within_the_window_is_no_sign_that_values_wander(n_new, rng):
    """A sudden change is urgent at once, not when the window is full of it."""
    x = rng.normal(size=(2000, 3))
    x[2000 - n_new :, 1] += 3.0
    found = verdict(reference_of(x[:1000]), x[1000:])
    assert found.is_drifted
    assert found.is_calibrated


def test_what_wanders_wanders_on_without_its_largest_step(rng):
    x = autoregression(rng, 0.95, 2000, 5)
    assert not verdict(reference_of(x[:1000]), x[1000:]).is_calibrated
