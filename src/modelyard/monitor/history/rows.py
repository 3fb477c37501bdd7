"""A monitor's rows in the store: records, windows, alerts, deliveries, the baseline."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from modelyard._core.errors import IntegrityError
from modelyard.monitor.alerting.alerts import Alert
from modelyard.monitor.drift.baseline import Baseline
from modelyard.monitor.history.chunks import pack, unpack
from modelyard.monitor.history.retention import (
    Group,
    Retention,
    StoredChunk,
    StoredWindow,
    chunks_to_drop,
    groups_to_merge,
)
from modelyard.monitor.history.summaries import WindowSummary, merged
from modelyard.monitor.recording.deltas import Delta
from modelyard.storage import Store
from modelyard.storage.store import write_snapshot
from modelyard.storage.tables import (
    alert as alert_table,
)
from modelyard.storage.tables import (
    alert_delivery,
    baseline_event,
    monitor_chunk,
    monitor_counter,
    monitor_window,
)

_logger = logging.getLogger(__name__)

_SNAPSHOT_KIND = "monitor_baseline"
N_SKETCHED = 20


@dataclass(frozen=True, kw_only=True)
class News:
    """What waits to be stored.

    Attributes:
        delta: Records since the last write; None without any.
        windows: Full windows, oldest first.
        alerts: New or changed.
        deliveries: Events that wait for a sink and are not stored yet.
        delivered: Ids of stored ones that wait no more.
        baseline: A new one.
        baseline_events: What was said of baselines that were set.
    """

    delta: Delta | None = None
    windows: Sequence[WindowSummary] = ()
    alerts: Sequence[Alert] = ()
    deliveries: Sequence[Mapping[str, Any]] = ()
    delivered: Sequence[str] = ()
    baseline: Baseline | None = None
    baseline_events: Sequence[Mapping[str, Any]] = field(default_factory=tuple)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to store."""
        return not (
            self.delta
            or self.windows
            or self.alerts
            or self.deliveries
            or self.delivered
            or self.baseline
            or self.baseline_events
        )


class MonitorRows:
    """What one monitor keeps in a store. Thread-safe: it holds no state of its own.

    Args:
        store: Where the rows are.
        model_name: Whose they are.
        retention: What is kept how long.
    """

    def __init__(
        self, store: Store, model_name: str, *, retention: Retention | None = None
    ) -> None:
        self._store = store
        self._model_name = model_name
        self._retention = retention or Retention()

    def write(self, news: News, *, recorder_id: str, n_kept: int, at: str) -> None:
        """Store what is new: all of it or nothing.

        Args:
            news: What is new.
            recorder_id: Of the monitor that recorded it; others of the same model have others.
            n_kept: Newest records that must stay; older ones go.
            at: When, ISO 8601.

        Raises:
            StorageError: The store refuses.
        """
        with self._store.database.writing() as connection:
            if news.windows:
                self._write_windows(connection, news.windows)
            for alert in news.alerts:
                self._write_alert(connection, alert)
            self._write_deliveries(connection, news)
            if news.baseline is not None:
                state = news.baseline.to_plain()
                write_snapshot(connection, _SNAPSHOT_KIND, self._model_name, state, at=at)
            for event in news.baseline_events:
                self._write_baseline_event(connection, event)
            if news.delta is not None:
                self._write_chunk(connection, news.delta, recorder_id, at=at)
                self._drop_old_chunks(connection, n_kept, at=at)

    def windows(self, n: int) -> list[WindowSummary]:
        """The last `n` windows that still stand alone, oldest first."""
        row = monitor_window.c
        query = (
            select(row.summary, row.sketches)
            .where(row.model_name == self._model_name, row.span == "window")
            .order_by(row.seq.desc())
            .limit(n)
        )
        with self._store.database.reading() as connection:
            found = connection.execute(query).all()
        return [WindowSummary.from_plain(one.summary, one.sketches) for one in reversed(found)]

    def windows_between(self, since: str | None, until: str | None) -> list[WindowSummary]:
        """Windows, hours and days that ended between two times, oldest first."""
        row = monitor_window.c
        query = (
            select(row.summary, row.sketches)
            .where(row.model_name == self._model_name)
            .order_by(row.ended_at, row.seq)
        )
        if since is not None:
            query = query.where(row.ended_at >= since)
        if until is not None:
            query = query.where(row.ended_at <= until)
        with self._store.database.reading() as connection:
            found = connection.execute(query).all()
        return [WindowSummary.from_plain(one.summary, one.sketches) for one in found]

    def chunks(self, n_records: int) -> tuple[list[Delta], int]:
        """The newest records of all recorders, `n_records` at least, and how many there were ever.

        Oldest first. Damaged ones are left out with a warning: monitoring goes on.
        """
        row = monitor_chunk.c
        mine = row.model_name == self._model_name
        held = select(func.coalesce(func.sum(row.n_records), 0)).where(mine)
        dropped = select(monitor_counter.c.n_dropped).where(
            monitor_counter.c.model_name == self._model_name
        )
        query = select(row.seq, row.n_records, row.body).where(mine).order_by(row.seq.desc())
        found: list[Delta] = []
        n = 0
        with self._store.database.reading() as connection:
            n_total = int(connection.execute(held).scalar_one())
            n_total += int(connection.execute(dropped).scalar() or 0)
            for one in connection.execute(query):
                if n >= n_records:
                    break
                n += one.n_records
                try:
                    found.append(unpack(one.body))
                except IntegrityError as error:
                    _logger.warning(
                        "Records %d of monitor %r were left out: %s",
                        one.seq,
                        self._model_name,
                        error,
                    )
        return found[::-1], n_total

    def alerts(self) -> list[Alert]:
        """Every alert, oldest first."""
        query = (
            select(alert_table.c.body)
            .where(alert_table.c.model_name == self._model_name)
            .order_by(alert_table.c.first_seen, alert_table.c.alert_id)
        )
        with self._store.database.reading() as connection:
            return [Alert.from_dict(body) for body in connection.execute(query).scalars()]

    def deliveries(self) -> list[dict[str, Any]]:
        """Events that wait for a sink."""
        row = alert_delivery.c
        query = select(row.delivery_id, row.sink, row.event).where(
            row.model_name == self._model_name
        )
        with self._store.database.reading() as connection:
            found = connection.execute(query).mappings().all()
        return sorted((dict(one) for one in found), key=lambda one: one["event"]["at"])

    def baseline(self) -> Baseline | None:
        """The baseline that was set last, or None."""
        state = self._store.load_snapshot(_SNAPSHOT_KIND, self._model_name)
        return None if state is None else Baseline.from_plain(state)

    def baseline_events(self) -> list[dict[str, Any]]:
        """What was said of every baseline, oldest first."""
        row = baseline_event.c
        query = (
            select(row.at, row.actor, row.detail)
            .where(row.model_name == self._model_name)
            .order_by(row.seq)
        )
        with self._store.database.reading() as connection:
            found = connection.execute(query).all()
        return [{"at": one.at, "actor": one.actor, **one.detail} for one in found]

    def put_old_together(self, *, now: datetime) -> int:
        """Make hours of old windows and days of old hours; how many rows went into others.

        Two processes may do it at once: a row goes into the summary of whoever deleted it.

        Raises:
            StorageError: The store refuses; nothing has changed then.
        """
        row = monitor_window.c
        query = select(row.seq, row.ended_at, row.span).where(row.model_name == self._model_name)
        with self._store.database.reading() as connection:
            stored = [StoredWindow(**one) for one in connection.execute(query).mappings()]
        groups = groups_to_merge(stored, self._retention, now=now)
        if not groups:
            return 0
        with self._store.database.writing() as connection:
            return sum(self._merge(connection, group) for group in groups)

    def _merge(self, connection: Connection, group: Group) -> int:
        row = monitor_window.c
        taken = delete(monitor_window).where(row.seq.in_(group.seqs)).returning(row.summary)
        found = [WindowSummary.from_plain(one) for one in connection.execute(taken).scalars()]
        if found:
            self._write_windows(connection, [merged(found, span=group.span)])
        return len(found)

    def _write_windows(self, connection: Connection, windows: Sequence[WindowSummary]) -> None:
        rows = [
            {
                "model_name": self._model_name,
                "ended_at": one.ended_at,
                "span": one.span,
                "summary": one.to_plain(),
                "sketches": one.sketches_to_plain(),
            }
            for one in windows
        ]
        connection.execute(insert(monitor_window), rows)
        row = monitor_window.c
        mine = row.model_name == self._model_name
        oldest_kept = (
            select(row.seq)
            .where(mine, row.span == "window")
            .order_by(row.seq.desc())
            .offset(N_SKETCHED - 1)
            .limit(1)
        )
        seq = connection.execute(oldest_kept).scalar()
        if seq is not None:
            old = update(monitor_window).where(mine, row.seq < seq, row.sketches.is_not(None))
            connection.execute(old.values(sketches=None))

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

    def _write_deliveries(self, connection: Connection, news: News) -> None:
        ids = [*news.delivered, *(one["delivery_id"] for one in news.deliveries)]
        if ids:
            connection.execute(delete(alert_delivery).where(alert_delivery.c.delivery_id.in_(ids)))
        if news.deliveries:
            rows = [{"model_name": self._model_name, **one} for one in news.deliveries]
            connection.execute(insert(alert_delivery), rows)

    def _write_baseline_event(self, connection: Connection, event: Mapping[str, Any]) -> None:
        detail = {name: value for name, value in event.items() if name not in ("at", "actor")}
        connection.execute(
            insert(baseline_event).values(
                model_name=self._model_name, at=event["at"], actor=event["actor"], detail=detail
            )
        )

    def _write_chunk(
        self, connection: Connection, delta: Delta, recorder_id: str, *, at: str
    ) -> None:
        connection.execute(
            insert(monitor_chunk).values(
                model_name=self._model_name,
                recorder_id=recorder_id,
                at=at,
                n_records=delta.n_records,
                body=pack(delta),
            )
        )

    def _drop_old_chunks(self, connection: Connection, n_kept: int, *, at: str) -> None:
        row = monitor_chunk.c
        mine = row.model_name == self._model_name
        query = select(row.seq, row.recorder_id, row.at, row.n_records).where(mine)
        stored = [
            StoredChunk(**one)
            for one in connection.execute(query.order_by(row.seq.desc())).mappings()
        ]
        seqs = chunks_to_drop(stored, n_kept=n_kept, at=at)
        if not seqs:
            return
        gone = delete(monitor_chunk).where(row.seq.in_(seqs)).returning(row.n_records)
        n_gone = sum(connection.execute(gone).scalars())
        counter = monitor_counter.c
        added = update(monitor_counter).where(counter.model_name == self._model_name)
        if not connection.execute(added.values(n_dropped=counter.n_dropped + n_gone)).rowcount:
            connection.execute(
                insert(monitor_counter).values(model_name=self._model_name, n_dropped=n_gone)
            )
