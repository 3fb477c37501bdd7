"""When updates may go forward: hours of low traffic, in the clock of the users' own time zone."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from modelyard._core.errors import ConfigError

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_FORM = re.compile(
    r"^(?:(?P<days>[a-z,\-]+)\s+)?(?P<start>\d\d:\d\d)-(?P<end>\d\d:\d\d)$|^(?P<only>[a-z,\-]+)$"
)
_ALL_DAY = (time(0, 0), time(0, 0))
# The midnight at the end of a day.
_MIDNIGHT = "24:00"
# A window opens within a week, or a day more where the clocks are changed.
_HORIZON_DAYS = 9
# Open hours are counted so far back.
_LONGEST_DAYS = 60


@dataclass(frozen=True, kw_only=True)
class UpdateWindow:
    """A stretch of the day, on some days of the week.

    Attributes:
        days: On which days it begins, 0 for Monday.
        start: When it begins, by the local clock.
        end: When it ends; not after `start` means on the next day.
    """

    days: frozenset[int]
    start: time
    end: time

    def holds(self, local: datetime) -> bool:
        """Whether it is open at a moment of the local clock."""
        now, day = local.time().replace(tzinfo=None), local.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= now < self.end
        began_today = day in self.days and now >= self.start
        began_yesterday = (day - 1) % 7 in self.days and now < self.end
        return began_today or began_yesterday


def window_of(text: str) -> UpdateWindow:
    """The window that a text such as `mon-fri 22:00-04:00`, `02:00-05:00` or `sat,sun` means.

    Raises:
        ConfigError: It means none.
    """
    found = _FORM.match(text.strip().lower()) if isinstance(text, str) else None
    if found is None:
        raise ConfigError(
            f"An update window is written as 'mon-fri 22:00-04:00', '02:00-05:00' or 'sat,sun'; "
            f"got {text!r}."
        )
    days = _days(found["days"] or found["only"] or "mon-sun", text)
    if found["only"]:
        start, end = _ALL_DAY
    else:
        if found["start"] == _MIDNIGHT:
            raise ConfigError(
                f"{_MIDNIGHT} in {text!r} is the end of a day and begins nothing: write 00:00 and "
                "the day after."
            )
        start, end = _time(found["start"], text), _time(found["end"], text)
    return UpdateWindow(days=days, start=start, end=end)


def zone_of(name: str) -> ZoneInfo:
    """The time zone of this name, such as `Asia/Shanghai`.

    Raises:
        ConfigError: It is not known here.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError) as error:
        raise ConfigError(
            f"timezone {name!r} is not known here: give a name such as 'Asia/Shanghai' (and "
            "install the package tzdata where the system has no time zones)."
        ) from error


def is_open(windows: Sequence[UpdateWindow], zone: ZoneInfo, now: datetime) -> bool:
    """Whether updates may go forward at a moment; always without any window."""
    local = now.astimezone(zone)
    return not windows or any(window.holds(local) for window in windows)


def opens_at(windows: Sequence[UpdateWindow], zone: ZoneInfo, now: datetime) -> datetime | None:
    """When the next window opens, UTC: `now` itself inside one; None where none ever does.

    Inside an hour that the clocks leap over it opens when they leap; where an hour comes twice it
    opens twice.
    """
    if is_open(windows, zone, now):
        return now
    today = now.astimezone(zone).date()
    days = [today + timedelta(days=i) for i in range(-1, _HORIZON_DAYS)]
    # Between two of these moments nothing opens: the local clock runs on.
    moments = [
        *(start for window in windows for start in _starts(window, zone, days)),
        *_clock_changes(zone, days),
    ]
    return min((m for m in moments if m > now and is_open(windows, zone, m)), default=None)


def closed_until(windows: Sequence[UpdateWindow], zone: ZoneInfo, now: datetime) -> str | None:
    """That updates may not go forward and until when, in words; None where they may."""
    if is_open(windows, zone, now):
        return None
    opening = opens_at(windows, zone, now)
    until = "" if opening is None else f" until {opening.isoformat()}"
    return f"outside the update windows{until}"


def time_open(
    windows: Sequence[UpdateWindow], zone: ZoneInfo, begin: datetime, end: datetime
) -> timedelta:
    """For how long updates might have gone forward between two moments; of 60 days at most."""
    if not windows or end <= begin:
        return max(end - begin, timedelta(0))
    begin = max(begin, end - timedelta(days=_LONGEST_DAYS))
    first = begin.astimezone(zone).date() - timedelta(days=1)
    n_days = (end.astimezone(zone).date() - first).days + 2
    days = [first + timedelta(days=i) for i in range(n_days)]
    # Between two of these moments nothing opens or shuts.
    changes = {
        *(moment for window in windows for moment in _starts(window, zone, days)),
        *(moment for window in windows for moment in _ends(window, zone, days)),
        *_clock_changes(zone, days),
    }
    moments = [begin, *sorted(moment for moment in changes if begin < moment < end), end]
    stretches = [b - a for a, b in itertools.pairwise(moments) if is_open(windows, zone, a)]
    return sum(stretches, timedelta(0))


def _starts(window: UpdateWindow, zone: ZoneInfo, days: Sequence[date]) -> list[datetime]:
    return [
        datetime.combine(day, window.start, zone).replace(fold=fold).astimezone(UTC)
        for day in days
        if day.weekday() in window.days
        for fold in (0, 1)
    ]


def _ends(window: UpdateWindow, zone: ZoneInfo, days: Sequence[date]) -> list[datetime]:
    return [
        datetime.combine(day, window.end, zone).replace(fold=fold).astimezone(UTC)
        for day in days
        for fold in (0, 1)
    ]


def _clock_changes(zone: ZoneInfo, days: Sequence[date]) -> list[datetime]:
    """When the clocks are changed on one of the days, to the second, UTC."""
    noons = [datetime.combine(day, time(12), UTC) for day in days]
    changes = []
    for begin, end in itertools.pairwise(noons):
        before, low, high = begin.astimezone(zone).utcoffset(), begin, end
        if end.astimezone(zone).utcoffset() == before:
            continue
        while high - low > timedelta(seconds=1):
            middle = low + (high - low) / 2
            is_before = middle.astimezone(zone).utcoffset() == before
            low, high = (middle, high) if is_before else (low, middle)
        changes.append(high.replace(microsecond=0))
    return changes


def _days(text: str, whole: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first not in _DAYS or (last or first) not in _DAYS:
            raise ConfigError(f"Days are {', '.join(_DAYS)}; got {part!r} in {whole!r}.")
        begin, end = _DAYS.index(first), _DAYS.index(last or first)
        found.update((begin + i) % 7 for i in range((end - begin) % 7 + 1))
    return frozenset(found)


def _time(text: str, whole: str) -> time:
    try:
        return time(0, 0) if text == _MIDNIGHT else time.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"{text!r} in {whole!r} is no time of day such as 22:00.") from error
