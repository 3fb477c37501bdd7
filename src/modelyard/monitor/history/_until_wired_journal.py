"""What a monitor has learnt and must find again: past windows, alerts, the baseline.

With a store they are written there; without one they are kept in memory.
"""

from collections import deque
from collections.abc import Sequence

from modelyard.monitor.alerting.alerts import Alert, AlertBook, Breach
from modelyard.monitor.drift.baseline import Baseline
from modelyard.monitor.history._until_wired_rows import MonitorRows
from modelyard.monitor.recording.windows import WindowSummary

N_WINDOWS = 20


class Journal:
    """Past windows, alerts and baseline, and which of them are not stored yet.

    Not thread-safe: the monitor that owns it locks, except around `write`.

    Args:
        rows: Where they are stored; None for memory only.
    """

    def __init__(self, rows: MonitorRows | None) -> None:
        self._rows = rows
        self.baseline: Baseline | None = rows.baseline() if rows else None
        self.windows: deque[WindowSummary] = deque(
            rows.windows(N_WINDOWS) if rows else [], N_WINDOWS
        )
        self.alerts = AlertBook(rows.alerts() if rows else [])
        self._new_windows: list[WindowSummary] = []
        self._new_alerts: dict[str, Alert] = {}
        self._new_baseline: Baseline | None = None

    @property
    def is_stored(self) -> bool:
        """Whether there is a store behind it."""
        return self._rows is not None

    @property
    def has_news(self) -> bool:
        """Whether something waits to be stored."""
        return bool(self._new_windows or self._new_alerts or self._new_baseline)

    def add_window(self, window: WindowSummary) -> None:
        """Keep a full window; the oldest of more than 20 goes from memory."""
        self.windows.append(window)
        if self._rows is not None:
            self._new_windows.append(window)

    def set_baseline(self, baseline: Baseline) -> None:
        """Keep what is normal from now on."""
        self.baseline = baseline
        if self._rows is not None:
            self._new_baseline = baseline

    def note_breaches(self, breaches: Sequence[Breach], *, at: str) -> None:
        """Take the breaches of one evaluation."""
        changed = self.alerts.update(breaches, at=at)
        if self._rows is not None:
            self._new_alerts.update({alert.alert_id: alert for alert in changed})

    def report(self, breach: Breach, *, at: str) -> None:
        """Take an alert that was not measured here."""
        alert = self.alerts.report(breach, at=at)
        if self._rows is not None:
            self._new_alerts[alert.alert_id] = alert

    def write(self, *, at: str) -> None:
        """Store what waits; the owner lets one thread at a time in.

        Raises:
            StorageError: The store refuses; what waits is kept.
        """
        if self._rows is None:
            return
        windows = list(self._new_windows)
        alerts = dict(self._new_alerts)
        baseline = self._new_baseline
        self._rows.write(windows, list(alerts.values()), baseline, at=at)
        # Only what was written is done: more may have come in meanwhile.
        del self._new_windows[: len(windows)]
        for alert_id, alert in alerts.items():
            if self._new_alerts.get(alert_id) is alert:
                del self._new_alerts[alert_id]
        if self._new_baseline is baseline:
            self._new_baseline = None
