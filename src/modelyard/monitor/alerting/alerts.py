"""What an alert is: something over its limit, over time, and what happened to it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypedDict

from modelyard._core.errors import ConfigError
from modelyard._core.ids import new_id
from modelyard._core.plain import finite_or_none


class Severity(StrEnum):
    """How urgent: something to know, over the limit, over twice the limit."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for info, 2 for critical."""
        return list(Severity).index(self)


class Origin(StrEnum):
    """Who raises and ends an alert: a rule at each evaluation, or someone outside."""

    RULE = "rule"
    REPORT = "report"


class AlertDict(TypedDict):
    """One alert; times ISO 8601 in UTC.

    Attributes:
        alert_id: Unique.
        name: Of the rule, or of what was reported.
        severity: The worst since it was opened: `info`, `warning` or `critical`.
        message: A sentence with the numbers, as seen last.
        value: As measured last; None where there is none.
        threshold: As set; None where there is none.
        first_seen: The first evaluation in breach.
        last_seen: The last evaluation in breach.
        count: Evaluations in breach.
        is_active: Whether it is not resolved.
        resolved_at: When it was over; None while it is active.
        resolved_by: Who resolved it by hand; None if an evaluation did.
        acknowledged_at: When someone said they had seen it, at its present severity.
        acknowledged_by: Who.
        began_at: When the change began, as far as known.
        origin: `rule` or `report` (raised from outside; only a hand resolves it).
        is_silenced: Whether it was resolved by hand and has not been calm since.
    """

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
    resolved_by: str | None
    acknowledged_at: str | None
    acknowledged_by: str | None
    began_at: str | None
    origin: str
    is_silenced: bool


@dataclass(frozen=True, kw_only=True)
class Breach:
    """Something over its limit at one evaluation.

    Attributes:
        name: Of the rule, or of what is reported.
        severity: How urgent.
        value: As measured; NaN where there is none.
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
    """A breach over time. Attributes not told here are those of `AlertDict`.

    Attributes:
        breach: As seen last, with the worst severity so far.
        first_seen: ISO 8601 in UTC, as every time here.
    """

    alert_id: str
    breach: Breach
    first_seen: str
    last_seen: str
    count: int
    resolved_at: str | None = None
    resolved_by: str | None = None
    acknowledged_at: str | None = None
    acknowledged_by: str | None = None
    began_at: str | None = None
    origin: Origin = Origin.RULE
    is_silenced: bool = False

    @property
    def is_active(self) -> bool:
        """Whether it is not resolved."""
        return self.resolved_at is None

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
            "is_active": self.is_active,
            "resolved_at": self.resolved_at,
            "resolved_by": self.resolved_by,
            "acknowledged_at": self.acknowledged_at,
            "acknowledged_by": self.acknowledged_by,
            "began_at": self.began_at,
            "origin": self.origin.value,
            "is_silenced": self.is_silenced,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Alert":
        """The alert that `to_dict` described, also one stored before it had all keys."""
        breach = Breach(
            name=plain["name"],
            severity=Severity(plain["severity"]),
            value=math.nan if plain["value"] is None else plain["value"],
            threshold=math.nan if plain["threshold"] is None else plain["threshold"],
            message=plain["message"],
        )
        origin = plain.get("origin") or _origin_of(plain["name"])
        return cls(
            alert_id=plain["alert_id"],
            breach=breach,
            first_seen=plain["first_seen"],
            last_seen=plain["last_seen"],
            count=plain["count"],
            resolved_at=plain["resolved_at"],
            resolved_by=plain.get("resolved_by"),
            acknowledged_at=plain.get("acknowledged_at"),
            acknowledged_by=plain.get("acknowledged_by"),
            began_at=plain.get("began_at"),
            origin=Origin(origin),
            is_silenced=plain.get("is_silenced", False),
        )


class EventKind(StrEnum):
    """What happened to an alert."""

    OPENED = "opened"
    SEEN = "seen"
    WORSENED = "worsened"
    REOPENED = "reopened"
    RESOLVED = "resolved"
    ACKNOWLEDGED = "acknowledged"
    UNSILENCED = "unsilenced"


class AlertEventDict(TypedDict):
    """What a sink is given: what happened, when, to which alert of which model.

    Attributes:
        event_id: Unique; the same each time this event is delivered.
        event: `opened`, `worsened`, `reopened`, `resolved` or `acknowledged`.
        at: ISO 8601 in UTC.
        model_name: Whose alert.
        alert: As it is after the event.
    """

    event_id: str
    event: str
    at: str
    model_name: str
    alert: AlertDict


@dataclass(frozen=True, kw_only=True)
class AlertEvent:
    """Something that happened to an alert.

    Attributes:
        kind: What.
        at: When, ISO 8601.
        alert: As it is after it.
        is_news: Whether sinks are told; the other events only change what is stored.
    """

    kind: EventKind
    at: str
    alert: Alert
    is_news: bool

    def to_dict(self, model_name: str) -> AlertEventDict:
        """As plain values for sinks, with a new id."""
        return {
            "event_id": new_id("event"),
            "event": self.kind.value,
            "at": self.at,
            "model_name": model_name,
            "alert": self.alert.to_dict(),
        }


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


# Alerts that were stored before they said where they come from.
_EARLIER_RULES = frozenset(
    {
        "latency_p99_ms",
        "error_rate",
        "prediction_drift",
        "feature_drift",
        "prediction_data",
        "feature_data",
        "odd_values",
    }
)


def _origin_of(name: str) -> Origin:
    return Origin.RULE if name in _EARLIER_RULES else Origin.REPORT


from modelyard.monitor.alerting._until_wired import (  # noqa: E402 - goes when the monitor is wired
    DEFAULT_THRESHOLDS,
    AlertBook,
    breaches_of,
    checked_thresholds,
)

__all__ = [
    "DEFAULT_THRESHOLDS",
    "Alert",
    "AlertBook",
    "AlertDict",
    "AlertEvent",
    "AlertEventDict",
    "Breach",
    "EventKind",
    "Origin",
    "Severity",
    "as_utc_text",
    "breaches_of",
    "checked_severity",
    "checked_thresholds",
]
