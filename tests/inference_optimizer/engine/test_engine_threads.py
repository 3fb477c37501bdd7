"""The engine on a worker thread: every request ends once, with its own answer or error."""

import asyncio
import os
import threading

import pytest

from modelyard import ManualClock
from modelyard._core.errors import (
    ConfigError,
    ConflictError,
    DeadlineExceededError,
    InputError,
    NotReadyError,
    QueueFullError,
)
from modelyard.inference_optimizer.engine import Engine


class Gate:
    """A model that waits until it is let through, and remembers its batches."""

    def __init__(self, *, clock=None, takes_s=0.0):
        self.open = threading.Event()
        self.entered = threading.Event()
        self.batches = []
        self._clock, self._takes_s = clock, takes_s

    def __call__(self, batch):
        self.entered.set()
        assert self.open.wait(10)
        self.batches.append(list(batch))
        if self._clock is not None:
            self._clock.advance(self._takes_s)
        if "bad" in batch:
            raise ValueError("bad input")
        return [f"answer to {x}" for x in batch]


@pytest.fixture
def gate():
    gate = Gate()
    yield gate
    gate.open.set()


def blocked(engine, gate):
    """A first request that keeps the worker busy while others queue up."""
    first = engine.submit("first")
    assert gate.entered.wait(10)
    return first


def adds_up(stats):
    return stats["n_submitted"] == (
        stats["n_answered"]
        + stats["n_failed"]
        + stats["n_cancelled"]
        + sum(stats["n_rejected"].values())
        + stats["n_queued"]
        + stats["n_running"]
    )


def test_all_that_waits_is_taken_as_one_batch_in_order(gate):
    with Engine(gate, max_batch=4) as engine:
        blocked(engine, gate)
        futures = [engine.submit(i) for i in range(5)]
        stats = engine.stats()
        assert (stats["n_queued"], stats["n_running"]) == (5, 1)
        gate.open.set()
        assert [f.result(10) for f in futures] == [f"answer to {i}" for i in range(5)]
    assert gate.batches == [["first"], [0, 1, 2, 3], [4]]
    stats = engine.stats()
    assert stats["batch_sizes"] == {1: 2, 4: 1}
    assert stats["mean_batch_size"] == 2.0
    assert stats["dispatch_reasons"] == {
        "queue_emptied": 2,
        "full_batch": 1,
        "deadline": 0,
        "probe": 0,
    }
    assert (stats["n_batches_inline"], stats["n_batches_worker"]) == (0, 3)


def test_higher_priority_goes_first(gate):
    with Engine(gate, max_batch=2) as engine:
        blocked(engine, gate)
        for name, priority in (("low", -1), ("usual", 0), ("high", 5), ("usual too", 0)):
            engine.submit(name, priority=priority)
        gate.open.set()
    assert gate.batches[1:] == [["high", "usual"], ["usual too", "low"]]


def test_error_of_one_request_is_its_own(gate):
    with Engine(gate, max_batch=4) as engine:
        blocked(engine, gate)
        futures = [engine.submit(x) for x in (1, "bad", 2)]
        gate.open.set()
        assert [futures[i].result(10) for i in (0, 2)] == ["answer to 1", "answer to 2"]
        with pytest.raises(ValueError, match="bad input"):
            futures[1].result(10)
        stats = engine.stats()
    assert (stats["n_answered"], stats["n_failed"]) == (3, 1)


def test_malformed_request_fails_alone_and_at_once():
    def prepare(x):
        if x < 0:
            raise InputError("below 0")
        return x + 0.5

    with Engine(lambda xs: xs, prepare=prepare, max_batch=4) as engine:
        with pytest.raises(InputError, match="below 0"):
            engine.submit(-1)
        assert engine.submit(1).result(10) == 1.5
        assert engine.stats()["n_rejected"]["malformed"] == 1
        assert adds_up(engine.stats())


def test_answer_that_is_there_does_not_queue(gate):
    with Engine(gate, cached={"known": 42}.get, max_batch=4) as engine:
        blocked(engine, gate)
        assert engine.submit("known").result(0) == 42
        stats = engine.stats()
        assert (stats["n_answered"], stats["n_cached"], stats["n_queued"]) == (1, 1, 0)
        assert adds_up(stats)
        gate.open.set()


def test_cancelled_request_is_not_computed_and_its_neighbours_are(gate):
    with Engine(gate, max_batch=4) as engine:
        blocked(engine, gate)
        futures = [engine.submit(i) for i in range(3)]
        assert futures[1].cancel()
        gate.open.set()
        assert [futures[i].result(10) for i in (0, 2)] == ["answer to 0", "answer to 2"]
    assert gate.batches[1] == [0, 2]
    assert engine.stats()["n_cancelled"] == 1


def test_full_queue_says_when_to_try_again(gate):
    with Engine(gate, max_batch=4, max_queue=5) as engine:
        blocked(engine, gate)
        for i in range(5):
            engine.submit(i)
        with pytest.raises(QueueFullError, match="5 requests wait") as caught:
            engine.submit(6)
        assert caught.value.retry_after_s >= 0
        assert engine.stats()["n_rejected"]["full"] == 1
        gate.open.set()


def test_request_that_would_be_late_is_rejected_and_not_computed():
    clock = ManualClock()
    gate = Gate(clock=clock, takes_s=1.0)
    with Engine(gate, max_batch=4, clock=clock) as engine:
        first = blocked(engine, gate)
        late = engine.submit("late", deadline_ms=1500)  # free at 1.0 s, done at 2.0 s
        soon = engine.submit("soon", deadline_ms=2500)
        gate.open.set()
        assert first.result(10)
        assert soon.result(10) == "answer to soon"
        with pytest.raises(DeadlineExceededError, match=r"after the deadline; it was not"):
            late.result(10)
    assert gate.batches[1] == ["soon"]
    assert engine.stats()["n_rejected"]["deadline"] == 1


def test_latency_limit_is_the_deadline_of_those_that_name_none():
    clock = ManualClock()
    gate = Gate(clock=clock)
    with Engine(gate, max_batch=1, max_latency_ms=10, clock=clock) as engine:
        blocked(engine, gate)
        late, patient = engine.submit("late"), engine.submit("patient", deadline_ms=1e6)
        clock.advance(1.0)
        gate.open.set()
        assert patient.result(10) == "answer to patient"
        with pytest.raises(DeadlineExceededError):
            late.result(10)


@pytest.mark.parametrize("drain", [True, False])
def test_closing_answers_or_cancels_what_waits(gate, drain):
    engine = Engine(gate, max_batch=4).start()
    first = blocked(engine, gate)
    futures = [engine.submit(i) for i in range(3)]
    closing = threading.Thread(target=engine.close, kwargs={"drain": drain})
    closing.start()
    while not engine._host._is_closing:
        pass
    with pytest.raises(NotReadyError, match="not running"):
        engine.submit("too late")
    gate.open.set()
    closing.join(10)
    assert first.result(10) == "answer to first"
    if drain:
        assert [f.result(10) for f in futures] == [f"answer to {i}" for i in range(3)]
    else:
        assert all(f.cancelled() for f in futures)
    assert adds_up(engine.stats())
    assert engine.stats()["n_rejected"]["closed"] == 1


def test_leaving_because_of_an_error_cancels_what_waits(gate):
    engine = Engine(gate, max_batch=4)

    def leave():
        with engine:
            first = blocked(engine, gate)
            waiting = [engine.submit(i) for i in range(3)]
            gate.open.set()
            futures.extend([first, *waiting])
            raise RuntimeError("elsewhere")

    futures = []
    with pytest.raises(RuntimeError, match="elsewhere"):
        leave()
    assert all(future.done() for future in futures)
    assert adds_up(engine.stats())


def test_batch_that_hangs_is_left_to_itself_after_the_timeout(gate):
    engine = Engine(gate, max_batch=4).start()
    first = blocked(engine, gate)
    second = engine.submit("second")
    engine.close(drain=False, timeout_s=0.01)
    with pytest.raises(NotReadyError):
        first.result(0)
    assert second.cancelled()
    stats = engine.stats()
    assert (stats["n_cancelled"], stats["n_running"]) == (2, 0)
    gate.open.set()
    with engine:
        assert engine.submit("again").result(10) == "answer to again"
    assert engine.stats()["n_answered"] == 1


def test_closed_engine_can_be_entered_again_and_its_figures_go_on():
    engine = Engine(list, max_batch=4)
    for _ in range(2):
        with engine:
            engine.submit("x").result(10)
        engine.close()
    with pytest.raises(NotReadyError):
        engine.submit("x")
    assert engine.stats()["n_answered"] == 2


def test_running_engine_cannot_be_started_again():
    with Engine(list, max_batch=4) as engine, pytest.raises(ConflictError, match="runs already"):
        engine.start()


def test_model_that_tries_to_end_the_process_ends_its_own_request_alone():
    def run(batch):
        if "exit" in batch:
            raise SystemExit(1)
        return batch

    with Engine(run, max_batch=4) as engine:
        with pytest.raises(SystemExit):
            engine.submit("exit").result(10)
        assert engine.submit("fine").result(10) == "fine"


def test_model_that_asks_its_own_engine_is_told_so_and_does_not_hang():
    def run(batch):
        return [engine.submit(x).result() for x in batch]

    def end(batch):
        engine.close()
        return batch

    for model in (run, end):
        with Engine(model, max_batch=4) as engine, pytest.raises(ConflictError):
            engine.submit("x").result(10)


def test_callback_of_an_answer_may_ask_for_the_next():
    chained = []
    done = threading.Event()

    def ask_again(future):
        chained.append(engine.submit(future.result() + 1))
        chained[-1].add_done_callback(lambda _: done.set())

    with Engine(list, max_batch=4) as engine:
        engine.submit(1).add_done_callback(ask_again)
        assert done.wait(10)
        assert chained[0].result(10) == 2


def test_coroutines_of_any_loop_may_ask():
    async def many(engine):
        return await asyncio.gather(*(engine.apredict(i) for i in range(50)))

    with Engine(list, max_batch=8) as engine:
        assert asyncio.run(many(engine)) == [*range(50)]
        assert asyncio.run(many(engine)) == [*range(50)]


def test_coroutine_that_gives_up_cancels_its_request(gate):
    async def give_up(engine):
        waiting = engine.apredict("second")
        waiting.cancel()
        await asyncio.sleep(0)

    with Engine(gate, max_batch=4) as engine:
        blocked(engine, gate)
        asyncio.run(give_up(engine))
        gate.open.set()
    assert gate.batches == [["first"]]


def test_child_of_a_fork_is_told_that_the_worker_is_not_there(monkeypatch):
    with Engine(list, max_batch=4) as engine:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(NotReadyError, match="forked"):
            engine.submit("x")
        monkeypatch.undo()


def test_percentiles_are_those_of_the_clock():
    clock = ManualClock()

    def run(batch):
        clock.advance(0.02)
        return batch

    with Engine(run, max_batch=4, clock=clock) as engine:
        for _ in range(10):
            engine.submit("x").result(10)
        stats = engine.stats()
    assert stats["compute_ms"]["p50"] == pytest.approx(20, rel=0.02)
    assert stats["total_ms"]["p99"] == pytest.approx(20, rel=0.02)
    assert stats["queue_ms"]["mean"] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("settings", [{"max_batch": 0}, {"max_queue": 0}, {"max_latency_ms": 0}])
def test_values_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match="got"):
        Engine(list, **{"max_batch": 4, **settings})
