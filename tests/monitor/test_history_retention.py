"""Old windows become hours, then days; nothing is lost in sums, however often it is done."""

from dataclasses import replace
from datetime import timedelta

import pytest
from history_helpers import START, assert_same, window_at
from hypothesis import given
from hypothesis import strategies as st

from modelyard._core.errors import ConfigError
from modelyard.monitor.history.memory import PastWindows
from modelyard.monitor.history.retention import Retention, Stored, merges
from modelyard.monitor.history.rows import MonitorRows, News
from modelyard.storage import open_store

RETENTION = Retention(windows_days=30, hours_days=365)


def apply(stored, plan):
    """The rows after the plan was carried out."""
    rows = {item.seq: item.summary for item in stored}
    for merge in plan:
        for seq in merge.drop:
            del rows[seq]
        rows[merge.keep] = merge.summary
    return [Stored(seq, summary) for seq, summary in sorted(rows.items())]


def totals(summaries):
    summaries = list(summaries)
    return (
        sum(s.n_windows for s in summaries),
        sum(s.health.n_predictions for s in summaries),
        sum(s.health.n_errors for s in summaries),
        sum(s.latency.n for s in summaries),
        sum(s.health.metrics["pnl"].n for s in summaries if "pnl" in s.health.metrics),
        sum(moments.n for s in summaries for moments in s.outputs),
        sum(figures.n_windows for s in summaries for figures in s.drift.values()),
    )


windows = st.lists(
    st.builds(
        window_at,
        st.floats(0, 500),
        n=st.integers(1, 3),
        error=st.booleans(),
        metrics=st.sampled_from([None, {"pnl": [1.0, 2.0]}]),
    ),
    max_size=25,
)


@given(windows, st.lists(st.floats(0, 1000), min_size=1, max_size=4))
def test_nothing_is_lost_in_sums_and_twice_is_as_once(found, days):
    stored = [Stored(seq, summary) for seq, summary in enumerate(found)]
    before = totals(item.summary for item in stored)
    for day in sorted(days):
        now = START + timedelta(days=day)
        stored = apply(stored, merges(stored, RETENTION, now))
        assert totals(item.summary for item in stored) == before
        assert merges(stored, RETENTION, now) == []


@given(windows, st.floats(0, 1000))
def test_after_it_each_hour_and_day_is_one_row_and_none_is_finer_than_its_age_allows(found, day):
    now = START + timedelta(days=day)
    stored = [Stored(seq, summary) for seq, summary in enumerate(found)]
    left = [item.summary for item in apply(stored, merges(stored, RETENTION, now))]
    for summary in left:
        if summary.ended_at < RETENTION.daily_before(now).isoformat():
            assert summary.span == "day"
        elif summary.ended_at < RETENTION.hourly_before(now).isoformat():
            assert summary.span == "hour"
        else:
            assert summary.span == "window"
    for span, length in (("hour", 13), ("day", 10)):
        starts = [s.ended_at[:length] for s in left if s.span == span]
        assert len(starts) == len(set(starts))


def test_done_along_the_way_is_as_done_at_the_end():
    found = [window_at(day / 48) for day in range(48 * 3)]
    end = START + timedelta(days=1000)
    at_once = [Stored(seq, summary) for seq, summary in enumerate(found)]
    at_once = apply(at_once, merges(at_once, RETENTION, end))
    along = [Stored(seq, summary) for seq, summary in enumerate(found)]
    for day in range(0, 1001, 10):
        along = apply(along, merges(along, RETENTION, START + timedelta(days=day)))
    assert_same(
        [item.summary.to_plain() for item in along],
        [item.summary.to_plain() for item in at_once],
    )
    assert [item.summary.n_windows for item in along] == [48, 48, 48]


def test_an_hour_that_is_not_over_its_time_is_left_alone():
    half_past = START + timedelta(minutes=30)
    stored = [Stored(1, window_at(0.001)), Stored(2, window_at(0.002))]
    assert merges(stored, RETENTION, half_past + timedelta(days=30)) == []
    assert len(merges(stored, RETENTION, half_past + timedelta(days=30, minutes=31))) == 1


def test_a_window_stored_late_joins_the_hour_it_belongs_to():
    now = START + timedelta(days=40)
    hour = merges([Stored(1, window_at(0.001)), Stored(2, window_at(0.002))], RETENTION, now)[0]
    late = window_at(0.003)
    plan = merges([Stored(hour.keep, hour.summary), Stored(9, late)], RETENTION, now)
    assert [(merge.keep, merge.drop) for merge in plan] == [(9, (2,))]
    assert plan[0].summary.n_windows == 3


def test_a_window_that_an_earlier_version_stored_is_merged_too():
    old = replace(window_at(0.0), started_at=START.isoformat())
    plan = merges([Stored(1, old)], RETENTION, START + timedelta(days=31))
    assert plan[0].summary.span == "hour"


@pytest.mark.parametrize(
    "given",
    [{"windows_days": 0}, {"windows_days": 2, "hours_days": 1}, {"n_sketches": 0}],
)
def test_a_retention_that_makes_no_sense_is_refused(given):
    with pytest.raises(ConfigError, match="windows_days"):
        Retention(**given)


def test_only_the_newest_windows_in_memory_keep_their_distributions():
    past = PastWindows((), 3, n_kept=5)
    for day in range(8):
        past.add(window_at(day))
    assert [window.predictions is not None for window in past] == [False] * 2 + [True] * 3


@pytest.fixture(params=["sqlite", "postgres"])
def store(request, tmp_path):
    url = None
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
    opened = open_store(tmp_path, database_url=url)
    yield opened
    opened.close()


def test_the_store_keeps_windows_then_hours_then_days(store):
    rows = MonitorRows(store, "kept", RETENTION)
    found = [window_at(day / 48) for day in range(96)]
    rows.write(News(recorder_id="r", windows=found), at=START)
    rows.write(News(recorder_id="r", windows=[window_at(300)]), at=START)
    before = totals(rows.windows_between(None, None))
    assert rows.thin(now=START + timedelta(days=29)) == 0
    assert rows.thin(now=START + timedelta(days=35)) == 48
    assert rows.thin(now=START + timedelta(days=35)) == 0
    spans = [summary.span for summary in rows.windows_between(None, None)]
    assert spans == ["hour"] * 48 + ["window"]
    assert rows.thin(now=START + timedelta(days=400)) == 46
    left = rows.windows_between(None, None)
    assert [(s.span, s.n_windows) for s in left] == [("day", 48), ("day", 48), ("hour", 1)]
    assert totals(left) == before
    # Where an hour came to lie among the rows is where its newest window lay.
    assert [s.span for s in rows.windows(3)] == ["day", "day", "hour"]


def test_the_store_keeps_the_distributions_of_the_newest_only(store):
    rows = MonitorRows(store, "sketched", Retention(n_sketches=3))
    for day in range(5):
        rows.write(News(recorder_id="r", windows=[window_at(day)]), at=START)
    rows.write(News(recorder_id="r", windows=[window_at(5), window_at(6)]), at=START)
    assert [w.predictions is not None for w in rows.windows(10)] == [False] * 4 + [True] * 3
    assert len(rows.windows(2)) == 2


def test_a_write_looks_at_no_more_rows_than_it_makes_old(store):
    windows = [window_at(day) for day in range(6)]
    of_another = MonitorRows(store, "aged", Retention(n_sketches=5))
    of_another.write(News(recorder_id="r", windows=windows[:5]), at=START)
    rows = MonitorRows(store, "aged", Retention(n_sketches=2))
    rows.write(News(recorder_id="r", windows=windows[5:]), at=START)
    is_kept = [w.predictions is not None for w in rows.windows(10)]
    assert is_kept == [True, True, True, False, True, True]
    rows.thin(now=START + timedelta(days=6))
    assert [w.predictions is not None for w in rows.windows(10)] == [False] * 4 + [True] * 2


def test_a_time_asked_for_includes_its_ends(store):
    rows = MonitorRows(store, "asked", RETENTION)
    rows.write(News(recorder_id="r", windows=[window_at(day) for day in range(5)]), at=START)
    ends = [window_at(day).ended_at for day in range(5)]
    assert [w.ended_at for w in rows.windows_between(ends[1], ends[3])] == ends[1:4]
    assert [w.ended_at for w in rows.windows_between(None, ends[0])] == ends[:1]
    assert rows.windows_between(ends[4], None)[0].predictions is None


def test_models_do_not_see_each_other(store):
    rows, other = MonitorRows(store, "one", RETENTION), MonitorRows(store, "two", RETENTION)
    rows.write(News(recorder_id="r", windows=[window_at(0), window_at(0)]), at=START)
    other.write(News(recorder_id="r", windows=[window_at(0)]), at=START)
    assert rows.thin(now=START + timedelta(days=40)) == 1
    assert [w.span for w in other.windows(9)] == ["window"]
