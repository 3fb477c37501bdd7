"""What a monitor has learnt, kept until it is stored and found again."""

import logging
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from threading import Barrier, Thread

import numpy as np
import pytest
from history_helpers import START, Records, window_at

from modelyard._core.errors import StorageError
from modelyard.monitor.alerting.alerts import Breach, EventKind, Severity
from modelyard.monitor.alerting.readings import Reading, State
from modelyard.monitor.drift.baseline import Baseline
from modelyard.monitor.history.alert_rows import with_word_of_others
from modelyard.monitor.history.journal import Journal
from modelyard.monitor.history.retention import Retention
from modelyard.monitor.history.rows import MonitorRows, monitored_models
from modelyard.storage import open_store
from modelyard.version_manager import ModelVersionManager

LATER = START + timedelta(minutes=1)


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path)
    yield opened
    opened.close()


def journal_on(store, name="ppo", **options):
    return Journal(MonitorRows(store, name), n_records=8, **options)


def baseline(second=0):
    at = (START + timedelta(seconds=second)).isoformat()
    return Baseline(set_at=at, predictions=None, features=None, health=None)


def breach(name="error_rate", severity=Severity.WARNING):
    return Breach(
        name=name, severity=severity, value=0.2, threshold=0.1, message=f"{name} is high"
    )


def reading(state=State.BREACH, severity=Severity.WARNING):
    return Reading(name="error_rate", state=state, severity=severity, value=0.2, n_consecutive=1)


def delivery(name):
    return {"delivery_id": name, "sink": "log", "event": {"event_id": name}, "error": "down"}


def records(first, n=4):
    return Records({"a": np.arange(first, first + n, dtype=float)}, {"first": first}, n)


def fill(journal, *, first=0):
    journal.add_window(window_at(first))
    journal.note_records(records(first))
    journal.report(breach(f"rule_{first}"), at=START)
    journal.set_baseline(baseline(first), source="window", actor="me", reason="why not")
    journal.note_deliveries([delivery(f"event_{first}")])


def values(journal):
    return [value for chunk in journal.chunks() for value in chunk.arrays["a"].tolist()]


def contents(journal):
    return (
        [window.to_plain() for window in journal.recent(50)],
        values(journal),
        sorted((alert.to_dict() for alert in journal.alerts.select()), key=lambda a: a["name"]),
        journal.baseline.to_plain(),
        journal.baseline_history(),
        journal.deliveries,
    )


@pytest.mark.slow
def test_everything_is_found_again(store):
    first = journal_on(store)
    fill(first)
    first.write(at=START)
    again = journal_on(store)
    assert contents(again) == contents(first)
    assert values(again) == [0, 1, 2, 3]
    assert again.chunks()[0].meta == {"first": 0}
    assert again.deliveries == [
        {"delivery_id": "event_0", "sink": "log", "event": {"event_id": "event_0"}}
    ]
    assert monitored_models(store) == ["ppo"]


def test_what_is_not_written_yet_is_not_there_and_nothing_is_written_twice(store):
    journal = journal_on(store)
    fill(journal)
    assert monitored_models(store) == []
    journal.write(at=START)
    journal.write(at=START)
    fill(journal, first=4)
    journal.write(at=START)
    again = journal_on(store)
    assert len(again.windows) == 2
    assert values(again) == list(range(8))
    assert len(again.baseline_history()) == 2
    assert [item["delivery_id"] for item in again.deliveries] == ["event_4"]


def test_without_a_store_all_of_it_is_in_memory():
    journal = Journal(None, retention=Retention(n_sketches=3))
    for day in range(5):
        journal.add_window(window_at(day))
    assert not journal.note_records(records(0))
    journal.set_baseline(baseline(), source="data", actor="me")
    journal.write(at=START)
    assert not journal.is_stored
    assert [window.predictions is None for window in journal.windows] == [True] * 2 + [False] * 3
    assert [window.ended_at for window in journal.recent(2)] == [
        window_at(3).ended_at,
        window_at(4).ended_at,
    ]
    assert (
        journal.windows_between(window_at(4).ended_at, None)[0].ended_at == window_at(4).ended_at
    )
    assert journal.chunks() == []
    assert journal.baseline_history()[0]["source"] == "data"


def test_a_thousand_windows_are_kept_in_memory():
    journal = Journal(None)
    for day in range(1010):
        journal.add_window(window_at(day / 100, n=1))
    assert len(journal.windows) == 1000


def test_a_store_that_refuses_loses_nothing(store, monkeypatch):
    journal = journal_on(store)
    fill(journal)
    real = MonitorRows.write

    def refuse(*_, **__):
        raise StorageError("The disk is full.")

    monkeypatch.setattr(MonitorRows, "write", refuse)
    for _ in range(3):
        with pytest.raises(StorageError, match="full"):
            journal.write(at=START)
    fill(journal, first=4)
    monkeypatch.setattr(MonitorRows, "write", real)
    journal.write(at=START)
    assert contents(journal_on(store)) == contents(journal)


def test_on_a_full_disk_nothing_is_half_stored_and_nothing_lost(store):
    journal = journal_on(store)
    fill(journal)
    journal.write(at=START)
    fill(journal, first=4)
    journal.note_records(Records({"a": np.zeros(200_000)}, {}, 1))
    before = journal_on(store)
    with full_disk(store), pytest.raises(StorageError, match="full"):
        journal.write(at=START)
    assert contents(journal_on(store)) == contents(before)
    journal.write(at=START)
    assert len(journal_on(store).windows) == 2
    assert contents(journal_on(store)) == contents(journal)


@contextmanager
def full_disk(store):
    """The database may not grow."""

    def limit(n_more):
        with store.database.reading() as connection:
            n = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {n + n_more}")

    limit(0)
    yield
    limit(10**6)


def test_while_nothing_can_be_stored_no_more_than_a_window_waits(store, monkeypatch):
    journal = journal_on(store)
    for first in range(0, 400, 4):
        journal.note_records(records(first))
    assert len(journal._waiting.news().chunks) == 2
    journal.write(at=START)
    assert values(journal_on(store)) == list(range(392, 400))


def test_a_model_never_keeps_more_than_two_windows_of_records(store):
    journal = journal_on(store)
    for first in range(0, 400, 3):
        journal.note_records(records(first, 3))
        journal.write(at=START)
        kept = MonitorRows(store, "ppo").chunks(10**6)
        assert sum(chunk.n_records for chunk in kept) <= 2 * 8 + 2
    assert values(journal_on(store))[-8:] == list(range(394, 402))


def test_chunks_of_recorders_that_are_gone_go_too(store):
    for first in range(0, 100, 2):
        journal = journal_on(store)
        journal.note_records(records(first, 2))
        journal.write(at=START)
    assert len(MonitorRows(store, "ppo").chunks(10**6)) == 4


def test_old_windows_are_put_together_once_an_hour(store, monkeypatch):
    calls = []
    monkeypatch.setattr(MonitorRows, "thin", lambda self, now: calls.append(now))
    journal = journal_on(store)
    for minutes in (0, 1, 59, 60, 61, 119, 121):
        journal.note_records(records(minutes, 1))
        journal.write(at=START + timedelta(minutes=minutes))
        journal.write(at=START + timedelta(days=minutes))  # nothing new: nothing is changed
    assert [(now - START).total_seconds() / 60 for now in calls] == [0, 60, 121]


def test_old_windows_are_put_together_though_the_clock_was_set_back(store, monkeypatch):
    calls = []
    monkeypatch.setattr(MonitorRows, "thin", lambda self, now: calls.append(now))
    journal = journal_on(store)
    times = [START, START - timedelta(days=365), START - timedelta(days=364)]
    for i, at in enumerate(times):
        journal.note_records(records(i, 1))
        journal.write(at=at)
    assert calls == times


def test_what_comes_in_while_it_is_written_is_written_the_next_time(store, monkeypatch):
    journal = journal_on(store)
    fill(journal)
    real = MonitorRows.write

    def slow(self, news, *, at):
        fill(journal, first=4)
        journal.report(breach("rule_0"), at=LATER)
        return real(self, news, at=at)

    monkeypatch.setattr(MonitorRows, "write", slow)
    journal.write(at=START)
    assert len(journal_on(store).windows) == 1
    monkeypatch.setattr(MonitorRows, "write", real)
    journal.write(at=START)
    assert contents(journal_on(store)) == contents(journal)
    assert {alert.breach.name: alert.count for alert in journal.alerts.select()} == {
        "rule_0": 2,
        "rule_4": 1,
    }


def test_threads_that_report_while_another_writes_lose_no_alert(store):
    journal = journal_on(store)
    start = Barrier(2)

    def report():
        start.wait()
        for i in range(200):
            journal.report(breach(f"rule_{i % 20}"), at=START)

    thread = Thread(target=report)
    thread.start()
    start.wait()
    while thread.is_alive():
        journal.write(at=START)
    thread.join()
    journal.write(at=START)
    assert {alert.breach.name: alert.count for alert in journal_on(store).alerts.select()} == {
        f"rule_{i}": 10 for i in range(20)
    }


def test_the_child_of_a_fork_stores_nothing_of_its_parent(store):
    journal = journal_on(store)
    fill(journal)
    journal.write(at=START)
    fill(journal, first=4)
    journal.after_fork()
    journal.note_deliveries([])
    journal.write(at=START)
    again = journal_on(store)
    assert len(again.windows) == 1
    assert [item["delivery_id"] for item in again.deliveries] == ["event_0"]


def test_baselines_are_in_the_audit_and_the_registry_stays_sound(tmp_path):
    manager = ModelVersionManager(tmp_path)
    journal = journal_on(manager.store)
    journal.set_baseline(baseline(1), source="window", actor="me")
    journal.set_baseline(
        baseline(2), source="data", actor="you", is_forced=True, reason="prediction_drift"
    )
    journal.write(at=START)
    want = [
        {
            "at": baseline(1).set_at,
            "actor": "me",
            "source": "window",
            "n": 0,
            "replaced": None,
            "forced": False,
            "reason": "",
        },
        {
            "at": baseline(2).set_at,
            "actor": "you",
            "source": "data",
            "n": 0,
            "replaced": baseline(1).set_at,
            "forced": True,
            "reason": "prediction_drift",
        },
    ]
    assert journal.baseline_history() == want
    assert journal_on(manager.store).baseline_history() == want
    assert [event["action"] for event in manager.get_history("ppo")] == ["baseline"] * 2
    assert manager.verify()["problems"] == []
    manager.store.close()


def test_an_alert_acknowledged_by_another_process_stays_so(store):
    serving = journal_on(store)
    (opened,) = serving.note_readings([reading()], at=START)
    serving.write(at=START)
    person = journal_on(store)
    person.acknowledge(opened.alert.alert_id, by="ana", at=LATER)
    person.write(at=LATER)
    serving.note_readings([reading()], at=LATER)
    serving.write(at=LATER)
    events = serving.note_readings([reading()], at=LATER)
    assert [event.kind for event in events] == [EventKind.ACKNOWLEDGED, EventKind.SEEN]
    serving.write(at=LATER)
    (stored,) = journal_on(store).alerts.select()
    assert (stored.acknowledged_by, stored.count) == ("ana", 3)


def test_an_alert_resolved_by_another_process_is_over_here_too(store):
    serving = journal_on(store)
    (opened,) = serving.note_readings([reading()], at=START)
    serving.write(at=START)
    person = journal_on(store)
    person.resolve(opened.alert.alert_id, by="ana", at=LATER)
    person.write(at=LATER)
    for _ in range(3):
        serving.note_readings([reading()], at=LATER)
        serving.write(at=LATER)
    (stored,) = journal_on(store).alerts.select()
    assert (stored.resolved_by, stored.is_silenced) == ("ana", True)
    # What is worse is news, and stays open.
    serving.note_readings([reading(severity=Severity.CRITICAL)], at=LATER)
    serving.write(at=LATER)
    assert [a.is_active for a in journal_on(store).alerts.select()].count(True) == 1


def test_what_was_resolved_here_and_came_back_is_not_resolved_by_what_is_stored(store):
    journal = journal_on(store)
    (opened,) = journal.note_readings([reading()], at=START)
    journal.resolve(opened.alert.alert_id, by="ana", at=START)
    journal.write(at=START)
    journal.note_readings([reading(State.CALM)], at=LATER)
    journal.note_readings([reading()], at=LATER)
    journal.write(at=LATER)
    journal.note_readings([reading()], at=LATER)
    assert [alert.is_active for alert in journal.alerts.select()] == [True]


def test_a_word_given_at_a_lower_severity_does_not_count(store):
    journal = Journal(None)
    (opened,) = journal.note_readings([reading()], at=START)
    worse = replace(opened.alert, breach=breach(severity=Severity.CRITICAL))
    stored = replace(opened.alert, acknowledged_at=LATER.isoformat(), acknowledged_by="ana")
    assert with_word_of_others(worse, stored, None) is worse
    assert with_word_of_others(opened.alert, stored, None).acknowledged_by == "ana"


def test_a_damaged_chunk_does_not_keep_a_monitor_from_opening(store, caplog):
    journal = journal_on(store)
    fill(journal)
    journal.write(at=START)
    with store.database.writing() as connection:
        connection.exec_driver_sql("UPDATE monitor_chunk SET body = x'00'")
    with caplog.at_level(logging.WARNING):
        assert journal_on(store).chunks() == []
    assert "left out" in caplog.text
