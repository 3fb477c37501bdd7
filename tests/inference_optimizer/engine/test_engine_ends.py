"""What must not end an engine, and what becomes of its requests when something does."""

import asyncio
import math
import os
import subprocess
import sys
import threading
from concurrent.futures import CancelledError

import pytest

from modelyard import ManualClock
from modelyard._core.errors import ConfigError, ConflictError, NotReadyError
from modelyard.inference_optimizer.engine import Engine

BAD_OPTIONS = pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"priority": None}, "priority must be a whole number, got None"),
        ({"priority": "high"}, "priority must be a whole number, got 'high'"),
        ({"priority": math.nan}, "priority must be a whole number, got nan"),
        ({"priority": 1.5}, r"priority must be a whole number, got 1\.5"),
        ({"deadline_ms": "5"}, "deadline_ms must be a number of milliseconds, got '5'"),
        ({"deadline_ms": math.nan}, "deadline_ms must be a number of milliseconds, got nan"),
        ({"deadline_ms": 10**400}, "deadline_ms must be a number of milliseconds, got 1000"),
    ],
)


def same(batch):
    return batch


class Gate:
    """A model that waits until it is let through."""

    def __init__(self):
        self.open = threading.Event()
        self.entered = threading.Event()

    def __call__(self, batch):
        self.entered.set()
        assert self.open.wait(10)
        return batch


class FailingClock(ManualClock):
    """One that cannot be read any more once it is told so."""

    is_broken = False

    def monotonic_s(self):
        if self.is_broken:
            raise OSError("no clock")
        return super().monotonic_s()


# Options that are none


@BAD_OPTIONS
def test_bad_options_are_refused_and_harm_nobody_on_a_thread(options, told):
    with Engine(same, max_batch=4) as engine:
        for _ in range(2):
            with pytest.raises(ConfigError, match=told):
                engine.submit(1, **options)
        assert engine.submit(2, priority=True).result(10) == 2


@BAD_OPTIONS
def test_bad_options_are_refused_and_harm_nobody_on_a_loop(options, told):
    def from_a_thread(engine):
        before = engine.submit(1)
        with pytest.raises(ConfigError, match=told):
            engine.submit(2, **options)
        return [before, engine.submit(3)]

    async def main():
        async with Engine(same, max_batch=4) as engine:
            with pytest.raises(ConfigError, match=told):
                engine.apredict(0, **options)
            futures = await asyncio.to_thread(from_a_thread, engine)
            return await asyncio.gather(*map(asyncio.wrap_future, futures))

    assert asyncio.run(asyncio.wait_for(main(), 10)) == [1, 3]


def test_what_cannot_be_queued_from_a_thread_loses_no_other(monkeypatch):
    async def main():
        async with Engine(same, max_batch=4) as engine:
            admit = engine._parts.core.admit

            def refusing(request, now_s):
                if request.prepared == "odd":
                    raise TypeError("cannot be ordered")
                admit(request, now_s)

            monkeypatch.setattr(engine._parts.core, "admit", refusing)
            futures = await asyncio.to_thread(lambda: [engine.submit(x) for x in (1, "odd", 2)])
            return await asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)

    first, odd, last = asyncio.run(asyncio.wait_for(main(), 10))
    assert (first, last) == (1, 2)
    assert isinstance(odd, TypeError)


# Callbacks that raise what is no Exception


def leave(_future):
    raise SystemExit(1)


def test_a_callback_that_leaves_takes_no_request_with_it(caplog):
    gate = Gate()
    with Engine(gate, max_batch=4) as engine:
        futures = [engine.submit(i) for i in range(3)]
        for future in futures:
            future.add_done_callback(leave)
        gate.open.set()
        assert [future.result(10) for future in futures] == [0, 1, 2]
        assert engine.submit(3).result(10) == 3
    assert "A done-callback of a request raised" in caplog.text


def test_a_callback_that_leaves_takes_no_refused_or_cancelled_request_with_it():
    clock = ManualClock()
    gate = Gate()
    with Engine(gate, max_batch=1, clock=clock) as engine:
        engine.submit("first")
        assert gate.entered.wait(10)
        late = engine.submit("late", deadline_ms=1)
        late.add_done_callback(leave)
        clock.advance(1.0)
        gate.open.set()
        assert late.exception(10) is not None
        assert engine.submit("next").result(10) == "next"
        gate.open.clear()
        gate.entered.clear()
        engine.submit("running")
        assert gate.entered.wait(10)
        waiting = [engine.submit(i) for i in range(2)]
        for future in waiting:
            future.add_done_callback(leave)
        closing = threading.Thread(target=engine.close, kwargs={"drain": False})
        closing.start()
        with pytest.raises(CancelledError):
            waiting[1].result(10)
        gate.open.set()
        closing.join(10)
        assert all(future.cancelled() for future in waiting)


def test_a_callback_that_leaves_does_not_end_the_loop():
    async def main():
        async with Engine(same, max_batch=4) as engine:

            def two():
                futures = [engine.submit(i) for i in range(2)]
                futures[0].add_done_callback(leave)
                return [future.result(10) for future in futures]

            return await asyncio.to_thread(two), await engine.apredict(2)

    assert asyncio.run(main()) == ([0, 1], 2)


# A worker that dies


def test_a_worker_that_dies_fails_all_its_requests(caplog):
    clock, gate = FailingClock(), Gate()
    engine = Engine(gate, max_batch=1, clock=clock).start()
    futures = [engine.submit(i) for i in range(3)]
    assert gate.entered.wait(10)
    clock.is_broken = True
    gate.open.set()
    for future in futures:
        with pytest.raises(NotReadyError, match=r"The engine ended by OSError\(no clock\)"):
            future.result(10)
    clock.is_broken = False
    assert not engine.is_usable
    with pytest.raises(NotReadyError, match="Close it and start it again"):
        engine.submit(4)
    engine.close()
    with engine:
        assert engine.submit(5).result(10) == 5
    assert "The worker thread of an engine ended" in caplog.text


@pytest.mark.parametrize("is_inline", [True, False])
def test_an_engine_that_dies_on_its_loop_fails_all_its_requests(is_inline):
    clock = FailingClock()

    def breaking(batch):
        clock.is_broken = True
        return batch

    async def main():
        async with Engine(breaking, max_batch=2, clock=clock, is_inline=is_inline) as engine:
            futures = [engine.apredict(i) for i in range(3)]
            errors = await asyncio.gather(*futures, return_exceptions=True)
            return errors, engine.is_usable

    errors, is_usable = asyncio.run(asyncio.wait_for(main(), 10))
    assert [type(error) for error in errors] == [NotReadyError] * 3
    assert not is_usable


# Whether it can be asked


def test_an_engine_is_usable_while_it_runs_in_this_process(monkeypatch):
    engine = Engine(same, max_batch=4)
    assert not engine.is_usable
    with engine:
        assert engine.is_usable
        monkeypatch.setattr(os, "getpid", lambda: -1)
        assert not engine.is_usable
        monkeypatch.undo()
    assert not engine.is_usable

    async def main():
        async with engine:
            assert engine.is_usable
        await engine.astart()

    asyncio.run(main())
    assert not engine.is_usable  # its loop is closed


@pytest.mark.parametrize("is_inline", [True, False])
def test_a_model_that_awaits_its_own_engine_is_told(is_inline):
    async def main():
        def asking(batch):
            engine.apredict(0)
            return batch

        async with Engine(asking, max_batch=4, is_inline=is_inline) as engine:
            await engine.apredict(1)

    with pytest.raises(ConflictError, match="run_batch asked its own engine"):
        asyncio.run(main())


def test_a_model_that_awaits_its_own_engine_from_its_thread_is_told():
    def asking(batch):
        engine.apredict(0)
        return batch

    with (
        Engine(asking, max_batch=4) as engine,
        pytest.raises(ConflictError, match="run_batch asked its own engine"),
    ):
        engine.submit(1).result(10)


# The interpreter's exit

_LEAVING = """
import threading, time
from modelyard.inference_optimizer.engine import Engine
"""


def left(code):
    """The exit code and what was told on the way out."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_leaving_with_a_busy_engine_waits_for_the_batch_and_cancels_the_rest():
    code = _LEAVING + (
        "entered, told = threading.Event(), []\n"
        "def run(batch):\n"
        "    entered.set(); time.sleep(0.2); print('computed', flush=True); return batch\n"
        "engine = Engine(run, max_batch=1).start()\n"
        "for _ in range(50):\n"
        "    engine.submit(1)\n"
        "entered.wait()\n"
    )
    assert left(code) == (0, "computed\n", "")


@pytest.mark.slow
def test_leaving_with_a_batch_that_hangs_ends_after_the_grace():
    code = _LEAVING + (
        "from modelyard.inference_optimizer.engine import thread_host\n"
        "thread_host.GRACE_S = 0.1\n"
        "entered = threading.Event()\n"
        "def run(batch):\n"
        "    entered.set(); threading.Event().wait()\n"
        "engine = Engine(run, max_batch=1).start()\n"
        "engine.submit(1)\n"
        "entered.wait()\n"
    )
    assert left(code) == (0, "", "")


@pytest.mark.slow
def test_whoever_waits_on_another_thread_gets_the_answer_before_the_exit():
    code = _LEAVING + (
        "def run(batch):\n"
        "    time.sleep(0.1); return batch\n"
        "engine = Engine(run, max_batch=1).start()\n"
        "def asking():\n"
        "    print(engine.submit(1).result(), engine.submit(2).result())\n"
        "threading.Thread(target=asking).start()\n"
    )
    assert left(code) == (0, "1 2\n", "")


@pytest.mark.slow
def test_leaving_a_loop_whose_batch_still_runs_waits_for_the_batch():
    code = _LEAVING + (
        "import asyncio\n"
        "entered = threading.Event()\n"
        "def run(batch):\n"
        "    entered.set(); time.sleep(0.2); print('computed', flush=True); return batch\n"
        "async def main():\n"
        "    engine = await Engine(run, max_batch=1, is_inline=False).astart()\n"
        "    engine.apredict(1)\n"
        "    await asyncio.to_thread(entered.wait)\n"
        "asyncio.run(main())\n"
    )
    assert left(code) == (0, "computed\n", "")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_leaves_without_the_engine_of_its_parent():
    code = _LEAVING + (
        "import atexit, os\n"
        "engine = Engine(lambda batch: batch, max_batch=1).start()\n"
        "engine.submit(1).result()\n"
        "engine._host._lock.acquire()\n"  # as if another thread had it at that moment
        "child = os.fork()\n"
        "if not child:\n"
        "    atexit._run_exitfuncs()\n"
        "    os._exit(engine.is_usable)\n"
        "print(os.waitpid(child, 0)[1])\n"
        "engine._host._lock.release()\n"
    )
    assert left(code) == (0, "0\n", "")


_NATIVE = """
import torch
from torch import nn
from modelyard import InferenceOptimizer
model = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 512))
optimizer = InferenceOptimizer(model, device="cpu", cache_size=0, backend=BACKEND)
if BACKEND != "auto":
    optimizer.optimize_for_inference(torch.randn(1, 512), budget_s=0.1)
futures = [optimizer.submit(torch.randn(1, 512)) for _ in range(2000)]
futures[0].result()
print("leaving")
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["auto", "onnxruntime"])
def test_leaving_while_a_model_computes_is_clean(backend):
    if backend == "onnxruntime":
        pytest.importorskip("onnxruntime")
    code, out, _ = left(_NATIVE.replace("BACKEND", repr(backend)))
    assert (code, out) == (0, "leaving\n")
