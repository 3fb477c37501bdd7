"""The book of alerts: what is wrong, said once, until it is over.

A rule's alert opens after two evaluations in breach (one of them may be chance), is held while
the value is just inside the limit, and is resolved by a calm evaluation. A breach soon after
that reopens the same alert without telling anyone again, unless it is worse or lasts.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from modelyard._core.errors import ConfigError, NotFoundError
from modelyard._core.ids import new_id
from modelyard.monitor.alerting.alerts import (
    Alert,
    AlertEvent,
    Breach,
    EventKind,
    Origin,
    Severity,
)
from modelyard.monitor.alerting.readings import Reading, State

N_CONSECUTIVE = 2
COOLDOWN_S = 300.0
N_RESOLVED_KEPT = 10_000
# A report whose message differs each time would otherwise leave an alert each time, and only a
# hand resolves those.
N_REPORTED = 100


@dataclass(frozen=True)
class _Pending:
    """Breaches in a row of a rule that has no alert yet."""

    since: str
    count: int


class AlertBook:
    """Every alert: the active ones, and the last of those that are over.

    Each method returns what happened, in order; the last event of each alert holds the alert as
    the book has it, so whoever stores these alerts has stored the book.

    Not thread-safe: the monitor that owns it locks.

    Args:
        alerts: Those already known, oldest first.
        n_consecutive: Evaluations in breach in a row before an alert opens; a reading may ask
            for another number. Evaluations that knew nothing do not break the row.
        cooldown_s: Seconds after its resolution in which a breach reopens an alert quietly. One
            that has been open again for as long is told.
        n_resolved_kept: Resolved alerts beyond this number are forgotten, oldest first.

    Raises:
        ConfigError: A number below 1, or a negative `cooldown_s`.
    """

    def __init__(
        self,
        alerts: Sequence[Alert] = (),
        *,
        n_consecutive: int = N_CONSECUTIVE,
        cooldown_s: float = COOLDOWN_S,
        n_resolved_kept: int = N_RESOLVED_KEPT,
    ) -> None:
        if n_consecutive < 1 or n_resolved_kept < 1 or not cooldown_s >= 0.0:
            raise ConfigError(
                "n_consecutive and n_resolved_kept must be 1 or more and cooldown_s 0 or more; "
                f"got {n_consecutive}, {n_resolved_kept} and {cooldown_s}."
            )
        self._n_consecutive = n_consecutive
        self._cooldown_s = cooldown_s
        self._n_resolved_kept = n_resolved_kept
        self._alerts: dict[str, Alert] = {}
        # In the order in which they were resolved, so that the oldest can be forgotten.
        self._resolved: OrderedDict[str, None] = OrderedDict()
        # The last alert of each rule, active or not.
        self._last: dict[str, str] = {}
        self._pending: dict[str, _Pending] = {}
        # When an alert was reopened without a word to anyone.
        self._quiet_since: dict[str, str] = {}
        # Active alerts of a rule that has another one: two programs wrote to one store.
        self._strays: list[str] = []
        # Rules that had a reading at the last evaluation.
        self._watched: set[str] = set()
        self._load(alerts)

    def update(self, readings: Sequence[Reading], *, at: datetime) -> list[AlertEvent]:
        """Take one evaluation.

        Args:
            readings: One of each rule. An active alert of a rule that had a reading before and has
                none now is resolved: nothing watches it any more. One of a rule never seen here
                is another process's, and is left to it or to a person.
            at: When, with its zone.
        """
        moment = _text(at)
        names = {reading.name for reading in readings}
        gone = [self._last[name] for name in sorted(self._watched - names) if name in self._last]
        self._watched = names
        unwatched = [self._alerts.get(alert_id) for alert_id in [*self._strays, *gone]]
        self._strays.clear()
        events = [self._resolve(alert, moment) for alert in unwatched if alert and alert.is_active]
        for reading in readings:
            events += self._take(reading, moment)
        return events

    def report(
        self, breach: Breach, *, at: datetime, began_at: str | None = None
    ) -> list[AlertEvent]:
        """Take something that no rule measures; only `resolve` ends it.

        The same name and message again counts as the same alert. At most 100 of one name are
        active: another one resolves the one that was not seen for longest.

        Raises:
            ConfigError: A name or message that is no text.
        """
        _checked_text(breach.name, what="the name of an alert")
        _checked_text(breach.message, what="the message of an alert")
        moment = _text(at)
        active = self._reported(breach.name)
        known = next((alert for alert in active if alert.breach.message == breach.message), None)
        if known is not None:
            return [self._seen_again(known, breach, moment)]
        # Sorting is stable: of those seen at one moment the first one opened goes first.
        oldest = sorted(active, key=lambda alert: alert.last_seen)
        n_over = max(0, len(active) + 1 - N_REPORTED)
        events = [self._resolve(alert, moment, by="monitor") for alert in oldest[:n_over]]
        opened = self._open(
            breach, Origin.REPORT, _Pending(moment, 1), at=moment, began_at=began_at or moment
        )
        return [*events, opened]

    def would_open(self, readings: Sequence[Reading]) -> bool:
        """Whether a reading is in breach that would open an alert if it had been so before."""
        return any(
            reading.state is State.BREACH
            and reading.name not in self._pending
            and not self._is_active(reading.name)
            for reading in readings
        )

    def acknowledge(self, alert_id: str, *, by: str, at: datetime) -> list[AlertEvent]:
        """Note that someone has seen an alert; a second time changes nothing.

        Should it get worse, that has not been seen: the acknowledgement goes.

        Raises:
            ConfigError: `by` is no text.
            NotFoundError: No such alert.
        """
        _checked_text(by, what="by")
        alert = self.get(alert_id)
        if alert.acknowledged_at is not None:
            return []
        alert = replace(alert, acknowledged_at=_text(at), acknowledged_by=by)
        return [self._noted(EventKind.ACKNOWLEDGED, alert, _text(at), is_news=True)]

    def resolve(self, alert_id: str, *, by: str, at: datetime) -> list[AlertEvent]:
        """Say that an alert is over; a second time changes nothing.

        Its rule is then silent until it was calm once, or is worse.

        Raises:
            ConfigError: `by` is no text.
            NotFoundError: No such alert.
        """
        _checked_text(by, what="by")
        alert = self.get(alert_id)
        if not alert.is_active:
            return []
        return [self._resolve(alert, _text(at), by=by)]

    def get(self, alert_id: str) -> Alert:
        """The alert of this id.

        Raises:
            NotFoundError: No such alert.
        """
        alert = self._alerts.get(alert_id)
        if alert is None:
            raise NotFoundError(
                f"No alert {alert_id!r}. get_alerts() lists the active ones and the last "
                f"{self._n_resolved_kept} that are over."
            )
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
            and not (active and not alert.is_active)
        ]

    def _reported(self, name: str) -> list[Alert]:
        return [
            alert
            for alert in self._alerts.values()
            if alert.is_active and alert.origin is Origin.REPORT and alert.breach.name == name
        ]

    def _is_active(self, name: str) -> bool:
        alert_id = self._last.get(name)
        return alert_id is not None and self._alerts[alert_id].is_active

    def _take(self, reading: Reading, at: str) -> list[AlertEvent]:
        alert_id = self._last.get(reading.name)
        alert = None if alert_id is None else self._alerts[alert_id]
        if reading.state is State.BREACH:
            return self._take_breach(reading, alert, at)
        if reading.state is not State.UNKNOWN:
            self._pending.pop(reading.name, None)
        if reading.state is not State.CALM or alert is None:
            return []
        if alert.is_active:
            return [self._resolve(alert, at)]
        return [self._unsilence(alert, at)] if alert.is_silenced else []

    def _take_breach(self, reading: Reading, alert: Alert | None, at: str) -> list[AlertEvent]:
        breach = _breach_of(reading)
        if alert is not None and alert.is_active:
            return [self._seen_again(alert, breach, at)]
        if alert is not None and alert.is_silenced and not _is_worse(breach, alert):
            self._pending.pop(reading.name, None)
            return []
        if alert is not None and self._is_recent(alert, at):
            return [self._reopen(alert, breach, at)]
        before = self._pending.pop(reading.name, _Pending(at, 0))
        pending = _Pending(before.since, before.count + 1)
        if pending.count < (reading.n_consecutive or self._n_consecutive):
            self._pending[reading.name] = pending
            return []
        opened = self._open(breach, Origin.RULE, pending, at=at, began_at=reading.began_at)
        self._last[reading.name] = opened.alert.alert_id
        if alert is None or not alert.is_silenced:
            return [opened]
        return [self._unsilence(alert, at), opened]

    def _open(
        self,
        breach: Breach,
        origin: Origin,
        pending: _Pending,
        *,
        at: str,
        began_at: str | None,
    ) -> AlertEvent:
        alert = Alert(
            alert_id=new_id("alert"),
            breach=breach,
            first_seen=pending.since,
            last_seen=max(at, pending.since),
            count=pending.count,
            origin=origin,
            began_at=began_at,
        )
        return self._noted(EventKind.OPENED, alert, at, is_news=True)

    def _seen_again(self, alert: Alert, breach: Breach, at: str) -> AlertEvent:
        seen = _seen(alert, breach, at)
        if _is_worse(breach, alert):
            self._quiet_since.pop(alert.alert_id, None)
            return self._noted(EventKind.WORSENED, seen, at, is_news=True)
        quiet_since = self._quiet_since.get(alert.alert_id)
        if quiet_since is not None and _seconds(quiet_since, at) >= self._cooldown_s:
            del self._quiet_since[alert.alert_id]
            return self._noted(EventKind.REOPENED, seen, at, is_news=True)
        return self._noted(EventKind.SEEN, seen, at, is_news=False)

    def _reopen(self, alert: Alert, breach: Breach, at: str) -> AlertEvent:
        seen = replace(
            _seen(alert, breach, at), resolved_at=None, resolved_by=None, is_silenced=False
        )
        if _is_worse(breach, alert):
            return self._noted(EventKind.WORSENED, seen, at, is_news=True)
        self._quiet_since[alert.alert_id] = at
        return self._noted(EventKind.REOPENED, seen, at, is_news=False)

    def _resolve(self, alert: Alert, at: str, *, by: str | None = None) -> AlertEvent:
        # Of a quiet reopening nobody was told, so nobody waits for its end.
        is_news = self._quiet_since.pop(alert.alert_id, None) is None
        is_silenced = by is not None and alert.origin is Origin.RULE
        # The wall clock may have gone back since it was seen.
        alert = replace(
            alert, resolved_at=max(at, alert.last_seen), resolved_by=by, is_silenced=is_silenced
        )
        return self._noted(EventKind.RESOLVED, alert, at, is_news=is_news)

    def _unsilence(self, alert: Alert, at: str) -> AlertEvent:
        alert = replace(alert, is_silenced=False)
        return self._noted(EventKind.UNSILENCED, alert, at, is_news=False)

    def _is_recent(self, alert: Alert, at: str) -> bool:
        return alert.resolved_at is not None and _seconds(alert.resolved_at, at) < self._cooldown_s

    def _noted(self, kind: EventKind, alert: Alert, at: str, *, is_news: bool) -> AlertEvent:
        self._keep(alert)
        return AlertEvent(kind=kind, at=at, alert=alert, is_news=is_news)

    def _load(self, alerts: Sequence[Alert]) -> None:
        self._alerts = {alert.alert_id: alert for alert in alerts}
        for alert in sorted(alerts, key=lambda item: (item.is_active, item.resolved_at or "")):
            before = self._last.get(alert.breach.name)
            if alert.origin is Origin.RULE:
                self._last[alert.breach.name] = alert.alert_id
                if before is not None and self._alerts[before].is_active:
                    self._strays.append(before)
            self._keep(alert)

    def _keep(self, alert: Alert) -> None:
        self._alerts[alert.alert_id] = alert
        if alert.is_active:
            self._resolved.pop(alert.alert_id, None)
            return
        self._resolved.setdefault(alert.alert_id)
        if len(self._resolved) > self._n_resolved_kept:
            self._forget(self._resolved.popitem(last=False)[0])

    def _forget(self, alert_id: str) -> None:
        alert = self._alerts.pop(alert_id)
        if self._last.get(alert.breach.name) == alert_id:
            del self._last[alert.breach.name]


def _checked_text(value: Any, *, what: str) -> None:
    if not isinstance(value, str):
        raise ConfigError(f"{what} must be text, got {type(value).__qualname__} {value!r}.")


def _breach_of(reading: Reading) -> Breach:
    return Breach(
        name=reading.name,
        severity=reading.severity,
        value=reading.value,
        threshold=reading.threshold,
        message=reading.message,
    )


def _is_worse(breach: Breach, alert: Alert) -> bool:
    return breach.severity.rank > alert.breach.severity.rank


def _seen(alert: Alert, breach: Breach, at: str) -> Alert:
    """The alert with one more breach; severity only rises."""
    is_worse = _is_worse(breach, alert)
    severity = breach.severity if is_worse else alert.breach.severity
    return replace(
        alert,
        breach=replace(breach, severity=severity),
        last_seen=max(at, alert.last_seen),
        count=alert.count + 1,
        acknowledged_at=None if is_worse else alert.acknowledged_at,
        acknowledged_by=None if is_worse else alert.acknowledged_by,
    )


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()


def _seconds(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
