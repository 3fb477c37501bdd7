"""The engine on an event loop, with batches run there or on the worker."""

import asyncio
import threading
from concurrent.futures import CancelledError

import pytest

from modelyard import ManualClock
from modelyard._core.errors import (
    ConflictError,
    DeadlineExceededError,
    InputError,
    NotReadyError,
    QueueFullError,
)
from modelyard.inference_optimizer.engine import Engine

IN_BOTH_PLACES = pytest.mark.parametrize("is_inline", [True, False], ids=["inline", "worker"])


class Recorder:
    """A model that remembers its batches and its threads, and refuses the bad."""

    def __init__(self):
        self.batches = []
        self.threads = set()

    def __call__(self, batch):
        self.batches.append(list(batch))
        self.threads.add(threading.get_ident())
        if "bad" in batch:
            raise ValueError("bad input")
        return [f"answer to {x}" for x in batch]


class Gate(Recorder):
    """One that waits until it is let through; for the worker only."""

    def __init__(self):
        super().__init__()
        self.open = threading.Event()
        self.entered = threading.Event()

    def __call__(self, batch):
        self.entered.set()
        assert self.open.wait(10)
        return super().__call__(batch)


async def blocked(engine, gate):
    first = asyncio.ensure_future(engine.apredict("first"))
    await asyncio.to_thread(gate.entered.wait, 10)
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


@IN_BOTH_PLACES
def test_callers_share_batches_and_get_their_own_answers(is_inline):
    model = Recorder()

    async def main():
        async with Engine(model, max_batch=4, is_inline=is_inline) as engine:
            answers = await asyncio.gather(*(engine.apredict(i) for i in range(10)))
            return answers, engine.stats()

    answers, stats = asyncio.run(main())
    assert answers == [f"answer to {i}" for i in range(10)]
    assert model.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert (model.threads == {threading.get_ident()}) is is_inline
    assert stats["n_batches_inline"] == (3 if is_inline else 0)
    assert adds_up(stats)


@IN_BOTH_PLACES
def test_bad_and_malformed_and_cancelled_requests_harm_no_neighbour(is_inline):
    def prepare(x):
        if x == "malformed":
            raise InputError("malformed")
        return x

    async def main():
        async with Engine(Recorder(), prepare=prepare, max_batch=8, is_inline=is_inline) as engine:
            tasks = [
                asyncio.ensure_future(engine.apredict(x)) for x in (1, "bad", 2, "cancelled", 3)
            ]
            with pytest.raises(InputError):
                await engine.apredict("malformed")
            tasks[3].cancel()
            return await asyncio.gather(*tasks, return_exceptions=True), engine.stats()

    (one, bad, two, cancelled, three), stats = asyncio.run(main())
    assert (one, two, three) == ("answer to 1", "answer to 2", "answer to 3")
    assert isinstance(bad, ValueError)
    assert isinstance(cancelled, asyncio.CancelledError)
    assert (stats["n_answered"], stats["n_failed"], stats["n_cancelled"]) == (3, 1, 1)
    assert stats["n_rejected"]["malformed"] == 1
    assert adds_up(stats)


def test_caller_who_gives_up_while_the_batch_runs_harms_no_neighbour():
    gate = Gate()

    async def main():
        async with Engine(gate, max_batch=8, is_inline=False) as engine:
            first = await blocked(engine, gate)
            second = asyncio.ensure_future(engine.apredict("second"))
            await asyncio.sleep(0)
            first.cancel()
            gate.open.set()
            assert await second == "answer to second"
            return engine.stats()

    stats = asyncio.run(main())
    assert (stats["n_answered"], stats["n_cancelled"]) == (1, 1)
    assert adds_up(stats)


def test_loop_lives_on_while_the_worker_computes():
    gate = Gate()

    async def main():
        async with Engine(gate, max_batch=8, is_inline=False) as engine:
            first = await blocked(engine, gate)
            waiting = asyncio.gather(*(engine.apredict(i) for i in range(3)))
            assert engine.stats()["n_running"] == 1
            assert engine.stats()["n_queued"] == 3
            gate.open.set()
            await waiting
            await first

    asyncio.run(main())
    assert gate.batches == [["first"], [0, 1, 2]]


def test_engine_moves_to_the_loop_when_calls_are_short_and_back_when_they_are_long():
    clock = ManualClock()
    takes_s = [1e-4]

    def run(batch):
        clock.advance(takes_s[0])
        return batch

    async def main():
        async with Engine(run, max_batch=8, clock=clock) as engine:
            places = []
            for duration_s in (1e-4, 5e-3, 1e-4):
                takes_s[0] = duration_s
                before = engine.stats()["n_batches_inline"]
                for _ in range(20):
                    await engine.apredict("x")
                places.append(engine.stats()["n_batches_inline"] - before)
            return places

    assert asyncio.run(main()) == [19, 5, 15]


@IN_BOTH_PLACES
def test_threads_may_ask_an_engine_that_lives_on_a_loop(is_inline):
    async def main():
        async with Engine(Recorder(), max_batch=4, is_inline=is_inline) as engine:

            def from_thread():
                return [f.result(10) for f in [engine.submit(i) for i in range(10)]]

            async def from_another_loop():
                return await asyncio.gather(*(engine.apredict(i) for i in range(10)))

            theirs = await asyncio.gather(
                asyncio.to_thread(from_thread),
                asyncio.to_thread(asyncio.run, from_another_loop()),
            )
            return theirs, engine.stats()

    theirs, stats = asyncio.run(main())
    assert theirs == [[f"answer to {i}" for i in range(10)]] * 2
    assert stats["n_answered"] == 20
    assert adds_up(stats)


def test_refusal_of_a_thread_comes_through_its_future():
    gate = Gate()

    async def main():
        async with Engine(gate, max_batch=1, max_queue=1, is_inline=False) as engine:
            await blocked(engine, gate)

            def from_thread():
                return [engine.submit(i) for i in range(2)]

            futures = await asyncio.to_thread(from_thread)
            await asyncio.sleep(0)
            gate.open.set()
            with pytest.raises(QueueFullError):
                await asyncio.wrap_future(futures[1])
            assert await asyncio.wrap_future(futures[0]) == "answer to 0"
            assert adds_up(engine.stats())

    asyncio.run(main())


def test_full_queue_and_missed_deadlines_are_refused():
    clock = ManualClock()

    def run(batch):
        clock.advance(1.0)
        return batch

    async def main():
        engine = Engine(
            run, max_batch=1, max_queue=2, clock=clock, is_inline=True, service_s={1: 1.0}
        )
        async with engine:
            kept = engine.apredict("a")
            with pytest.raises(DeadlineExceededError, match=r"come 400\.000 ms after"):
                engine.apredict("b", deadline_ms=800 * 2.5)
            kept_too = engine.apredict("c")
            with pytest.raises(QueueFullError) as caught:
                engine.apredict("d")
            assert caught.value.retry_after_s == pytest.approx(2.4)
            assert await kept == "a"
            assert await kept_too == "c"
            stats = engine.stats()
        assert (stats["n_rejected"]["deadline"], stats["n_rejected"]["full"]) == (1, 1)
        assert adds_up(stats)

    asyncio.run(main())


@IN_BOTH_PLACES
def test_closing_answers_what_waits_and_takes_no_more(is_inline):
    async def main():
        engine = Engine(Recorder(), max_batch=2, is_inline=is_inline)
        async with engine:
            waiting = [engine.apredict(i) for i in range(5)]
            closing = asyncio.ensure_future(engine.aclose())
            await asyncio.sleep(0)
            with pytest.raises(NotReadyError, match="not running"):
                engine.apredict("too late")
            await closing
        assert [f.result() for f in waiting] == [f"answer to {i}" for i in range(5)]
        with pytest.raises(NotReadyError):
            engine.apredict("too late")
        assert engine.stats()["n_rejected"]["closed"] == 2
        assert adds_up(engine.stats())

    asyncio.run(main())


@IN_BOTH_PLACES
def test_closing_without_draining_cancels_what_waits(is_inline):
    async def main():
        async with Engine(Recorder(), max_batch=2, is_inline=is_inline) as engine:
            waiting = [engine.apredict(i) for i in range(5)]
            await engine.aclose(drain=False)
        assert all(f.cancelled() for f in waiting)
        assert engine.stats()["n_cancelled"] == 5
        assert adds_up(engine.stats())

    asyncio.run(main())


def test_thread_may_close_the_engine_of_a_loop():
    async def main():
        engine = await Engine(Recorder(), max_batch=2).astart()
        waiting = [engine.apredict(i) for i in range(5)]
        await asyncio.to_thread(engine.close)
        assert [f.result() for f in waiting] == [f"answer to {i}" for i in range(5)]

    asyncio.run(main())


@pytest.mark.parametrize("error", [RuntimeError("elsewhere"), asyncio.CancelledError()])
def test_leaving_because_of_an_error_does_not_hang(error):
    gate = Gate()
    waiting = []
    engines = []

    async def main():
        async with Engine(gate, max_batch=2, is_inline=False) as engine:
            engines.append(engine)
            waiting.append(await blocked(engine, gate))
            waiting.extend(engine.apredict(i) for i in range(3))
            gate.open.set()
            raise error

    with pytest.raises(type(error)):
        asyncio.run(main())
    assert all(future.done() for future in waiting)
    assert adds_up(engines[0].stats())


def test_caller_cancelled_while_the_engine_drains_leaves_nobody_waiting():
    gate = Gate()

    async def main():
        engine = await Engine(gate, max_batch=2, is_inline=False).astart()
        waiting = [await blocked(engine, gate), *(engine.apredict(i) for i in range(3))]
        closing = asyncio.ensure_future(engine.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await asyncio.sleep(0)
        assert all(future.cancelled() for future in waiting)
        stats = engine.stats()
        assert (stats["n_cancelled"], stats["n_running"]) == (4, 0)
        gate.open.set()
        async with engine:
            assert await engine.apredict("again") == "answer to again"

    asyncio.run(main())


def test_loop_that_ends_without_closing_the_engine_leaves_no_thread_waiting():
    gate = Gate()
    engine = Engine(gate, max_batch=2, is_inline=False)

    async def main():
        await engine.astart()
        return await asyncio.to_thread(lambda: [engine.submit(i) for i in range(4)])

    futures = asyncio.run(main())
    with pytest.raises(NotReadyError):
        engine.submit("too late")
    gate.open.set()
    engine.close()
    for future in futures:
        with pytest.raises((CancelledError, NotReadyError)):
            future.result(10)
    assert adds_up(engine.stats())


def test_engine_serves_one_loop_after_the_other_but_not_two_at_once():
    engine = Engine(Recorder(), max_batch=2)

    async def main():
        async with engine:
            with pytest.raises(ConflictError, match="runs already"):
                await engine.astart()
            with pytest.raises(ConflictError, match="runs already"):
                await asyncio.to_thread(engine.start)
            return await engine.apredict(1)

    assert [asyncio.run(main()) for _ in range(2)] == ["answer to 1"] * 2


def test_engine_of_a_loop_that_stands_still_says_so():
    engine = Engine(Recorder(), max_batch=2)
    first = asyncio.new_event_loop()
    first.run_until_complete(engine.astart())

    async def elsewhere():
        with pytest.raises(NotReadyError, match="not running any more"):
            await engine.apredict(1)

    asyncio.run(elsewhere())
    first.run_until_complete(engine.aclose())
    first.close()


def test_waiting_where_the_work_has_to_be_done_is_an_error():
    async def main():
        async with Engine(Recorder(), max_batch=2) as engine:
            with pytest.raises(ConflictError, match=r"await engine\.apredict"):
                engine.submit(1)
            with pytest.raises(ConflictError, match=r"await engine\.aclose"):
                engine.close()

    asyncio.run(main())


@IN_BOTH_PLACES
def test_model_that_asks_its_own_engine_is_told_so_and_does_not_hang(is_inline):
    async def main():
        async with Engine(
            lambda xs: [engine.submit(x).result() for x in xs], max_batch=2, is_inline=is_inline
        ) as engine:
            with pytest.raises(ConflictError, match="its own engine"):
                await engine.apredict(1)

    asyncio.run(main())


@IN_BOTH_PLACES
@pytest.mark.parametrize("error", [SystemExit(1), StopIteration(), GeneratorExit()])
def test_model_that_raises_what_would_end_the_loop_fails_its_own_request(is_inline, error):
    def run(batch):
        if "bad" in batch:
            raise error
        return batch

    async def main():
        async with Engine(run, max_batch=2, is_inline=is_inline) as engine:
            bad, good = engine.apredict("bad"), engine.apredict("good")
            assert await good == "good"
            with pytest.raises(InputError, match=type(error).__name__):
                await bad

    asyncio.run(main())


def test_interrupt_during_a_batch_on_the_loop_ends_the_loop():
    def run(_):
        raise KeyboardInterrupt

    async def main():
        async with Engine(run, max_batch=2, is_inline=True) as engine:
            await engine.apredict(1)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())


def test_answer_that_is_there_does_not_queue():
    async def main():
        async with Engine(Recorder(), cached={"known": 42}.get, max_batch=2) as engine:
            assert await engine.apredict("known") == 42
            assert await engine.apredict("new") == "answer to new"
            return engine.stats()

    stats = asyncio.run(main())
    assert (stats["n_answered"], stats["n_cached"], stats["n_batches"]) == (2, 1, 1)
