"""The book and the breaches as the monitor uses them until it is wired to readings.

To be deleted with that; `alerts.py` gives these names on in its last lines.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

from modelyard._core.errors import ConfigError
from modelyard._core.ids import new_id
from modelyard.monitor.alerting.alerts import Alert, Breach, Origin, Severity
from modelyard.monitor.drift.detection import DriftVerdict
from modelyard.monitor.recording.health import Health

DEFAULT_THRESHOLDS: Mapping[str, float] = {
    "latency_p99_ms": 100.0,
    "error_rate": 0.05,
    "prediction_drift": 0.3,
    "feature_drift": 0.3,
}
# With fewer predictions one slow or failed one is over any threshold.
MIN_PREDICTIONS = 50
_CRITICAL_FACTOR = 2.0


# What an evaluation measures and therefore resolves; other alerts are reported from outside.
_DATA_ALERTS = {"prediction_drift": "prediction_data", "feature_drift": "feature_data"}
_EVALUATED = frozenset({*DEFAULT_THRESHOLDS, *_DATA_ALERTS.values(), "odd_values"})


class AlertBook:
    """Every alert, one for each uninterrupted breach.

    Not thread-safe: the monitor that owns it locks.

    Args:
        alerts: Those already known, oldest first.
    """

    def __init__(self, alerts: Sequence[Alert] = ()) -> None:
        self._alerts = {alert.alert_id: alert for alert in alerts}
        self._active = {
            a.breach.name: a.alert_id
            for a in alerts
            if a.resolved_at is None and a.breach.name in _EVALUATED
        }

    def update(self, breaches: Sequence[Breach], *, at: str) -> list[Alert]:
        """Take the breaches of one evaluation; alerts without one are resolved.

        Returns:
            The alerts that are new or have changed.
        """
        seen = {breach.name for breach in breaches}
        gone = [name for name in self._active if name not in seen]
        changed = [replace(self._alerts[self._active.pop(name)], resolved_at=at) for name in gone]
        changed += [self._seen(breach, at) for breach in breaches]
        self._alerts.update({alert.alert_id: alert for alert in changed})
        return changed

    def report(self, breach: Breach, *, at: str) -> Alert:
        """Take something that was not measured here; no evaluation resolves it.

        The same name and message again counts as the same alert.
        """
        known = next(
            (
                alert
                for alert in self._alerts.values()
                if alert.resolved_at is None
                and (alert.breach.name, alert.breach.message) == (breach.name, breach.message)
            ),
            None,
        )
        if known is None:
            alert = Alert(
                alert_id=new_id("alert"),
                breach=breach,
                first_seen=at,
                last_seen=at,
                count=1,
                origin=Origin.REPORT,
            )
        else:
            alert = replace(known, breach=breach, last_seen=at, count=known.count + 1)
        self._alerts[alert.alert_id] = alert
        return alert

    def select(
        self, *, severity: Severity | None = None, since: str | None = None, active: bool = False
    ) -> list[Alert]:
        """Alerts, oldest first.

        Args:
            severity: Only of this one.
            since: Only those seen at or after this time, ISO 8601 in UTC.
            active: Only those that are not resolved.
        """
        return [
            alert
            for alert in self._alerts.values()
            if (severity is None or alert.breach.severity == severity)
            and (since is None or alert.last_seen >= since)
            and not (active and alert.resolved_at is not None)
        ]

    def _seen(self, breach: Breach, at: str) -> Alert:
        alert_id = self._active.get(breach.name)
        if alert_id is None:
            alert_id = self._active[breach.name] = new_id("alert")
            return Alert(alert_id=alert_id, breach=breach, first_seen=at, last_seen=at, count=1)
        known = self._alerts[alert_id]
        worst = max(known.breach.severity, breach.severity, key=lambda item: item.rank)
        return replace(
            known,
            breach=replace(breach, severity=worst),
            last_seen=at,
            count=known.count + 1,
        )


def breaches_of(
    health: Health,
    drift: Mapping[str, DriftVerdict],
    odd_counts: Mapping[str, int],
    thresholds: Mapping[str, float | None],
) -> list[Breach]:
    """Everything over its threshold.

    Args:
        health: Of the current window; below 50 predictions latency and errors are not judged.
        drift: Verdicts by the thresholds' names.
        odd_counts: What could not be used, by kind.
        thresholds: By name; None switches one off.
    """
    breaches = []
    if health.n_predictions >= MIN_PREDICTIONS:
        for name in ("latency_p99_ms", "error_rate"):
            value = getattr(health, name)
            breaches += _over(name, value, thresholds.get(name), f"{name} is {value:.4g}")
    for name, verdict in drift.items():
        breaches += _drift_breach(name, verdict, thresholds.get(name))
        breaches += _data_breach(_DATA_ALERTS[name], verdict)
    odd = {name: count for name, count in odd_counts.items() if count}
    if odd:
        breaches.append(
            Breach(
                name="odd_values",
                severity=Severity.INFO,
                value=float(sum(odd.values())),
                threshold=math.nan,
                message="Records with values that could not be used as they were: "
                + ", ".join(f"{name} {count}" for name, count in odd.items()),
            )
        )
    return breaches


def checked_thresholds(
    thresholds: Mapping[str, float | None] | None,
) -> dict[str, float | None]:
    """The default thresholds with those given in their place.

    Raises:
        ConfigError: A threshold of unknown name, or no positive number.
    """
    given: dict[str, Any] = dict(thresholds or {})
    for name, value in given.items():
        if name not in DEFAULT_THRESHOLDS:
            raise ConfigError(
                f"No alert threshold {name!r}. There are: {', '.join(DEFAULT_THRESHOLDS)}."
            )
        if value is not None and not (isinstance(value, Real) and float(value) > 0.0):
            raise ConfigError(
                f"Alert threshold {name!r} must be above 0, or None for no alert; got {value!r}."
            )
    return {**DEFAULT_THRESHOLDS, **given}


def _over(name: str, value: float, threshold: float | None, text: str) -> list[Breach]:
    if threshold is None or not value > threshold:
        return []
    is_critical = value > _CRITICAL_FACTOR * threshold
    return [
        Breach(
            name=name,
            severity=Severity.CRITICAL if is_critical else Severity.WARNING,
            value=value,
            threshold=threshold,
            message=f"{text}, over the threshold of {threshold:.4g}.",
        )
    ]


def _data_breach(name: str, verdict: DriftVerdict) -> list[Breach]:
    if not verdict.problem:
        return []
    return [
        Breach(
            name=name,
            severity=Severity.WARNING,
            value=math.nan,
            threshold=math.nan,
            message=f"{name}: {verdict.problem}",
        )
    ]


def _drift_breach(name: str, verdict: DriftVerdict, threshold: float | None) -> list[Breach]:
    if threshold is None or not verdict.is_drifted or verdict.score is None:
        return []
    found = _over(name, verdict.score, verdict.effective_threshold, name)
    # Uncalibrated on autocorrelated data, the score alone wakes nobody at night.
    most = Severity.CRITICAL if verdict.is_calibrated else Severity.WARNING
    return [
        replace(
            breach,
            severity=min(breach.severity, most, key=lambda item: item.rank),
            message=f"{name}: {verdict.reason}",
        )
        for breach in found
    ]
