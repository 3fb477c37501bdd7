"""A monitor's rows in the store: full windows, alerts, the baseline."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, select

from modelyard.monitor.alerting.alerts import Alert
from modelyard.monitor.drift.baseline import Baseline
from modelyard.monitor.recording.windows import WindowSummary
from modelyard.storage import Store
from modelyard.storage.store import write_snapshot
from modelyard.storage.tables import alert as alert_table
from modelyard.storage.tables import monitor_window

_SNAPSHOT_KIND = "monitor_baseline"


class MonitorRows:
    """What one monitor keeps in a store. Thread-safe: it holds no state of its own.

    Args:
        store: Where the rows are.
        model_name: Whose they are.
    """

    def __init__(self, store: Store, model_name: str) -> None:
        self._store = store
        self._model_name = model_name

    def write(
        self,
        windows: Sequence[WindowSummary],
        alerts: Sequence[Alert],
        baseline: Baseline | None,
        *,
        at: str,
    ) -> None:
        """Add windows, replace alerts, and replace the baseline if one is given: all or nothing.

        Raises:
            StorageError: The store refuses.
        """
        with self._store.database.writing() as connection:
            if windows:
                connection.execute(
                    insert(monitor_window), [self._window(item) for item in windows]
                )
            for alert in alerts:
                self._write_alert(connection, alert)
            if baseline is not None:
                name, state = self._model_name, baseline.to_plain()
                write_snapshot(connection, _SNAPSHOT_KIND, name, state, at=at)

    def windows(self, n: int) -> list[WindowSummary]:
        """The last `n` full windows, oldest first."""
        query = (
            select(monitor_window.c.summary)
            .where(monitor_window.c.model_name == self._model_name)
            .order_by(monitor_window.c.seq.desc())
            .limit(n)
        )
        with self._store.database.reading() as connection:
            found = connection.execute(query).scalars().all()
        return [WindowSummary.from_plain(summary) for summary in reversed(found)]

    def alerts(self) -> list[Alert]:
        """Every alert, oldest first."""
        query = (
            select(alert_table.c.body)
            .where(alert_table.c.model_name == self._model_name)
            .order_by(alert_table.c.first_seen, alert_table.c.alert_id)
        )
        with self._store.database.reading() as connection:
            return [Alert.from_dict(body) for body in connection.execute(query).scalars()]

    def baseline(self) -> Baseline | None:
        """The baseline that was set last, or None."""
        state = self._store.load_snapshot(_SNAPSHOT_KIND, self._model_name)
        return None if state is None else Baseline.from_plain(state)

    def _window(self, summary: WindowSummary) -> dict[str, Any]:
        return {
            "model_name": self._model_name,
            "ended_at": summary.ended_at,
            "summary": summary.to_plain(),
        }

    def _write_alert(self, connection: Connection, alert: Alert) -> None:
        table = alert_table.c
        mine = (table.model_name == self._model_name) & (table.alert_id == alert.alert_id)
        connection.execute(delete(alert_table).where(mine))
        connection.execute(
            insert(alert_table).values(
                model_name=self._model_name,
                alert_id=alert.alert_id,
                severity=alert.breach.severity.value,
                first_seen=alert.first_seen,
                last_seen=alert.last_seen,
                count=alert.count,
                body=alert.to_dict(),
            )
        )
