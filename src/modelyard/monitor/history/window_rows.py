"""Rows of past windows: written, read, and made fewer as they grow old."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, insert, or_, select, update

from modelyard.monitor.history.readable import each_readable, readable
from modelyard.monitor.history.retention import Merge, Retention, Stored, merges, start_of
from modelyard.monitor.history.summaries import DAY, HOUR, WINDOW, WindowSummary
from modelyard.storage.tables import monitor_window

_row = monitor_window.c


def insert_windows(
    connection: Connection, model_name: str, summaries: Sequence[WindowSummary]
) -> None:
    """Add summaries, oldest first."""
    rows = [{"model_name": model_name, **_values(summary)} for summary in summaries]
    if rows:
        connection.execute(insert(monitor_window), rows)


def newest_windows(connection: Connection, model_name: str, n: int) -> list[WindowSummary]:
    """The last `n` summaries, oldest first, with the quantiles they still have."""
    query = (
        select(_row.summary, _row.sketches)
        .where(_row.model_name == model_name)
        .order_by(_row.seq.desc())
        .limit(n)
    )
    found = connection.execute(query).all()
    return readable(
        reversed(found),
        lambda row: WindowSummary.from_plain(row.summary, row.sketches),
        what="window",
        model_name=model_name,
    )


def each_window_between(
    connection: Connection, model_name: str, since: str | None, until: str | None
) -> Iterator[WindowSummary]:
    """Summaries of what ended in this time, by their end, without quantiles.

    Args:
        connection: Where.
        model_name: Whose.
        since: ISO 8601 in UTC; itself included.
        until: The same.
    """
    query = select(_row.summary).where(_row.model_name == model_name).order_by(_row.ended_at)
    if since is not None:
        query = query.where(_row.ended_at >= since)
    if until is not None:
        query = query.where(_row.ended_at <= until)
    found = connection.execute(query).scalars()
    return each_readable(found, WindowSummary.from_plain, what="window", model_name=model_name)


def drop_old_sketches(
    connection: Connection, model_name: str, n_kept: int, *, n_added: int | None = None
) -> None:
    """Keep the quantiles of the newest `n_kept` rows only.

    Args:
        connection: Inside a writing transaction.
        model_name: Whose.
        n_kept: How many rows keep them.
        n_added: How many rows are new, so that only as many are to lose theirs. None looks at all
            rows, of which there may be hundreds of thousands.
    """
    mine = _row.model_name == model_name
    older = select(_row.seq).where(mine).order_by(_row.seq.desc()).offset(n_kept)
    seqs = connection.execute(older.limit(n_added or 1)).scalars().all()
    if not seqs:
        return
    old = and_(mine, _row.seq <= seqs[0], _row.sketches.is_not(None))
    if n_added is not None:
        old = and_(old, _row.seq >= seqs[-1])
    connection.execute(update(monitor_window).where(old).values(sketches=None))


def merge_old_windows(
    connection: Connection, model_name: str, retention: Retention, now: datetime
) -> int:
    """Make hours of old windows and days of old hours, inside a writing transaction.

    Returns:
        How many rows went.
    """
    n_gone = 0
    for merge in merges(_candidates(connection, model_name, retention, now), retention, now):
        _carry_out(connection, merge)
        n_gone += len(merge.drop)
    return n_gone


def _candidates(
    connection: Connection, model_name: str, retention: Retention, now: datetime
) -> list[Stored]:
    """Rows that are due, and those of the hours and days they may join."""
    hourly_before = retention.hourly_before(now).isoformat()
    daily_before = retention.daily_before(now).isoformat()
    due = or_(
        and_(_row.span == WINDOW, _row.ended_at < hourly_before),
        and_(_row.span == HOUR, _row.ended_at < daily_before),
    )
    mine = _row.model_name == model_name
    ends = connection.execute(select(_row.ended_at).where(mine, due)).scalars().all()
    if not ends:
        return []
    first = start_of(DAY, datetime.fromisoformat(min(ends)))
    last = start_of(DAY, datetime.fromisoformat(max(ends))) + timedelta(days=1)
    query = select(_row.seq, _row.summary).where(
        mine, _row.ended_at >= first.isoformat(), _row.ended_at < last.isoformat()
    )
    return [
        Stored(row.seq, WindowSummary.from_plain(row.summary)) for row in connection.execute(query)
    ]


def _carry_out(connection: Connection, merge: Merge) -> None:
    connection.execute(
        update(monitor_window).where(_row.seq == merge.keep).values(**_values(merge.summary))
    )
    if merge.drop:
        connection.execute(
            delete(monitor_window).where(_row.seq == bindparam("gone")),
            [{"gone": seq} for seq in merge.drop],
        )


def _values(summary: WindowSummary) -> dict[str, Any]:
    return {
        "started_at": summary.started_at,
        "ended_at": summary.ended_at,
        "span": summary.span,
        "n_windows": summary.n_windows,
        "summary": summary.figures_to_plain(),
        "sketches": summary.sketches_to_plain(),
    }
