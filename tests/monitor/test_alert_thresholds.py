"""The four thresholds by name, columns that stopped, and odd values, as readings."""

import math
from dataclasses import replace

import numpy as np
import pytest

from modelyard._core.errors import ConfigError
from modelyard.monitor.alerting.alerts import Severity
from modelyard.monitor.alerting.readings import State
from modelyard.monitor.alerting.thresholds import (
    DEFAULT_THRESHOLDS,
    WATCHED_NAMES,
    checked_thresholds,
    threshold_readings,
)
from modelyard.monitor.drift.detection import DriftVerdict
from modelyard.monitor.recording.health import health_of


def health(n=100, *, latency_s=0.01, n_errors=0):
    errors = np.zeros(n)
    errors[:n_errors] = 1.0
    return health_of(np.full(n, latency_s), errors, {})


def verdict(score=0.1, *, is_drifted=False, is_calibrated=True, problem="", threshold=0.3):
    return DriftVerdict(
        is_drifted=is_drifted,
        score=score,
        threshold=0.3,
        effective_threshold=threshold,
        p_value=0.01,
        is_calibrated=is_calibrated,
        lag1=0.0,
        reason="the reason",
        columns=None,
        n=1000,
        problem=problem,
    )


def readings(now=None, *, drift=None, odd=None, thresholds=DEFAULT_THRESHOLDS, **more):
    found = threshold_readings(now or health(), drift or {}, odd or {}, thresholds, **more)
    return {reading.name: reading for reading in found}


@pytest.mark.parametrize(
    ("latency_s", "state", "severity"),
    [
        (0.05, "calm", "warning"),
        (0.095, "held", "warning"),
        (0.15, "breach", "warning"),
        (0.25, "breach", "critical"),
    ],
)
def test_latency_over_its_threshold_and_over_twice_it(latency_s, state, severity):
    found = readings(health(latency_s=latency_s))["latency_p99_ms"]
    assert (found.state, found.severity) == (State(state), Severity(severity))
    assert found.value == pytest.approx(latency_s * 1000)


def test_a_message_gives_value_and_threshold():
    found = readings(health(n_errors=9))["error_rate"]
    assert found.message == "error_rate is 0.09, over the threshold of 0.05."


def test_below_fifty_predictions_latency_and_errors_are_unknown():
    found = readings(health(49, n_errors=49, latency_s=9.0))
    assert {found[name].state for name in ("latency_p99_ms", "error_rate")} == {State.UNKNOWN}
    assert found["error_rate"].message == "49 predictions in the window; error_rate needs 50."
    assert readings(health(50, n_errors=50))["error_rate"].state is State.BREACH


def test_a_window_without_a_usable_latency_is_unknown():
    assert readings(health(latency_s=math.nan))["latency_p99_ms"].state is State.UNKNOWN


def test_a_threshold_of_none_has_no_reading():
    thresholds = checked_thresholds({"latency_p99_ms": None, "feature_drift": None})
    found = readings(drift={"feature_drift": verdict()}, thresholds=thresholds)
    assert set(found) == {"error_rate", "feature_data", "odd_values"}


@pytest.mark.parametrize(
    ("given", "state", "severity"),
    [
        (verdict(None), "unknown", "warning"),
        (verdict(0.1), "calm", "warning"),
        (verdict(0.28), "held", "warning"),
        (verdict(0.9), "held", "warning"),
        (verdict(0.5, is_drifted=True), "breach", "warning"),
        (verdict(0.7, is_drifted=True), "breach", "critical"),
        (verdict(0.7, is_drifted=True, is_calibrated=False), "breach", "warning"),
        (verdict(0.7, is_drifted=True, threshold=0.5), "breach", "warning"),
    ],
)
def test_drift_is_what_the_verdict_says(given, state, severity):
    found = readings(drift={"feature_drift": given})["feature_drift"]
    assert found.state is State(state)
    if state == "breach":
        assert found.severity is Severity(severity)
        assert found.threshold == given.effective_threshold
    assert found.message == "feature_drift: the reason"


def test_a_column_that_stopped_is_an_alert_of_its_own_at_once():
    stopped = verdict(None, problem="3 of 9 columns had too few finite values.")
    found = readings(drift={"prediction_drift": stopped})
    assert found["prediction_data"].state is State.BREACH
    assert found["prediction_data"].n_consecutive == 1
    assert "3 of 9 columns" in found["prediction_data"].message
    assert found["prediction_drift"].state is State.UNKNOWN


def test_with_few_rows_nobody_knows_whether_they_go_on():
    few = replace(verdict(None), n=49)
    assert readings(drift={"prediction_drift": few})["prediction_data"].state is State.UNKNOWN
    enough = replace(verdict(None), n=50)
    assert readings(drift={"prediction_drift": enough})["prediction_data"].state is State.CALM
    assert readings(drift={"prediction_drift": verdict()})["prediction_data"].state is State.CALM


def test_rows_without_any_number_are_critical():
    lost = replace(verdict(None, problem="None holds a number."), is_lost=True)
    found = readings(drift={"prediction_drift": lost})["prediction_data"]
    assert (found.state, found.severity) == (State.BREACH, Severity.CRITICAL)


def test_odd_values_are_information_at_once():
    found = readings(odd={"bad_latency": 2, "unreadable": 0, "wrong_width_features": 1})
    odd = found["odd_values"]
    assert (odd.state, odd.severity, odd.value) == (State.BREACH, Severity.INFO, 3.0)
    assert odd.n_consecutive == 1
    assert odd.message.endswith("bad_latency 2, wrong_width_features 1")
    assert readings()["odd_values"].state is State.CALM


def test_a_reading_carries_when_the_change_began():
    began = {"feature_drift": "2024-05-31T00:00:00+00:00"}
    found = readings(drift={"feature_drift": verdict()}, began_at=began)
    assert found["feature_drift"].began_at == began["feature_drift"]
    assert found["error_rate"].began_at is None


def test_the_names_are_those_that_no_rule_may_take():
    drift = {"prediction_drift": verdict(), "feature_drift": verdict()}
    assert set(readings(drift=drift)) == WATCHED_NAMES


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, "1", 1j, True, 10**400])
def test_a_threshold_is_a_positive_number(value):
    with pytest.raises(ConfigError, match="'error_rate' must be a finite number above 0"):
        checked_thresholds({"error_rate": value})


def test_an_unknown_threshold_names_the_known_ones_and_the_way_out():
    with pytest.raises(ConfigError, match=r"latency_p99_ms, error_rate.*AlertRule"):
        checked_thresholds({"latency": 1})
