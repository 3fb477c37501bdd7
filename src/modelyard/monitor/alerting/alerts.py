"""What is over its threshold, and the book that says it once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from numbers import Real
from typing import Any, TypedDict

from modelyard._core.errors import ConfigError
from modelyard._core.ids import new_id
from modelyard._core.plain import finite_or_none
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


class Severity(StrEnum):
    """How urgent: something to know, over the threshold, over twice the threshold."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for info, 2 for critical."""
        return list(Severity).index(self)


class AlertDict(TypedDict):
    """One alert; times ISO 8601, `resolved_at` None while it is active."""

    alert_id: str
    name: str
    severity: str
    message: str
    value: float | None
    threshold: float | None
    first_seen: str
    last_seen: str
    count: int
    is_active: bool
    resolved_at: str | None


# What an evaluation measures and therefore resolves; other alerts are reported from outside.
_DATA_ALERTS = {"prediction_drift": "prediction_data", "feature_drift": "feature_data"}
_EVALUATED = frozenset({*DEFAULT_THRESHOLDS, *_DATA_ALERTS.values(), "odd_values"})


@dataclass(frozen=True, kw_only=True)
class Breach:
    """Something over its threshold at this evaluation.

    Attributes:
        name: What, one of the thresholds' names, `prediction_data`, `feature_data` or
            `odd_values`.
        severity: How urgent.
        value: As measured.
        threshold: As set; NaN where there is none.
        message: A sentence with the numbers.
    """

    name: str
    severity: Severity
    value: float
    threshold: float
    message: str


@dataclass(frozen=True, kw_only=True)
class Alert:
    """A breach over time.

    Attributes:
        alert_id: Unique.
        breach: As seen last, with the worst severity so far.
        first_seen: When it began, ISO 8601.
        last_seen: The last evaluation that saw it.
        count: Evaluations that saw it.
        resolved_at: When an evaluation saw it no more; None while it is active.
    """

    alert_id: str
    breach: Breach
    first_seen: str
    last_seen: str
    count: int
    resolved_at: str | None = None

    def to_dict(self) -> AlertDict:
        """As plain values."""
        return {
            "alert_id": self.alert_id,
            "name": self.breach.name,
            "severity": self.breach.severity.value,
            "message": self.breach.message,
            "value": finite_or_none(self.breach.value),
            "threshold": finite_or_none(self.breach.threshold),
            "first_seen": self.first_seen,
            "last_seen": self.last_seen,
            "count": self.count,
            "is_active": self.resolved_at is None,
            "resolved_at": self.resolved_at,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Alert":
        """The alert that `to_dict` described."""
        breach = Breach(
            name=plain["name"],
            severity=Severity(plain["severity"]),
            value=math.nan if plain["value"] is None else plain["value"],
            threshold=math.nan if plain["threshold"] is None else plain["threshold"],
            message=plain["message"],
        )
        return cls(
            alert_id=plain["alert_id"],
            breach=breach,
            first_seen=plain["first_seen"],
            last_seen=plain["last_seen"],
            count=plain["count"],
            resolved_at=plain["resolved_at"],
        )


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
                alert_id=new_id("alert"), breach=breach, first_seen=at, last_seen=at, count=1
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


def checked_severity(severity: str | None) -> Severity | None:
    """The severity of this name, or None for all.

    Raises:
        ConfigError: No such severity.
    """
    if severity is None:
        return None
    try:
        return Severity(severity)
    except ValueError as error:
        raise ConfigError(
            f"severity must be one of {', '.join(Severity)}; got {severity!r}."
        ) from error


def as_utc_text(moment: datetime | str | None) -> str | None:
    """A time as the alerts have it, for comparing.

    Raises:
        ConfigError: No time.
    """
    if moment is None:
        return None
    try:
        moment = moment if isinstance(moment, datetime) else datetime.fromisoformat(moment)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"since must be a datetime or text such as 2024-06-01T12:00:00, got {moment!r}."
        ) from error
    # A time without a zone is taken as UTC, as every time here is.
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return aware.astimezone(UTC).isoformat()


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
