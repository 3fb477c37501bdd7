"""What a monitor has learnt and must find again, and which part of it is not stored yet.

With a store it is written there; without one it is kept in memory.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

from modelyard._core.ids import new_id
from modelyard.monitor.alerting.alerts import Alert, AlertEvent, Breach
from modelyard.monitor.alerting.book import AlertBook
from modelyard.monitor.alerting.dispatch import Dispatcher
from modelyard.monitor.alerting.readings import Reading
from modelyard.monitor.drift.baseline import Baseline
from modelyard.monitor.history.querying import PointDict, points_of
from modelyard.monitor.history.rows import N_SKETCHED, MonitorRows, News
from modelyard.monitor.history.summaries import WindowSummary
from modelyard.monitor.recording.deltas import Delta, Mark, delta_since, mark_of
from modelyard.monitor.recording.windows import Window

# Full windows that are kept in memory.
N_WINDOWS = 1000
# Old windows are looked for this often.
_TIDY_INTERVAL_S = 3600.0


class Journal:
    """Past windows, alerts and baselines.

    Not thread-safe: the monitor that owns it locks, except around `write`.

    Args:
        rows: Where they are stored; None for memory only.
        n_records: Predictions of a window: so many must be found again.
        cooldown_s: Seconds in which an alert that comes back is the same alert.
    """

    def __init__(self, rows: MonitorRows | None, *, n_records: int, cooldown_s: float) -> None:
        self._rows = rows
        self._n_records = n_records
        self.recorder_id = new_id("recorder")
        self.baseline: Baseline | None = rows.baseline() if rows else None
        self.windows: deque[WindowSummary] = deque(
            rows.windows(N_SKETCHED) if rows else [], N_WINDOWS
        )
        self.alerts = AlertBook(rows.alerts() if rows else [], cooldown_s=cooldown_s)
        self.deliveries: Sequence[Mapping[str, Any]] = rows.deliveries() if rows else []
        self._stored_deliveries = {one["delivery_id"] for one in self.deliveries}
        self._delivery_revision = -1
        self._mark = Mark()
        self._delta: Delta | None = None
        self._new_windows: list[WindowSummary] = []
        self._new_alerts: dict[str, Alert] = {}
        self._new_deliveries: dict[str, Mapping[str, Any]] = {}
        self._delivered: list[str] = []
        self._new_baseline: Baseline | None = None
        self._baseline_events: list[dict[str, Any]] = rows.baseline_events() if rows else []
        self._n_events_stored = len(self._baseline_events)
        self._tidied_at: datetime | None = None

    @property
    def is_stored(self) -> bool:
        """Whether there is a store behind it."""
        return self._rows is not None

    def stored_records(self) -> tuple[list[Delta], int]:
        """The records of the last window, oldest first, and how many there were ever."""
        return self._rows.chunks(self._n_records) if self._rows else ([], 0)

    def begin_at(self, window: Window) -> None:
        """What the window holds now is stored already, or somebody else's to store."""
        self._mark = mark_of(window)

    def add_window(self, window: WindowSummary) -> None:
        """Keep a full window; distributions of the newest 20 only."""
        self.windows.append(window)
        if len(self.windows) > N_SKETCHED:
            place = len(self.windows) - N_SKETCHED - 1
            self.windows[place] = self.windows[place].without_sketches()
        if self._rows is not None:
            self._new_windows.append(window)

    def recent(self, n: int) -> list[WindowSummary]:
        """The last `n` full windows, oldest first."""
        return list(islice(self.windows, max(0, len(self.windows) - n), None))

    def set_baseline(
        self, baseline: Baseline, *, source: str, actor: str, is_forced: bool, reason: str
    ) -> None:
        """Keep what is normal from now on, and what is to be said of it."""
        replaced, self.baseline = self.baseline, baseline
        predictions, features = baseline.predictions, baseline.features
        self._baseline_events.append(
            {
                "at": baseline.set_at,
                "actor": actor,
                "source": source,
                "n_predictions": predictions.n if predictions else 0,
                "n_features": features.n if features else 0,
                "replaced": replaced.set_at if replaced else None,
                "forced": is_forced,
                "reason": reason,
            }
        )
        if self._rows is not None:
            self._new_baseline = baseline

    def baseline_history(self) -> list[dict[str, Any]]:
        """What was said of every baseline, oldest first."""
        return [dict(event) for event in self._baseline_events]

    def note_readings(self, readings: Sequence[Reading], *, at: datetime) -> list[AlertEvent]:
        """Take one evaluation; what happened to alerts."""
        return self._noted(self.alerts.update(readings, at=at))

    def report(self, breach: Breach, *, at: datetime) -> list[AlertEvent]:
        """Take an alert that was not measured here."""
        return self._noted(self.alerts.report(breach, at=at))

    def acknowledge(self, alert_id: str, *, by: str, at: datetime) -> list[AlertEvent]:
        """Note that someone has seen an alert."""
        return self._noted(self.alerts.acknowledge(alert_id, by=by, at=at))

    def resolve(self, alert_id: str, *, by: str, at: datetime) -> list[AlertEvent]:
        """Note that someone says an alert is over."""
        return self._noted(self.alerts.resolve(alert_id, by=by, at=at))

    def note_records(self, window: Window, *, now_s: float, now: float) -> None:
        """Take what was recorded since the last time, unless that still waits to be stored."""
        if self._rows is None or self._delta is not None:
            return
        mark = mark_of(window)
        if mark != self._mark:
            self._delta = delta_since(window, self._mark, now_s=now_s, now=now)
            self._mark = mark

    def note_deliveries(self, dispatcher: Dispatcher) -> None:
        """Take which events wait for a sink."""
        revision = dispatcher.revision
        if self._rows is None or revision == self._delivery_revision:
            return
        self._delivery_revision = revision
        waiting = {one["delivery_id"]: one for one in dispatcher.undelivered()}
        self._new_deliveries = {
            key: one for key, one in waiting.items() if key not in self._stored_deliveries
        }
        self._delivered = [key for key in self._stored_deliveries if key not in waiting]

    def query(self, metric: str, since: str | None, until: str | None) -> list[PointDict]:
        """One figure of every window, oldest first."""
        return points_of(metric, self.windows_between(since, until))

    def windows_between(self, since: str | None, until: str | None) -> list[WindowSummary]:
        """Windows that ended between two times, oldest first; stored ones only with a store."""
        if self._rows is not None:
            return self._rows.windows_between(since, until)
        return [
            one
            for one in self.windows
            if (since is None or one.ended_at >= since)
            and (until is None or one.ended_at <= until)
        ]

    def write(self, *, at: datetime) -> None:
        """Store what waits; the owner lets one thread at a time in.

        Raises:
            StorageError: The store refuses; what waits is kept.
        """
        if self._rows is None:
            return
        news = News(
            delta=self._delta,
            windows=list(self._new_windows),
            alerts=list(self._new_alerts.values()),
            deliveries=list(self._new_deliveries.values()),
            delivered=list(self._delivered),
            baseline=self._new_baseline,
            baseline_events=self._baseline_events[self._n_events_stored :],
        )
        if not news.is_empty:
            self._rows.write(
                news, recorder_id=self.recorder_id, n_kept=self._n_records, at=at.isoformat()
            )
            self._forget(news)
        self._tidy_if_due(at)

    def after_fork(self, window: Window) -> None:
        """In the child of a fork: what the parent has not stored yet the parent stores."""
        self.recorder_id = new_id("recorder")
        self._delta = None
        self.begin_at(window)
        self._new_windows.clear()
        self._new_alerts.clear()
        self._new_deliveries.clear()
        self._delivered.clear()
        self._new_baseline = None
        self._n_events_stored = len(self._baseline_events)

    def _noted(self, events: list[AlertEvent]) -> list[AlertEvent]:
        if self._rows is not None:
            self._new_alerts.update({event.alert.alert_id: event.alert for event in events})
        return events

    def _forget(self, news: News) -> None:
        """Only what was written is done: more may have come in meanwhile."""
        self._delta = None
        del self._new_windows[: len(news.windows)]
        for alert in news.alerts:
            if self._new_alerts.get(alert.alert_id) is alert:
                del self._new_alerts[alert.alert_id]
        self._stored_deliveries |= {one["delivery_id"] for one in news.deliveries}
        self._stored_deliveries -= set(news.delivered)
        self._new_deliveries.clear()
        self._delivered.clear()
        if self._new_baseline is news.baseline:
            self._new_baseline = None
        self._n_events_stored += len(news.baseline_events)

    def _tidy_if_due(self, at: datetime) -> None:
        if self._rows is None:
            return
        before = self._tidied_at
        if before is None or (at - before).total_seconds() >= _TIDY_INTERVAL_S:
            self._tidied_at = at
            self._rows.put_old_together(now=at)
