"""How long windows are kept one by one, and what becomes of them then."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from modelyard._core.errors import ConfigError
from modelyard.monitor.history.summaries import DAY, HOUR, WINDOW

# A recorder that wrote nothing for so long has ended, or has nothing to say.
_SILENCE = timedelta(hours=1)


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How long history is kept at which detail. Nothing is ever dropped: it is put together.

    Attributes:
        windows_days: Windows older than this are put together by the hour.
        hours_days: Hours older than this are put together by the day.

    Raises:
        ConfigError: A negative number, or hours that end before windows do.
    """

    windows_days: float = 30.0
    hours_days: float = 365.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.windows_days <= self.hours_days:
            raise ConfigError(
                "Retention needs 0 <= windows_days <= hours_days, got "
                f"{self.windows_days} and {self.hours_days}."
            )


@dataclass(frozen=True, kw_only=True)
class StoredWindow:
    """A row of the history: its number, when it ended (ISO 8601), and what span it is."""

    seq: int
    ended_at: str
    span: str


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows that become one.

    Attributes:
        span: Of the new row.
        seqs: Of the rows it is made of.
    """

    span: str
    seqs: tuple[int, ...]


def groups_to_merge(
    rows: Sequence[StoredWindow], retention: Retention, *, now: datetime
) -> list[Group]:
    """What becomes one; nothing where that has been done.

    Args:
        rows: Of one model, in any order.
        retention: What is kept how long.
        now: UTC.
    """
    last_window = (now - timedelta(days=retention.windows_days)).isoformat()
    last_hour = (now - timedelta(days=retention.hours_days)).isoformat()
    groups: dict[tuple[str, str], list[StoredWindow]] = {}
    for row in rows:
        if row.ended_at < last_hour:
            groups.setdefault((DAY, row.ended_at[:10]), []).append(row)
        elif row.ended_at < last_window and row.span != DAY:
            groups.setdefault((HOUR, row.ended_at[:13]), []).append(row)
    return [
        Group(span=span, seqs=tuple(row.seq for row in found))
        for (span, _), found in groups.items()
        if len(found) > 1 or found[0].span == WINDOW or found[0].span != span
    ]


@dataclass(frozen=True, kw_only=True)
class StoredChunk:
    """A row of recorded predictions: its number, whose it is, when it was written."""

    seq: int
    recorder_id: str
    at: str
    n_records: int


def chunks_to_drop(rows: Sequence[StoredChunk], *, n_kept: int, at: str) -> list[int]:
    """Numbers of the rows that no window needs any more.

    A row goes when newer ones of its own recorder hold a window; or, of recorders that are long
    gone, when newer ones of all recorders hold two.

    Args:
        rows: Of one model, newest first.
        n_kept: Records of a window.
        at: Now, ISO 8601 in UTC.
    """
    silent_since = (datetime.fromisoformat(at) - _SILENCE).isoformat()
    newer: Counter[str] = Counter()
    gone: list[int] = []
    for row in rows:
        is_over = newer[row.recorder_id] >= n_kept
        is_forgotten = row.at < silent_since and newer.total() >= 2 * n_kept
        if is_over or is_forgotten:
            gone.append(row.seq)
        newer[row.recorder_id] += row.n_records
    return gone
