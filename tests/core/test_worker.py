"""The thread that works for every monitor."""

import gc
import threading
import time
import weakref

from modelyard._core import worker as worker_module
from modelyard._core.worker import Worker, worker


class Counter:
    """Counts its calls; each may wait, take time, or fail."""

    def __init__(self, *, error=None):
        self.n = 0
        self.called = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self._error = error

    def work(self):
        self.n += 1
        self.called.set()
        assert self.go_on.wait(10)
        if self._error:
            raise self._error


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_whoever_asks_often_is_called_once_for_all():
    worker, busy, asking = Worker(), Counter(), Counter()
    busy.go_on.clear()
    worker.ask(busy)
    assert busy.called.wait(10)
    for _ in range(100):
        worker.ask(asking)
    busy.go_on.set()
    assert asking.called.wait(10)
    worker.ask(last := Counter())
    assert last.called.wait(10)
    assert (busy.n, asking.n) == (1, 1)


def test_work_for_later_is_done_later_and_sooner_if_asked_again():
    worker, late, soon = Worker(), Counter(), Counter()
    worker.ask(late, after_s=3600.0)
    worker.ask(soon)
    assert soon.called.wait(10)
    assert late.n == 0
    worker.ask(late, after_s=3600.0)
    assert late.n == 0
    worker.ask(late)
    assert late.called.wait(10)


def test_each_takes_a_quarter_of_a_core_and_others_do_not_wait_for_that():
    worker, other = Worker(), Counter()
    times = []

    class Slow:
        def work(self):
            started = time.thread_time()
            while time.thread_time() < started + 0.1:
                pass
            times.append(time.monotonic())

    slow = Slow()
    worker.ask(slow)
    until(lambda: len(times) == 1)
    worker.ask(slow)
    asked_at = time.monotonic()
    worker.ask(other)
    assert other.called.wait(10)
    assert time.monotonic() < asked_at + 0.25
    until(lambda: len(times) == 2)
    assert times[1] - times[0] >= 0.3 + 0.1


def test_waiting_for_a_store_is_no_computing():
    worker = Worker()
    times = []

    class Waiting:
        def work(self):
            time.sleep(0.2)
            times.append(time.monotonic())

    waiting = Waiting()
    worker.ask(waiting)
    until(lambda: len(times) == 1)
    worker.ask(waiting)
    until(lambda: len(times) == 2)
    assert times[1] - times[0] < 0.2 + 0.3


def test_a_failure_is_logged_and_harms_no_other(caplog):
    worker, failing, fine = Worker(), Counter(error=ValueError("no")), Counter()
    worker.ask(failing)
    worker.ask(fine)
    assert fine.called.wait(10)
    until(lambda: " failed." in caplog.text)


def test_a_thread_without_work_ends_and_another_one_begins(monkeypatch):
    monkeypatch.setattr(worker_module, "_IDLE_S", 0.05)
    worker, first, second = Worker(), Counter(), Counter()
    worker.ask(first)
    until(lambda: first.n == 1 and worker._thread is None)
    worker.ask(second)
    until(lambda: second.n == 1)


def test_whoever_nobody_holds_is_called_and_may_go_then():
    worker, one = Worker(), Counter()
    reference = weakref.ref(one)
    worker.ask(one)
    del one

    def is_gone():
        gc.collect()
        return reference() is None

    until(is_gone)


def test_where_no_thread_can_be_had_nobody_fails_and_a_later_one_works_for_all(
    monkeypatch, caplog
):
    worker, first, second = Worker(), Counter(), Counter()

    def refuse(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", refuse)
        worker.ask(first)
        worker.ask(first)
    assert "can't start new thread" in caplog.text
    worker.ask(second)
    assert first.called.wait(10)
    assert second.called.wait(10)


def test_work_for_one_purpose_does_not_wait_for_that_of_another():
    held_up, other = Counter(), Counter()
    held_up.go_on.clear()
    worker("experiments").ask(held_up)
    assert held_up.called.wait(10)
    worker("monitors").ask(other)
    assert other.called.wait(10)
    held_up.go_on.set()
    assert worker("monitors") is worker("monitors")
