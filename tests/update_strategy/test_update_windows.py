"""When updates may go forward, by the users' own clock."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard._core.errors import ConfigError
from modelyard.update_strategy.settings import UpdateSettings
from modelyard.update_strategy.windows import (
    is_open,
    opens_at,
    time_open,
    window_of,
    zone_of,
)

BERLIN, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")


def local(zone, *parts):
    return datetime(*parts, tzinfo=zone)


@pytest.mark.parametrize(
    ("text", "moment", "expected"),
    [
        ("02:00-05:00", (2024, 1, 3, 2, 0), True),
        ("02:00-05:00", (2024, 1, 3, 5, 0), False),
        ("mon-fri 22:00-04:00", (2024, 1, 5, 23, 0), True),  # a Friday
        ("mon-fri 22:00-04:00", (2024, 1, 6, 3, 59), True),  # begun on Friday
        ("mon-fri 22:00-04:00", (2024, 1, 6, 22, 30), False),  # a Saturday
        ("mon-fri 22:00-04:00", (2024, 1, 8, 3, 0), False),  # begun on Sunday: no
        ("sat,sun", (2024, 1, 7, 12, 0), True),
        ("sat,sun", (2024, 1, 8, 0, 0), False),
        ("fri-mon 10:00-24:00", (2024, 1, 8, 23, 59), True),
        ("FRI-MON 10:00-11:00", (2024, 1, 10, 10, 30), False),
    ],
)
def test_days_and_hours_over_midnight(text, moment, expected):
    assert is_open([window_of(text)], BERLIN, local(BERLIN, *moment)) is expected


@pytest.mark.parametrize(
    ("zone", "day", "text", "opening"),
    [
        # Clocks leap from 2:00 to 3:00: a window from 2:30 opens then.
        (BERLIN, (2024, 3, 31, 0, 0), "02:30-05:00", local(BERLIN, 2024, 3, 31, 3, 0)),
        (NEW_YORK, (2024, 3, 10, 0, 0), "02:30-04:15", local(NEW_YORK, 2024, 3, 10, 3, 0)),
        # 2:30 comes twice: the first one.
        (BERLIN, (2024, 10, 27, 0, 0), "02:30-05:00", local(BERLIN, 2024, 10, 27, 2, 30)),
        (NEW_YORK, (2024, 11, 3, 0, 0), "01:30-05:00", local(NEW_YORK, 2024, 11, 3, 1, 30)),
    ],
)
def test_a_day_on_which_the_clocks_change(zone, day, text, opening):
    assert opens_at([window_of(text)], zone, local(zone, *day)) == opening.astimezone(UTC)


def test_inside_a_window_it_opens_now_and_without_one_always():
    now = datetime(2024, 1, 3, 2, 30, tzinfo=UTC)
    assert opens_at([window_of("02:00-05:00")], zone_of("UTC"), now) == now
    assert is_open([], BERLIN, now)
    assert opens_at([], BERLIN, now) == now


hours = st.integers(0, 23).map(lambda hour: f"{hour:02d}:00")
days = st.sampled_from(["", "mon ", "sat,sun ", "mon-fri ", "fri-mon "])
moments = st.integers(0, 3 * 365 * 24 * 60).map(
    lambda minutes: datetime(2023, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
)


@given(days, hours, hours, moments, st.sampled_from(["UTC", "Europe/Berlin", "Asia/Shanghai"]))
def test_where_it_says_it_opens_it_is_open_and_not_before(day, start, end, now, name):
    window, zone = window_of(f"{day}{start}-{end}"), zone_of(name)
    opening = opens_at([window], zone, now)
    assert opening is not None
    assert now <= opening <= now + timedelta(days=8)
    assert is_open([window], zone, opening)
    if opening > now:
        assert not is_open([window], zone, now)


@pytest.mark.parametrize(
    "text",
    ["", "25:00-26:00", "montag 1:00-2:00", "02:00", "xyz 02:00-03:00", 7],
)
def test_a_text_that_is_no_window_says_how_one_is_written(text):
    with pytest.raises(ConfigError):
        window_of(text)


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("update_windows", ["noon"], "Days are"),
        ("update_windows", "02:00-05:00", "must be a list"),
        ("timezone", "Mars/Olympus", "not known here"),
        ("approval_steps", [30], "among the steps"),
        ("require_key_metric", True, "needs key_metric"),
        ("error_margin", 1.5, "error_margin"),
        ("bake_minutes", -1, "bake_minutes"),
        ("max_consecutive_rollbacks", 0, "max_consecutive_rollbacks"),
        ("confidence_level", 95, "confidence_level"),
    ],
)
def test_a_setting_that_breaks_its_rule_says_which(setting, value, said):
    with pytest.raises(ConfigError, match=said):
        UpdateSettings.from_config({setting: value})


@pytest.mark.parametrize(
    ("zone", "midnight"),
    [
        (BERLIN, (2024, 3, 31)),
        (BERLIN, (2024, 10, 27)),
        (NEW_YORK, (2024, 3, 10)),
        (NEW_YORK, (2024, 11, 3)),
    ],
)
@pytest.mark.parametrize("text", ["02:30-04:15", "01:15-02:30", "01:30-01:45", "23:00-01:30"])
def test_the_opening_is_the_first_open_minute_also_where_clocks_change(zone, midnight, text):
    windows = [window_of(text)]
    first = local(zone, *midnight).astimezone(UTC) - timedelta(hours=2)
    minutes = [first + timedelta(minutes=i) for i in range(8 * 60)]
    following = None
    for moment in reversed(minutes):
        if is_open(windows, zone, moment):
            following = moment
        if following is not None:
            assert opens_at(windows, zone, moment) == following


def test_midnight_at_the_end_of_a_day_begins_no_window():
    with pytest.raises(ConfigError, match=r"24:00 in 'fri 24:00-02:00' is the end of a day"):
        window_of("fri 24:00-02:00")
    assert window_of("fri 22:00-24:00").end.hour == 0


@pytest.mark.parametrize(
    ("windows", "begin", "end", "hours"),
    [
        ([], "2024-01-03T00:00", "2024-01-05T00:00", 48.0),
        (["22:00-04:00"], "2024-01-03T03:00", "2024-01-03T22:30", 1.5),
        (["22:00-04:00"], "2024-01-03T05:00", "2024-01-03T06:00", 0.0),
        (["22:00-04:00", "03:00-05:00"], "2024-01-03T00:00", "2024-01-04T00:00", 7.0),
        (["wed"], "2024-01-03T12:00", "2024-01-12T00:00", 36.0),
        (["22:00-04:00"], "2024-01-03T22:30", "2024-01-03T22:00", 0.0),
        (["02:00-05:00"], "2023-01-01T00:00", "2024-01-01T00:00", 180.0),  # of 60 days
    ],
)
def test_for_how_long_updates_might_have_gone_forward(windows, begin, end, hours):
    moments = [datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (begin, end)]
    found = time_open([window_of(text) for text in windows], zone_of("UTC"), *moments)
    assert found == timedelta(hours=hours)


def test_where_the_clocks_leap_a_night_is_an_hour_shorter():
    zone, windows = zone_of("Europe/Berlin"), [window_of("00:00-06:00")]
    begin = datetime(2024, 3, 30, 12, 0, tzinfo=UTC)
    assert time_open(windows, zone, begin, begin + timedelta(days=1)) == timedelta(hours=5)
