"""What a monitor has learnt and must find again: past windows, alerts, the baseline.

With a store they are written there, and with them what was recorded since the last flush, so that
a process that is killed loses no more than that; without one they are kept in memory.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol

from numpy.typing import NDArray

from modelyard.monitor.alerting.alerts import Alert, AlertEvent, Breach
from modelyard.monitor.alerting.book import COOLDOWN_S, AlertBook
from modelyard.monitor.alerting.readings import Reading
from modelyard.monitor.drift.baseline import Baseline
from modelyard.monitor.history.alert_rows import BaselineChange
from modelyard.monitor.history.chunks import Chunk
from modelyard.monitor.history.memory import PastWindows
from modelyard.monitor.history.queries import (
    Point,
    check_metric,
    metric_names,
    points,
    points_of_each,
)
from modelyard.monitor.history.retention import Retention
from modelyard.monitor.history.rows import MonitorRows
from modelyard.monitor.history.summaries import WindowSummary
from modelyard.monitor.history.waiting import Waiting

N_BASELINE_CHANGES = 1000
_THIN_EVERY_S = 3600.0


class Recorded(Protocol):
    """What was recorded since the last time it was asked for."""

    @property
    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Records in columns."""

    @property
    def meta(self) -> Mapping[str, Any]:
        """What goes with them; plain values."""

    @property
    def n_records(self) -> int:
        """Predictions."""


class Journal:
    """Past windows, alerts and baseline, and which of them are not stored yet.

    Not thread-safe: the monitor that owns it locks, except around `write` and `query`, of which
    it lets one thread at a time in.

    Args:
        rows: Where they are stored; None for memory only.
        n_records: Predictions in a window; of the newest so many the chunks are kept.
        cooldown_s: Seconds in which an alert that comes back is the same alert.
        retention: How many windows keep their distributions without a store.
    """

    def __init__(
        self,
        rows: MonitorRows | None,
        *,
        n_records: int = 1000,
        cooldown_s: float = COOLDOWN_S,
        retention: Retention | None = None,
    ) -> None:
        self._rows = rows
        self._n_records = n_records
        n_sketches = (rows.retention if rows else retention or Retention()).n_sketches
        self.windows = PastWindows(rows.windows(n_sketches) if rows else (), n_sketches)
        self.baseline: Baseline | None = rows.baseline() if rows else None
        self.alerts = AlertBook(rows.alerts() if rows else [], cooldown_s=cooldown_s)
        self.deliveries: list[dict[str, Any]] = rows.deliveries() if rows else []
        self._changes = deque(rows.baseline_changes() if rows else (), N_BASELINE_CHANGES)
        self._word_of_others: deque[Alert] = deque()
        self._thinned_at: datetime | None = None
        self._waiting = self._nothing_waiting()

    @property
    def is_stored(self) -> bool:
        """Whether there is a store behind it."""
        return self._rows is not None

    # ── windows ─────────────────────────────────────────────────────────────────────────────

    def add_window(self, window: WindowSummary) -> None:
        """Keep a full window."""
        self.windows.add(window)
        if self._rows is not None:
            self._waiting.add_window(window)

    def recent(self, n: int) -> list[WindowSummary]:
        """The last `n` windows in memory, oldest first."""
        return list(self.windows)[-n:]

    def windows_between(self, since: str | None, until: str | None) -> list[WindowSummary]:
        """Windows in memory that ended in this time (ISO 8601 in UTC), oldest first."""
        return self.windows.between(since, until)

    def query(self, metric: str, since: str | None, until: str | None) -> list[Point]:
        """One figure of every window kept, by its end: those stored, or those in memory.

        Args:
            metric: Such as `latency.p99_ms`.
            since: ISO 8601 in UTC; itself included.
            until: The same.

        Raises:
            ConfigError: No such figure; the message lists those there are.
        """
        between = self._rows.each_window_between if self._rows else self.windows.between
        found = points(metric, between(since, until))
        if any(point["value"] is not None for point in found):
            return found
        # Not in this time, or not at all?
        check_metric(metric, metric_names(between(None, None)))
        return found

    def query_each(
        self, metrics: Sequence[str], since: str | None, until: str | None
    ) -> Iterator[tuple[str, list[Point]]]:
        """Several figures as `query` gives one, read once; one that no window has is empty."""
        between = self._rows.each_window_between if self._rows else self.windows.between
        return points_of_each(metrics, between(since, until))

    # ── what was recorded ───────────────────────────────────────────────────────────────────

    def chunks(self) -> list[Chunk]:
        """What a window held when it was last stored, by whomever, oldest first."""
        return self._rows.chunks(self._n_records) if self._rows else []

    def note_records(self, recorded: Recorded) -> bool:
        """Take what was recorded since the last time.

        Returns:
            Whether there was something to take; otherwise it is to be offered again.
        """
        if self._rows is None or not (recorded.arrays or recorded.n_records):
            return False
        self._waiting.add_chunk(
            Chunk(arrays=recorded.arrays, meta=recorded.meta, n_records=recorded.n_records)
        )
        return True

    # ── the baseline ────────────────────────────────────────────────────────────────────────

    def set_baseline(
        self,
        baseline: Baseline,
        *,
        source: str,
        actor: str,
        is_forced: bool = False,
        reason: str = "",
    ) -> None:
        """Keep what is normal from now on, and that it was set.

        Args:
            baseline: The new one.
            source: `window`, `data`, `history` or `version`.
            actor: By whom.
            is_forced: Whether something spoke against it.
            reason: What, or why it was set.
        """
        references = (baseline.predictions, baseline.features)
        change = BaselineChange(
            at=baseline.set_at,
            actor=actor,
            source=source,
            n=max((reference.n for reference in references if reference), default=0),
            replaced=self.baseline.set_at if self.baseline else None,
            is_forced=is_forced,
            reason=reason,
        )
        self.baseline = baseline
        self._changes.append(change)
        if self._rows is not None:
            self._waiting.set_baseline(baseline, change)

    def baseline_history(self) -> list[dict[str, Any]]:
        """Every baseline that was set, oldest first; without a store the last 1,000."""
        return [change.to_plain() for change in self._changes]

    # ── alerts ──────────────────────────────────────────────────────────────────────────────

    def note_readings(self, readings: Sequence[Reading], *, at: datetime) -> list[AlertEvent]:
        """Take one evaluation; what happened, in order."""
        return [*self._heed(), *self._noted(self.alerts.update(readings, at=at))]

    def report(self, breach: Breach, *, at: datetime) -> list[AlertEvent]:
        """Take an alert that no rule measures."""
        return self._noted(self.alerts.report(breach, at=at))

    def acknowledge(self, alert_id: str, *, by: str, at: datetime) -> list[AlertEvent]:
        """As `AlertBook.acknowledge`."""
        return self._noted(self.alerts.acknowledge(alert_id, by=by, at=at))

    def resolve(self, alert_id: str, *, by: str, at: datetime) -> list[AlertEvent]:
        """As `AlertBook.resolve`."""
        return self._noted(self.alerts.resolve(alert_id, by=by, at=at))

    def note_deliveries(self, undelivered: Sequence[Mapping[str, Any]]) -> None:
        """Take every event that waits for a sink now.

        Args:
            undelivered: What `Dispatcher.undelivered` gave.
        """
        self.deliveries = [
            {key: item[key] for key in ("delivery_id", "sink", "event")} for item in undelivered
        ]
        self._waiting.set_deliveries(self.deliveries)

    # ── storing ─────────────────────────────────────────────────────────────────────────────

    def write(self, *, at: datetime) -> None:
        """Store what waits, and once an hour make old windows fewer.

        Raises:
            StorageError: The store refuses; what waits is kept.
        """
        if self._rows is None:
            return
        news = self._waiting.news()
        if news is None:
            return
        told = self._rows.write(news, at=at)
        self._waiting.forget(news, told)
        self._word_of_others.extend(told)
        # A clock that was set back must not stop it until it has caught up.
        if (
            self._thinned_at is None
            or abs((at - self._thinned_at).total_seconds()) >= _THIN_EVERY_S
        ):
            self._rows.thin(now=at)
            self._thinned_at = at

    def after_fork(self) -> None:
        """In the child of a fork: what waits the parent stores and delivers."""
        self.deliveries = []
        self._word_of_others.clear()
        self._waiting = self._nothing_waiting()

    def _nothing_waiting(self) -> Waiting:
        return Waiting(
            n_records=self._n_records,
            n_sketches=self.windows.n_sketches,
            stored_alerts=self.alerts.select(),
            stored_deliveries=[str(item["delivery_id"]) for item in self.deliveries],
        )

    def _noted(self, events: list[AlertEvent]) -> list[AlertEvent]:
        if self._rows is not None:
            self._waiting.add_alerts([event.alert for event in events])
        return events

    def _heed(self) -> list[AlertEvent]:
        """Take over what others have acknowledged and resolved."""
        events: list[AlertEvent] = []
        while self._word_of_others:
            alert = self._word_of_others.popleft()
            if alert.acknowledged_at is not None and alert.acknowledged_by is not None:
                at = datetime.fromisoformat(alert.acknowledged_at)
                events += self.acknowledge(alert.alert_id, by=alert.acknowledged_by, at=at)
            if alert.resolved_at is not None and alert.resolved_by is not None:
                at = datetime.fromisoformat(alert.resolved_at)
                events += self.resolve(alert.alert_id, by=alert.resolved_by, at=at)
        return events
