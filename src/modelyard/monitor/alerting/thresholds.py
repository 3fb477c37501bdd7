"""The four thresholds of the monitor by name, and what else every monitor watches."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from modelyard._core.errors import ConfigError
from modelyard.monitor.alerting.alerts import Severity
from modelyard.monitor.alerting.readings import Limit, Reading, State, critical_limit
from modelyard.monitor.arguments import positive_number
from modelyard.monitor.drift.detection import DriftVerdict
from modelyard.monitor.drift.problems import N_NEWEST
from modelyard.monitor.recording.health import Health

DEFAULT_THRESHOLDS: Mapping[str, float] = {
    "latency_p99_ms": 100.0,
    "error_rate": 0.05,
    "prediction_drift": 0.3,
    "feature_drift": 0.3,
}
# With fewer predictions one slow or failed one is over any threshold.
MIN_PREDICTIONS = 50
# A column that stopped shows in the verdict on its distribution, and is an alert of its own.
_DATA_NAMES = {"prediction_drift": "prediction_data", "feature_drift": "feature_data"}
_HEALTH_NAMES = ("latency_p99_ms", "error_rate")
_ODD_VALUES = "odd_values"
WATCHED_NAMES = frozenset({*DEFAULT_THRESHOLDS, *_DATA_NAMES.values(), _ODD_VALUES})


def threshold_readings(
    health: Health,
    drift: Mapping[str, DriftVerdict],
    odd_counts: Mapping[str, int],
    thresholds: Mapping[str, float | None],
    *,
    began_at: Mapping[str, str] | None = None,
) -> list[Reading]:
    """One reading of everything that every monitor watches.

    Args:
        health: Of the current window; below 50 predictions latency and errors are unknown.
        drift: Verdicts by the thresholds' names.
        odd_counts: What could not be used, by kind. The alert is over when all are 0.
        thresholds: By name; one that is None has no reading.
        began_at: When a change began, ISO 8601, by the thresholds' names, as far as known.
    """
    readings = [
        _health_reading(name, getattr(health, name), limit, health.n_predictions)
        for name in _HEALTH_NAMES
        if (limit := thresholds.get(name)) is not None
    ]
    for name, verdict in drift.items():
        if thresholds.get(name) is not None:
            readings.append(_drift_reading(name, verdict))
        readings.append(_data_reading(_DATA_NAMES[name], verdict))
    readings.append(_odd_reading(odd_counts))
    known = began_at or {}
    return [replace(reading, began_at=known.get(reading.name)) for reading in readings]


def checked_thresholds(
    thresholds: Mapping[str, float | None] | None,
) -> dict[str, float | None]:
    """The default thresholds with those given in their place.

    Raises:
        ConfigError: A threshold of unknown name, or no finite number above 0 (of
            `error_rate`, above 0 and up to 1).
    """
    found: dict[str, float | None] = dict(DEFAULT_THRESHOLDS)
    for name, value in dict(thresholds or {}).items():
        if name not in DEFAULT_THRESHOLDS:
            raise ConfigError(
                f"No alert threshold {name!r}. There are: {', '.join(DEFAULT_THRESHOLDS)}. "
                "An AlertRule watches any other figure."
            )
        found[name] = None if value is None else _checked(name, value)
    return found


def _checked(name: str, value: Any) -> float:
    try:
        number = positive_number(value, what=f"Alert threshold {name!r}")
    except ConfigError as error:
        raise ConfigError(f"{error} None switches the alert off.") from error
    if name == "error_rate" and number > 1.0:
        raise ConfigError(
            f"Alert threshold 'error_rate' is a share, 0 to 1, got {value!r}. 0.05 means 5 %."
        )
    return number


def _health_reading(name: str, value: float, threshold: float, n_predictions: int) -> Reading:
    if n_predictions < MIN_PREDICTIONS or math.isnan(value):
        return Reading(
            name=name,
            state=State.UNKNOWN,
            threshold=threshold,
            message=f"{n_predictions} predictions in the window; {name} needs {MIN_PREDICTIONS}.",
        )
    limit = Limit(
        value=threshold, is_upper=True, critical=critical_limit(threshold, is_upper=True)
    )
    state = limit.state_of(value)
    is_breach = state is State.BREACH
    stands = "over" if is_breach else "within"
    return Reading(
        name=name,
        state=state,
        severity=limit.severity_of(value),
        value=value,
        threshold=threshold,
        message=f"{name} is {value:.4g}, {stands} the threshold of {threshold:.4g}.",
    )


def _drift_reading(name: str, verdict: DriftVerdict) -> Reading:
    message = f"{name}: {verdict.reason}"
    threshold = verdict.effective_threshold
    if verdict.score is None:
        return Reading(name=name, state=State.UNKNOWN, threshold=threshold, message=message)
    limit = Limit(
        value=threshold, is_upper=True, critical=critical_limit(threshold, is_upper=True)
    )
    # Uncalibrated on autocorrelated data, the score alone wakes nobody at night.
    severity = limit.severity_of(verdict.score) if verdict.is_calibrated else Severity.WARNING
    return Reading(
        name=name,
        state=_drift_state(verdict, limit.state_of(verdict.score)),
        severity=severity,
        value=verdict.score,
        threshold=threshold,
        message=message,
    )


def _drift_state(verdict: DriftVerdict, by_score: State) -> State:
    if verdict.is_drifted:
        return State.BREACH
    # Over the threshold and not significant: no reason to open an alert, nor to end one.
    return State.HELD if by_score is State.BREACH else by_score


def _data_reading(name: str, verdict: DriftVerdict) -> Reading:
    if verdict.problem:
        # What has stopped is no matter of chance: there is nothing to wait for.
        return Reading(
            name=name,
            state=State.BREACH,
            severity=Severity.CRITICAL if verdict.is_lost else Severity.WARNING,
            message=f"{name}: {verdict.problem}",
            n_consecutive=1,
        )
    is_known = verdict.score is not None or verdict.n >= N_NEWEST
    state = State.CALM if is_known else State.UNKNOWN
    return Reading(name=name, state=state, message=f"{name}: {verdict.reason}")


def _odd_reading(odd_counts: Mapping[str, int]) -> Reading:
    odd = {name: count for name, count in odd_counts.items() if count}
    if not odd:
        return Reading(name=_ODD_VALUES, state=State.CALM, severity=Severity.INFO, value=0.0)
    return Reading(
        name=_ODD_VALUES,
        state=State.BREACH,
        severity=Severity.INFO,
        value=float(sum(odd.values())),
        message="Records with values that could not be used as they were: "
        + ", ".join(f"{name} {count}" for name, count in odd.items()),
        n_consecutive=1,
    )
