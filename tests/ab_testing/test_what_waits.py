"""What was recorded and not yet stored is stored when nobody calls any more, and at the end."""

import math
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from modelyard import ABTest, ModelVariant, MultiArmedBandit
from modelyard._core import ending
from modelyard._core.clock import ManualClock
from modelyard._core.errors import StorageError
from modelyard.storage import open_store

VARIANTS = [ModelVariant(name, lambda x: x) for name in ("a", "b")]


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path)
    yield opened
    opened.close()


def recorded(store, n=10):
    test = ABTest("t", VARIANTS, "r", store=store)
    bandit = MultiArmedBandit(["a", "b"], store=store, name="n")
    for i in range(n):
        test.record_result("ab"[i % 2], {"r": float(i)}, user_id=f"u{i}")
        bandit.update(bandit.select_variant(), 1.0)
    return test, bandit


def stored(store):
    test = ABTest.load("t", store=store, models={"a": abs, "b": abs})
    bandit = MultiArmedBandit(["a", "b"], store=store, name="n")
    n_results = sum(item["sample_count"] for item in test.get_variant_stats().values())
    return n_results, bandit.get_statistics()["total"]


@pytest.mark.slow
def test_it_is_stored_a_second_later_though_nothing_is_called(store):
    alive = recorded(store)
    give_up_at = time.monotonic() + 20
    while stored(store) != (10, 10) and time.monotonic() < give_up_at:
        time.sleep(0.2)
    assert stored(store) == (10, 10)
    assert alive


def test_it_is_stored_when_python_ends(store, monkeypatch):
    alive = recorded(store)
    ending._flush_all()
    assert stored(store) == (10, 10)
    assert alive


def test_a_store_that_is_gone_then_is_told_and_others_are_flushed(store, monkeypatch, caplog):
    test, bandit = recorded(store)

    def refuse():
        raise OSError("gone")

    monkeypatch.setattr(test._ledger, "flush", refuse)
    ending._flush_all()
    assert "What a Ledger holds could not be stored" in caplog.text
    assert stored(store) == (0, 10)
    assert bandit


def test_what_a_store_says_of_itself_is_one_line(store, monkeypatch, caplog):
    test, _ = recorded(store)

    def refuse():
        raise StorageError("The disk is full.")

    monkeypatch.setattr(test._ledger, "flush", refuse)
    ending._flush_all()
    [record] = [one for one in caplog.records if one.name == ending.__name__]
    assert record.getMessage().endswith("at the end: The disk is full.")
    assert record.exc_info is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_leaves_what_its_parent_has_recorded_to_the_parent(store):
    alive = recorded(store)
    child = os.fork()
    if child == 0:
        ending._flush_all()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert stored(store) == (0, 0)
    ending._flush_all()
    assert stored(store) == (10, 10)
    assert alive


PROGRAM = """
import sys
from modelyard import ABTest, ModelVariant
from modelyard.storage import open_store

store = open_store(sys.argv[1])
test = ABTest("t", [ModelVariant(name, abs) for name in ("a", "b")], "r", store=store)
test.record_result("a", {"r": 1.0})
"""


@pytest.mark.slow
def test_a_program_that_ends_has_stored_all(tmp_path, store):
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], check=True)
    test = ABTest.load("t", store=store, models={"a": abs, "b": abs})
    assert test.get_variant_stats()["a"]["sample_count"] == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_counts_what_its_parent_has_recorded_once(store):
    test, bandit = recorded(store)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(reading, 1)  # until the parent has stored
        test.record_result("a", {"r": 1.0})
        test.flush()
        stats = test.get_variant_stats()
        os._exit(sum(item["sample_count"] for item in stats.values()))
    ending._flush_all()
    os.write(writing, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 11
    assert stored(store)[0] == 11
    assert bandit


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("n_stored", [0, 20])
@pytest.mark.parametrize("is_parent_first", [True, False])
def test_a_bandit_in_a_child_counts_its_parents_rewards_once(store, n_stored, is_parent_first):
    bandit = MultiArmedBandit(["a", "b"], store=store, name="n", clock=ManualClock())
    for _ in range(n_stored):
        bandit.update(bandit.select_variant(), 1.0)
    bandit.flush()
    for _ in range(10):  # not stored yet
        bandit.update(bandit.select_variant(), 1.0)
    bandit.add_variant("c")
    waiting = bandit.select_variant()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        if is_parent_first:
            os.read(reading, 1)
        bandit.update(bandit.select_variant(), 1.0)
        bandit.flush()
        if not is_parent_first:
            os._exit(0)
        bandit.update(bandit.select_variant(), 1.0)
        bandit.flush()  # with the state, as it now holds what its parent has stored
        os._exit(int(bandit.get_statistics()["total"]))
    n_of_child = 2 if is_parent_first else 1
    if not is_parent_first:
        assert os.waitpid(child, 0)[1] == 0
    bandit.update(waiting, 1.0)
    bandit.flush()
    n = n_stored + 11
    if is_parent_first:
        os.write(writing, b"x")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == n + n_of_child
    bandit.flush()
    fresh = MultiArmedBandit(["a", "b"], store=store, name="n", clock=ManualClock())
    for one in (bandit, fresh):
        found = one.get_statistics()
        assert (found["total"], sum(found["counts"].values())) == (n + n_of_child, n + n_of_child)
        assert sum(found["pending"].values()) == 0
        assert one.names == ("a", "b", "c")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_stores_what_a_parent_that_is_gone_has_not(store):
    clock = ManualClock()
    bandit = MultiArmedBandit(["a", "b"], store=store, name="n", clock=clock)
    bandit.update("a", 1.0)
    child = os.fork()
    if child == 0:
        for _ in range(3):
            bandit.update("a", 1.0)
            clock.advance(3000.0)
            bandit.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    fresh = MultiArmedBandit(["a", "b"], store=store, name="n", clock=ManualClock())
    assert fresh.get_statistics()["total"] == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_counts_what_its_parent_had_stored_once(store):
    _, bandit = recorded(store)
    bandit.flush()
    child = os.fork()
    if child == 0:
        bandit.update("a", 1.0)
        bandit.flush()
        os._exit(bandit.get_statistics()["total"])
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 11
    bandit.flush()
    assert bandit.get_statistics()["total"] == 11
    assert stored(store)[1] == 11


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("is_child_first", [True, False])
def test_a_child_counts_what_its_parent_had_not_stored_once(store, is_child_first):
    bandit = MultiArmedBandit(["a", "b"], store=store, name="n")
    for _ in range(10):
        bandit.update(bandit.select_variant(), 1.0)
    waited_for = bandit.select_variant()
    to_child, to_parent = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        bandit.update(bandit.select_variant(), 1.0)
        if is_child_first:
            bandit.flush()
            os.write(to_parent[1], b"x")
        os.read(to_child[0], 1)
        bandit.flush()
        os._exit(bandit.get_statistics()["total"])
    if is_child_first:
        os.read(to_parent[0], 1)
    bandit.flush()
    os.write(to_child[1], b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 11
    bandit.flush()
    again = MultiArmedBandit(["a", "b"], store=store, name="n")
    for one in (bandit, again):
        assert one.get_statistics()["total"] == 11
        assert sum(one.get_statistics()["pending"].values()) == 1
        assert one.get_statistics()["pending"][waited_for] == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_waits_for_no_lock_that_a_thread_of_its_parent_held(store):
    test, bandit = recorded(store)
    may_go, is_held = threading.Event(), threading.Event()

    def hold():  # as the worker does while it stores
        with test._ledger.lock:
            is_held.set()
            may_go.wait(20)

    holding = threading.Thread(target=hold)
    holding.start()
    with bandit._lock:
        assert is_held.wait(10)
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            bandit.select_variant()
            bandit.flush()
            test.record_result("a", {"other": 1.0})
            test.get_variant_stats()
            test.compare_all()
            os._exit(0)
    may_go.set()
    holding.join()
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_waits_for_no_request_that_a_thread_of_its_parent_was_answering():
    test = ABTest("t", VARIANTS, "r")
    with test._requests._renewed.lock, test._chooser._renewed.lock, test._warns._renewed.lock:
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            test.predict(1.0, "somebody", request_id="one")
            test.record_outcome("one", {"other": 1.0})
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_what_a_store_has_refused_is_asked_for_again(store, monkeypatch):
    _, bandit = recorded(store)
    shared = bandit._shared

    def refuse(*_):
        raise StorageError("gone")

    asked = []
    monkeypatch.setattr(shared, "_store", refuse)
    monkeypatch.setattr(shared, "_flushed_at_s", -math.inf)
    monkeypatch.setattr(shared, "_ask_for_flush", lambda: asked.append("again"))
    shared.work()
    assert asked == ["again"]


def test_a_store_that_refuses_for_long_is_asked_ever_more_seldom(store, monkeypatch):
    test, bandit = recorded(store)
    ledger, shared = test._ledger, bandit._shared
    pauses = []

    class Asked:
        def ask(self, _, *, after_s):
            pauses.append(after_s)

    def refuse(*_, **__):
        raise StorageError("gone")

    for owner, name in ((ledger, "ledger.worker"), (shared, "bandits.shared.worker")):
        pauses.clear()
        monkeypatch.setattr(f"modelyard.ab_testing.{name}", lambda _: Asked())
        with monkeypatch.context() as context:
            context.setattr(owner._rows, "exchange", refuse)
            for _ in range(8):
                owner._flushed_at_s = -math.inf
                owner.work()
        assert pauses == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
        owner.flush()
        test.record_result("a", {"r": 1.0})
        bandit.update("a", 1.0)
        owner._is_flush_asked = False
        owner._ask_for_flush()
        assert pauses[-1] == 1.0


def test_whoever_records_does_not_wait_for_a_store_that_others_hold(store, monkeypatch):
    test, bandit = recorded(store)
    writers, writing = [], store.database.writing

    def noted(**options):
        writers.append(threading.current_thread())
        return writing(**options)

    monkeypatch.setattr(store.database, "writing", noted)
    monkeypatch.setattr(test._ledger, "_flushed_at_s", -math.inf)
    monkeypatch.setattr(bandit._shared, "_flushed_at_s", -math.inf)
    name = test.select_variant("u").name
    test.record_result(name, {"r": 1.0}, user_id="u")
    bandit.update(bandit.select_variant(), 1.0)
    assert threading.current_thread() not in writers
    ending._flush_all()
    assert stored(store) == (11, 11)


def test_while_the_worker_stores_others_record_and_nothing_is_stored_twice(store, monkeypatch):
    test, _ = recorded(store)
    rows = test._ledger._rows
    exchange = rows.exchange
    recording = threading.Thread(target=test.record_result, args=("a", {"r": 1.0}))
    flushing = threading.Thread(target=test.flush)

    def slow(*args, **options):
        monkeypatch.undo()
        recording.start()
        recording.join(10)
        assert not recording.is_alive()
        flushing.start()
        return exchange(*args, **options)

    monkeypatch.setattr(rows, "exchange", slow)
    test._ledger.work()
    flushing.join(10)
    assert stored(store)[0] == 11
    assert sum(item["sample_count"] for item in test.get_variant_stats().values()) == 11
