"""Many callers at once, some of whom give up: nothing is lost, nothing is answered twice."""

import asyncio
import random
import threading
import time
from concurrent.futures import CancelledError

import pytest

from modelyard._core.errors import DeadlineExceededError
from modelyard.inference_optimizer.engine import Engine

N_CALLERS = 8


class Doubling:
    """A model that fails on multiples of 37 and counts how often it was given each number."""

    def __init__(self):
        self.seen = {}

    def __call__(self, batch):
        for x in batch:
            self.seen[x] = self.seen.get(x, 0) + 1
        if any(x % 37 == 0 for x in batch):
            raise ValueError("a multiple of 37")
        return [2 * x for x in batch]


def checked(x, outcome):
    """The kind of an outcome, which has to be the request's own."""
    if isinstance(outcome, asyncio.CancelledError | CancelledError):
        return "cancelled"
    if isinstance(outcome, DeadlineExceededError):
        return "late"
    if isinstance(outcome, ValueError):
        assert x % 37 == 0
        return "failed"
    assert outcome == 2 * x
    return "answered"


def deadline_of(rng):
    """None, plenty, or none at all: the last is always late."""
    return rng.choice([None, None, 60_000.0, -1.0])


def conclude(engine, model, kinds):
    stats = engine.stats()
    n = len(kinds)
    assert stats["n_submitted"] == n
    assert stats["n_queued"] == stats["n_running"] == 0
    assert n == (
        stats["n_answered"]
        + stats["n_failed"]
        + stats["n_cancelled"]
        + sum(stats["n_rejected"].values())
    )
    counted = {kind: kinds.count(kind) for kind in ("answered", "failed", "cancelled", "late")}
    assert sum(counted.values()) == n
    # A caller may have given up when the answer was already on its way.
    assert 0 <= stats["n_answered"] - counted["answered"] <= counted["cancelled"]
    assert 0 <= stats["n_failed"] - counted["failed"] <= counted["cancelled"]
    assert 0 <= stats["n_rejected"]["deadline"] - counted["late"] <= counted["cancelled"]
    # Those of a batch that fails run once more for each halving, and the others once.
    assert max(model.seen.values()) <= 6


def hammered_by_threads(n_requests, *, seed):
    model = Doubling()
    engine = Engine(model, max_batch=32, max_queue=n_requests)
    kinds = [None] * n_requests

    def caller(i):
        rng = random.Random(seed * N_CALLERS + i)  # noqa: S311 - who gives up
        numbers = range(i, n_requests, N_CALLERS)
        for start in range(0, len(numbers), 100):
            part = numbers[start : start + 100]
            futures = {}
            for x in part:
                try:
                    futures[x] = engine.submit(
                        x, deadline_ms=deadline_of(rng), priority=rng.randrange(2)
                    )
                except DeadlineExceededError as error:
                    kinds[x] = checked(x, error)
            for x in rng.sample([*futures], len(futures) // 5):
                futures[x].cancel()
            for x, future in futures.items():
                kinds[x] = checked(x, outcome_of(future))

    with engine:
        threads = [threading.Thread(target=caller, args=(i,)) for i in range(N_CALLERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    conclude(engine, model, kinds)


def outcome_of(future):
    try:
        return future.result(60)
    except (CancelledError, ValueError, DeadlineExceededError) as error:
        return error


def hammered_by_coroutines(n_requests, *, seed, is_inline):
    model = Doubling()
    kinds = [None] * n_requests

    async def caller(engine, i):
        rng = random.Random(seed * N_CALLERS + i)  # noqa: S311 - who gives up
        numbers = range(i, n_requests, N_CALLERS)
        for start in range(0, len(numbers), 20):
            part = numbers[start : start + 20]
            tasks = {}
            for x in part:
                try:
                    tasks[x] = engine.apredict(
                        x, deadline_ms=deadline_of(rng), priority=rng.randrange(2)
                    )
                except DeadlineExceededError as error:
                    kinds[x] = checked(x, error)
            for x in rng.sample([*tasks], len(tasks) // 5):
                if rng.random() < 0.5:
                    await asyncio.sleep(0)
                tasks[x].cancel()
            outcomes = await asyncio.gather(*tasks.values(), return_exceptions=True)
            for x, outcome in zip(tasks, outcomes, strict=True):
                kinds[x] = checked(x, outcome)

    async def main():
        async with Engine(
            model, max_batch=32, max_queue=n_requests, is_inline=is_inline
        ) as engine:
            await asyncio.gather(*(caller(engine, i) for i in range(N_CALLERS)))
        return engine

    conclude(asyncio.run(main()), model, kinds)


@pytest.mark.parametrize("seed", range(3))
def test_no_request_of_a_thread_is_lost_or_answered_for_another(seed):
    hammered_by_threads(2_000, seed=seed)


@pytest.mark.parametrize("is_inline", [True, False, None], ids=["inline", "worker", "either"])
def test_no_request_of_a_coroutine_is_lost_or_answered_for_another(is_inline):
    hammered_by_coroutines(2_000, seed=1, is_inline=is_inline)


@pytest.mark.soak
def test_a_million_requests_of_threads_end_once_each():
    for seed in range(4):
        hammered_by_threads(250_000, seed=seed)


@pytest.mark.soak
@pytest.mark.parametrize("is_inline", [True, False], ids=["inline", "worker"])
def test_a_million_requests_of_coroutines_end_once_each(is_inline):
    for seed in range(4):
        hammered_by_coroutines(250_000, seed=seed, is_inline=is_inline)


def test_worker_gives_up_nobody_under_overload():
    """A model slower than its callers: those in time get answers, the rest a refusal, fast."""

    def run(batch):
        time.sleep(0.002)
        return [2 * x for x in batch]

    async def caller(engine, x):
        try:
            return checked(x, await engine.apredict(x))
        except DeadlineExceededError as error:
            return checked(x, error)

    async def main():
        async with Engine(run, max_batch=4, max_latency_ms=20, is_inline=False) as engine:
            kinds = await asyncio.gather(*(caller(engine, x) for x in range(400)))
            return kinds, engine.stats()

    kinds, stats = asyncio.run(main())
    assert kinds.count("answered") == stats["n_answered"] >= 1
    assert kinds.count("late") == stats["n_rejected"]["deadline"] >= 1
    assert len(kinds) == 400
