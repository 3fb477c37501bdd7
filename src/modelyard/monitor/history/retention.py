"""How long windows are kept one by one, and what becomes of them after that."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from modelyard._core.errors import ConfigError
from modelyard.monitor.history.merging import merged
from modelyard.monitor.history.summaries import DAY, HOUR, WINDOW, WindowSummary

_RANK = {WINDOW: 0, HOUR: 1, DAY: 2}


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How long windows are kept one by one.

    Attributes:
        windows_days: Days after which the windows of an hour become one summary.
        hours_days: Days after which the hours of a day become one summary, which is kept for good.
        n_sketches: Newest windows whose distributions are kept.

    Raises:
        ConfigError: A number that is not above 0, or hours that are kept no longer than windows.
    """

    windows_days: float = 30.0
    hours_days: float = 365.0
    n_sketches: int = 20

    def __post_init__(self) -> None:
        if not 0.0 < self.windows_days <= self.hours_days or self.n_sketches < 1:
            raise ConfigError(
                "Retention needs 0 < windows_days <= hours_days and n_sketches of 1 or more; got "
                f"{self.windows_days}, {self.hours_days} and {self.n_sketches}."
            )

    def hourly_before(self, now: datetime) -> datetime:
        """Windows that ended before this time belong in hours; a full hour, UTC."""
        return start_of(HOUR, now - timedelta(days=self.windows_days))

    def daily_before(self, now: datetime) -> datetime:
        """Windows and hours that ended before this time belong in days; midnight, UTC."""
        return start_of(DAY, now - timedelta(days=self.hours_days))


@dataclass(frozen=True)
class Stored:
    """A summary and the number of its row; rows that are newer have larger numbers."""

    seq: int
    summary: WindowSummary


@dataclass(frozen=True)
class Merge:
    """Rows that become one.

    Attributes:
        keep: The newest one's number, which the merged summary gets.
        drop: The others' numbers.
        summary: All of them together.
    """

    keep: int
    drop: tuple[int, ...]
    summary: WindowSummary


def merges(stored: Sequence[Stored], retention: Retention, now: datetime) -> list[Merge]:
    """Which rows are to become one, oldest first; none where all is as it should be.

    Only hours and days that are wholly over their time are merged, each by the time its windows
    ended. A window that is stored late joins the summary that its hour or day already has.

    Args:
        stored: Rows of one model.
        retention: How long what is kept.
        now: With its zone.
    """
    hourly_before, daily_before = retention.hourly_before(now), retention.daily_before(now)
    groups: dict[tuple[str, datetime], list[Stored]] = defaultdict(list)
    for item in stored:
        ended_at = datetime.fromisoformat(item.summary.ended_at)
        target = DAY if ended_at < daily_before else HOUR if ended_at < hourly_before else WINDOW
        span = max(item.summary.span, target, key=_RANK.__getitem__)
        if span != WINDOW:
            groups[span, start_of(span, ended_at)].append(item)
    return [
        _merge(members, span)
        for (span, _), members in sorted(groups.items(), key=lambda group: group[0][1])
        if len(members) > 1 or members[0].summary.span != span
    ]


def _merge(members: Sequence[Stored], span: str) -> Merge:
    *others, newest = sorted(members, key=lambda item: item.seq)
    return Merge(
        keep=newest.seq,
        drop=tuple(item.seq for item in others),
        summary=merged([item.summary for item in members], span=span),
    )


def start_of(span: str, moment: datetime) -> datetime:
    """The full hour, or midnight if `span` is a day, at or before a moment; UTC."""
    hour = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return hour.replace(hour=0) if span == DAY else hour
