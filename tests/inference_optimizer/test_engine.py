"""The engine: every request is answered once, with its own answer or its own error."""

import asyncio
import random
import threading
from concurrent.futures import CancelledError

import pytest
import torch

from modelyard import ManualClock, SystemClock
from modelyard._core.errors import (
    DeadlineExceededError,
    InputError,
    NotReadyError,
    QueueFullError,
)
from modelyard.inference_optimizer import InferenceOptimizer
from modelyard.inference_optimizer.engine import BatchingEngine


class Gate:
    """A model that waits until it is let through, and remembers its batches."""

    def __init__(self, *, clock=None, takes_s=0.0):
        self.open = threading.Event()
        self.entered = threading.Event()
        self.batches = []
        self._clock, self._takes_s = clock, takes_s

    def __call__(self, batch):
        self.entered.set()
        self.open.wait(10)
        self.batches.append(list(batch))
        if self._clock is not None:
            self._clock.advance(self._takes_s)
        if any(x == "bad" for x in batch):
            raise ValueError("bad input")
        return [f"answer to {x}" for x in batch]


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def engine(gate):
    engine = BatchingEngine(gate, max_batch=4, max_queue=5, clock=SystemClock())
    yield engine
    gate.open.set()
    engine.close()


def blocked(engine, gate):
    """A first request that keeps the worker busy while others queue up."""
    first = engine.submit("first")
    assert gate.entered.wait(10)
    return first


def test_all_that_waits_is_taken_as_one_batch_in_order(engine, gate):
    blocked(engine, gate)
    futures = [engine.submit(i) for i in range(5)]
    gate.open.set()
    assert [f.result(10) for f in futures] == [f"answer to {i}" for i in range(5)]
    assert gate.batches == [["first"], [0, 1, 2, 3], [4]]


def test_error_of_one_request_is_its_own(engine, gate):
    blocked(engine, gate)
    futures = [engine.submit(x) for x in (1, "bad", 2)]
    gate.open.set()
    assert futures[0].result(10) == "answer to 1"
    assert futures[2].result(10) == "answer to 2"
    with pytest.raises(ValueError, match="bad input"):
        futures[1].result(10)


def test_cancelled_request_is_not_computed_and_its_neighbours_are(engine, gate):
    blocked(engine, gate)
    futures = [engine.submit(i) for i in range(3)]
    assert futures[1].cancel()
    gate.open.set()
    assert [futures[i].result(10) for i in (0, 2)] == ["answer to 0", "answer to 2"]
    assert gate.batches[1] == [0, 2]


def test_full_queue_says_when_to_try_again(engine, gate):
    blocked(engine, gate)
    for i in range(5):
        engine.submit(i)
    with pytest.raises(QueueFullError, match="5 requests wait") as caught:
        engine.submit(6)
    assert caught.value.retry_after_s >= 0


def test_request_that_would_be_late_is_rejected_and_not_computed():
    clock = ManualClock()
    gate = Gate(clock=clock, takes_s=1.0)
    engine = BatchingEngine(gate, max_batch=4, max_queue=10, clock=clock)
    first = blocked(engine, gate)
    late = engine.submit("late", deadline_ms=1500)  # free at 1.0 s, done at 2.0 s
    soon = engine.submit("soon", deadline_ms=2500)
    gate.open.set()
    assert first.result(10)
    assert soon.result(10) == "answer to soon"
    with pytest.raises(DeadlineExceededError, match="not computed"):
        late.result(10)
    assert gate.batches[1] == ["soon"]
    engine.close()


def test_one_slow_batch_does_not_poison_the_estimate():
    clock = ManualClock()
    durations = iter([100.0, 1.0, 1.0, 1.0])
    engine = BatchingEngine(
        lambda batch: [clock.advance(next(durations))] * len(batch),
        max_batch=1,
        max_queue=10,
        clock=clock,
    )
    for _ in range(3):
        engine.submit("x").result(10)
    engine.submit("x", deadline_ms=2000).result(10)
    engine.close()


@pytest.mark.parametrize("drain", [True, False])
def test_closing_answers_or_cancels_what_waits(gate, drain):
    engine = BatchingEngine(gate, max_batch=4, max_queue=10, clock=SystemClock())
    first = blocked(engine, gate)
    futures = [engine.submit(i) for i in range(3)]
    closing = threading.Thread(target=engine.close, kwargs={"drain": drain})
    closing.start()
    while not engine._is_closing:
        pass
    with pytest.raises(NotReadyError, match="closed"):
        engine.submit("too late")
    gate.open.set()
    closing.join(10)
    assert first.result(10) == "answer to first"
    if drain:
        assert [f.result(10) for f in futures] == [f"answer to {i}" for i in range(3)]
    else:
        for future in futures:
            with pytest.raises(CancelledError):
                future.result(10)


def test_model_that_tries_to_end_the_process_ends_its_own_request_alone():
    def run(batch):
        if "exit" in batch:
            raise SystemExit(1)
        return batch

    engine = BatchingEngine(run, max_batch=4, max_queue=10, clock=SystemClock())
    with pytest.raises(SystemExit):
        engine.submit("exit").result(10)
    assert engine.submit("fine").result(10) == "fine"
    engine.close()


class Doubling:
    """A model that fails on multiples of 37 and remembers what it was given."""

    def __init__(self):
        self.seen = []

    def __call__(self, batch):
        self.seen.extend(batch)
        if any(x % 37 == 0 for x in batch):
            raise ValueError("a multiple of 37")
        return [2 * x for x in batch]


def outcome_of(future):
    try:
        return future.result(30)
    except CancelledError:
        return "cancelled"
    except ValueError:
        return "error"


def hammered(n_requests, *, seed, n_threads=4):
    """Many threads submit, some cancel; every request ends exactly once, with its own answer."""
    rng = random.Random(seed)  # noqa: S311 - which to cancel
    model = Doubling()
    engine = BatchingEngine(model, max_batch=8, max_queue=n_requests, clock=SystemClock())
    outcomes = {}

    def client(numbers, cancels):
        futures = {x: engine.submit(x) for x in numbers}
        for x in cancels:
            futures[x].cancel()
        outcomes.update({x: outcome_of(future) for x, future in futures.items()})

    threads = []
    for i in range(n_threads):
        numbers = range(i, n_requests, n_threads)
        cancels = rng.sample(list(numbers), len(numbers) // 5)
        threads.append(threading.Thread(target=client, args=(numbers, cancels)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    engine.close()
    assert outcomes.keys() == set(range(n_requests))
    for x, outcome in outcomes.items():
        assert outcome in {"error" if x % 37 == 0 else 2 * x, "cancelled"}
        # A request that failed with its batch is run once more alone, never a third time.
        assert model.seen.count(x) <= 2


@pytest.mark.parametrize("seed", range(5))
def test_no_request_is_lost_or_answered_for_another(seed):
    hammered(400, seed=seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(20))
def test_no_request_is_lost_under_long_load(seed):
    hammered(5_000, seed=seed)


# ── through the optimizer ───────────────────────────────────────────────────────────────────


def rows(n, width=8):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(n))


def test_futures_give_what_predict_gives_and_bad_neighbours_harm_nobody(mlp):
    with InferenceOptimizer(mlp, device="cpu") as optimizer:
        xs = [rows(1), rows(1).numpy(), rows(2), rows(1, 9), rows(1)[0], rows(1)]
        futures = [optimizer.submit(x) for x in xs]
        for x, future in zip(xs, futures, strict=True):
            if x.shape[-1] == 9:
                with pytest.raises(InputError, match="does not take"):
                    future.result(10)
            else:
                torch.testing.assert_close(
                    torch.as_tensor(future.result(10)), mlp(torch.as_tensor(x)).detach()
                )


def test_coroutines_share_batches(mlp):
    async def many(optimizer):
        return await asyncio.gather(*(optimizer.apredict(rows(1)) for _ in range(50)))

    with InferenceOptimizer(mlp, device="cpu") as optimizer:
        answers = asyncio.run(many(optimizer))
    assert all(torch.equal(answer, answers[0]) for answer in answers)


def test_latency_limit_of_the_optimizer_is_the_deadline(mlp):
    with InferenceOptimizer(mlp, device="cpu", max_latency_ms=1e-9) as optimizer:
        with pytest.raises(DeadlineExceededError):
            optimizer.submit(rows(1)).result(10)
        assert optimizer.submit(rows(1), deadline_ms=60_000).result(10).shape == (1, 4)


def test_closed_optimizer_starts_a_new_engine_when_asked_again(mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu")
    optimizer.submit(rows(1)).result(10)
    optimizer.close()
    optimizer.close()
    assert optimizer.submit(rows(1)).result(10).shape == (1, 4)
    optimizer.close()
