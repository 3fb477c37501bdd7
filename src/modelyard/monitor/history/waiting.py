"""What waits to be stored."""

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from threading import Lock
from typing import Any

from modelyard._core.ids import new_id
from modelyard.monitor.alerting.alerts import Alert
from modelyard.monitor.drift.baseline import Baseline
from modelyard.monitor.history.alert_rows import BaselineChange
from modelyard.monitor.history.chunks import Chunk
from modelyard.monitor.history.memory import PastWindows
from modelyard.monitor.history.rows import News
from modelyard.monitor.history.summaries import WindowSummary


class Waiting:
    """Everything that is not stored yet, until it was.

    Thread-safe: one lock guards all state. One thread at a time asks for `news`, stores them and
    says so (`forget`); meanwhile others may add.

    Args:
        n_records: Predictions in a window. No more are kept while nothing can be stored: what is
            older would never be looked at.
        n_sketches: Windows that keep their distributions.
        stored_alerts: As they are stored.
        stored_deliveries: Ids of the events that are stored.
    """

    def __init__(
        self,
        *,
        n_records: int,
        n_sketches: int,
        stored_alerts: Sequence[Alert] = (),
        stored_deliveries: Sequence[str] = (),
    ) -> None:
        self._lock = Lock()
        self._recorder_id = new_id("recorder")
        self._n_records = n_records
        # Beyond a window of them, chunks may be removed; the first time there may be old ones.
        self._n_untrimmed = n_records
        self._windows = PastWindows((), n_sketches, n_kept=None)
        self._chunks: deque[Chunk] = deque()
        self._alerts: dict[str, Alert] = {}
        self._stored_alerts = {alert.alert_id: alert for alert in stored_alerts}
        self._baseline: Baseline | None = None
        self._changes: list[BaselineChange] = []
        self._deliveries: dict[str, Mapping[str, Any]] = {key: {} for key in stored_deliveries}
        self._stored_deliveries = set(stored_deliveries)

    def add_window(self, window: WindowSummary) -> None:
        """A full window."""
        with self._lock:
            self._windows.add(window)

    def add_chunk(self, chunk: Chunk) -> None:
        """What was recorded since the last one."""
        with self._lock:
            self._chunks.append(chunk)
            n_newer = sum(item.weight for item in islice(self._chunks, 1, None))
            while n_newer >= self._n_records:
                self._chunks.popleft()
                n_newer -= self._chunks[0].weight

    def add_alerts(self, alerts: Sequence[Alert]) -> None:
        """Alerts as they are now."""
        with self._lock:
            self._alerts.update({alert.alert_id: alert for alert in alerts})

    def set_baseline(self, baseline: Baseline, change: BaselineChange) -> None:
        """A new baseline, and how it came about."""
        with self._lock:
            self._baseline = baseline
            self._changes.append(change)

    def set_deliveries(self, deliveries: Sequence[Mapping[str, Any]]) -> None:
        """Every event that waits for a sink now."""
        with self._lock:
            self._deliveries = {str(item["delivery_id"]): item for item in deliveries}

    def news(self) -> News | None:
        """All of it; None if there is nothing."""
        with self._lock:
            news = News(
                recorder_id=self._recorder_id,
                windows=tuple(self._windows),
                chunks=tuple(self._chunks),
                alerts=tuple(self._alerts.values()),
                stored_alerts={
                    alert_id: self._stored_alerts[alert_id]
                    for alert_id in self._alerts
                    if alert_id in self._stored_alerts
                },
                baseline=self._baseline,
                baseline_changes=tuple(self._changes),
                added_deliveries=[
                    item
                    for key, item in self._deliveries.items()
                    if key not in self._stored_deliveries
                ],
                done_deliveries=[
                    key for key in self._stored_deliveries if key not in self._deliveries
                ],
                n_records_kept=self._n_kept_now(),
            )
        return news if _says_something(news) else None

    def forget(self, news: News, told: Sequence[Alert]) -> None:
        """Let go of what was stored, and of nothing that has come in meanwhile.

        Args:
            news: What was stored.
            told: What `MonitorRows.write` gave.
        """
        with self._lock:
            self._windows.forget(news.windows)
            for chunk in news.chunks:
                # It may be gone: of more than a window the oldest go.
                if self._chunks and self._chunks[0] is chunk:
                    self._chunks.popleft()
            n_new = sum(chunk.weight for chunk in news.chunks)
            self._n_untrimmed = 0 if news.n_records_kept else self._n_untrimmed + n_new
            for alert in news.alerts:
                if self._alerts.get(alert.alert_id) is alert:
                    del self._alerts[alert.alert_id]
            self._stored_alerts |= {alert.alert_id: alert for alert in (*news.alerts, *told)}
            del self._changes[: len(news.baseline_changes)]
            if self._baseline is news.baseline:
                self._baseline = None
            self._stored_deliveries |= {str(item["delivery_id"]) for item in news.added_deliveries}
            self._stored_deliveries.difference_update(news.done_deliveries)

    def _n_kept_now(self) -> int | None:
        n_new = sum(chunk.weight for chunk in self._chunks)
        return self._n_records if n_new and self._n_untrimmed + n_new >= self._n_records else None


def _says_something(news: News) -> bool:
    return bool(
        news.windows
        or news.chunks
        or news.alerts
        or news.baseline
        or news.added_deliveries
        or news.done_deliveries
    )
