"""A monitor's rows in the store."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import select, union

from modelyard.monitor.alerting.alerts import Alert
from modelyard.monitor.alerting.book import N_RESOLVED_KEPT
from modelyard.monitor.drift.baseline import Baseline
from modelyard.monitor.history.alert_rows import (
    BaselineChange,
    read_alerts,
    read_baseline_changes,
    read_deliveries,
    write_alerts,
    write_baseline_changes,
    write_deliveries,
)
from modelyard.monitor.history.chunk_rows import append_chunks, newest_chunks, trim_chunks
from modelyard.monitor.history.chunks import Chunk
from modelyard.monitor.history.readable import readable
from modelyard.monitor.history.retention import Retention
from modelyard.monitor.history.summaries import WindowSummary
from modelyard.monitor.history.window_rows import (
    drop_old_sketches,
    each_window_between,
    insert_windows,
    merge_old_windows,
    newest_windows,
)
from modelyard.storage import Store
from modelyard.storage.store import write_snapshot
from modelyard.storage.tables import alert, monitor_chunk, monitor_window, snapshot

_SNAPSHOT_KIND = "monitor_baseline"


@dataclass(frozen=True, kw_only=True)
class News:
    """What is to be stored, all of it or nothing.

    Attributes:
        recorder_id: Who recorded the chunks.
        windows: Full windows, oldest first.
        chunks: What was recorded, oldest first.
        alerts: As they are now.
        stored_alerts: As they were stored when last read or written here, by id.
        baseline: The new one, if there is one.
        baseline_changes: How it came about, oldest first.
        added_deliveries: Events that wait for a sink.
        done_deliveries: Ids of those that do not any more.
        n_records_kept: Predictions of which older chunks are removed; None to leave them.
    """

    recorder_id: str
    windows: Sequence[WindowSummary] = ()
    chunks: Sequence[Chunk] = ()
    alerts: Sequence[Alert] = ()
    stored_alerts: Mapping[str, Alert] = field(default_factory=dict)
    baseline: Baseline | None = None
    baseline_changes: Sequence[BaselineChange] = ()
    added_deliveries: Sequence[Mapping[str, Any]] = ()
    done_deliveries: Sequence[str] = ()
    n_records_kept: int | None = None


class MonitorRows:
    """What monitors of one model keep in a store.

    Thread-safe and safe across processes: it holds no state of its own, and each method is one
    transaction.

    Args:
        store: Where the rows are.
        model_name: Whose they are.
        retention: How long what is kept.
    """

    def __init__(self, store: Store, model_name: str, retention: Retention | None = None) -> None:
        self._store = store
        self._model_name = model_name
        self.retention = retention or Retention()

    def write(self, news: News, *, at: datetime) -> list[Alert]:
        """Store what is new: all or nothing.

        Returns:
            Alerts that someone else has acknowledged or resolved meanwhile, as stored.

        Raises:
            StorageError: The store refuses.
        """
        name, moment = self._model_name, at.isoformat()
        with self._store.database.writing() as connection:
            insert_windows(connection, name, news.windows)
            if news.windows:
                n_kept, n_added = self.retention.n_sketches, len(news.windows)
                drop_old_sketches(connection, name, n_kept, n_added=n_added)
            append_chunks(connection, name, news.recorder_id, news.chunks, at=moment)
            if news.n_records_kept is not None:
                trim_chunks(connection, name, news.n_records_kept)
            told = write_alerts(connection, name, news.alerts, news.stored_alerts)
            write_deliveries(
                connection, name, news.added_deliveries, news.done_deliveries, at=moment
            )
            write_baseline_changes(connection, name, news.baseline_changes)
            if news.baseline is not None:
                state = news.baseline.to_plain()
                write_snapshot(connection, _SNAPSHOT_KIND, name, state, at=moment)
        return told

    def thin(self, *, now: datetime) -> int:
        """Make hours of windows and days of hours that are over their time, without quantiles.

        Twice is as once, also at the same time in two processes.

        Returns:
            How many rows went.

        Raises:
            StorageError: The store refuses; nothing was changed.
        """
        with self._store.database.writing() as connection:
            # Where another process, or this one before, has kept more.
            drop_old_sketches(connection, self._model_name, self.retention.n_sketches)
            return merge_old_windows(connection, self._model_name, self.retention, now)

    def windows(self, n: int) -> list[WindowSummary]:
        """The last `n` summaries, oldest first, with the quantiles they still have."""
        with self._store.database.reading() as connection:
            return newest_windows(connection, self._model_name, n)

    def windows_between(self, since: str | None, until: str | None) -> list[WindowSummary]:
        """Summaries of what ended in this time (ISO 8601 in UTC), without quantiles."""
        return list(self.each_window_between(since, until))

    def each_window_between(self, since: str | None, until: str | None) -> Iterator[WindowSummary]:
        """As `windows_between`, one after another: a history of years need not be held at once."""
        with self._store.database.reading() as connection:
            yield from each_window_between(connection, self._model_name, since, until)

    def chunks(self, n_records: int) -> list[Chunk]:
        """The newest chunks that together hold `n_records` predictions or more, oldest first.

        Of all recorders of the model. A damaged one is left out, with a warning.
        """
        with self._store.database.reading() as connection:
            return newest_chunks(connection, self._model_name, n_records)

    def alerts(self, n: int = N_RESOLVED_KEPT) -> list[Alert]:
        """The `n` newest alerts, oldest first."""
        with self._store.database.reading() as connection:
            return read_alerts(connection, self._model_name, n)

    def deliveries(self) -> list[dict[str, Any]]:
        """Events that wait for a sink, oldest first: `delivery_id`, `sink`, `event`."""
        with self._store.database.reading() as connection:
            return read_deliveries(connection, self._model_name)

    def baseline(self) -> Baseline | None:
        """The baseline that was set last, or None."""
        state = self._store.load_snapshot(_SNAPSHOT_KIND, self._model_name)
        stored = [] if state is None else [state]
        found = readable(stored, Baseline.from_plain, what="baseline", model_name=self._model_name)
        return found[0] if found else None

    def baseline_changes(self) -> list[BaselineChange]:
        """Every baseline that was set, oldest first."""
        with self._store.database.reading() as connection:
            return read_baseline_changes(connection, self._model_name)


def monitored_models(store: Store) -> list[str]:
    """Names of the models of which a monitor has stored something, in order."""
    queries = [
        select(table.c.model_name).distinct() for table in (monitor_window, monitor_chunk, alert)
    ]
    named = select(snapshot.c.name).where(snapshot.c.kind == _SNAPSHOT_KIND)
    with store.database.reading() as connection:
        return sorted(connection.execute(union(*queries, named)).scalars())
