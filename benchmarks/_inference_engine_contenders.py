"""Batchers to compare: modelyard's engine, and those of BentoML and LitServe where installed.

Each is driven in the process that asks, through the class that its own server drives, so that no
HTTP is measured; each is told the largest batch and, under overload, the limit.
"""

import asyncio
import itertools
import logging
import queue
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.inference_optimizer import Engine, InferenceOptimizer

Array = NDArray[np.float32]
RunBatch = Callable[[list[Array]], Array]
Ask = Callable[[Array], Awaitable[Any]]
Contender = Callable[[RunBatch, float | None], AbstractAsyncContextManager[Ask]]
"""Of what runs a batch and the limit in milliseconds: something to ask for one answer."""

MAX_BATCH = 32


@asynccontextmanager
async def modelyard_engine(run: RunBatch, limit_ms: float | None) -> AsyncIterator[Ask]:
    """The engine around the same function as the peers."""
    async with Engine(run, max_batch=MAX_BATCH, max_latency_ms=limit_ms) as engine:
        yield engine.apredict


def optimizer_engine(optimizer: InferenceOptimizer) -> Contender:
    """The engine of an optimizer, which checks and copies inputs and runs the model itself."""

    @asynccontextmanager
    async def made(run: RunBatch, limit_ms: float | None) -> AsyncIterator[Ask]:
        del run
        async with optimizer.engine(max_latency_ms=limit_ms) as engine:
            yield engine.apredict

    return made


@asynccontextmanager
async def bentoml_dispatcher(run: RunBatch, limit_ms: float | None) -> AsyncIterator[Ask]:
    """BentoML's adaptive batching; its latency bound is a minute by default."""
    from bentoml._internal.marshal.dispatcher import CorkDispatcher  # noqa: PLC0415 - optional

    def refused() -> None:
        raise TimeoutError

    dispatcher = CorkDispatcher(
        int(limit_ms or 60_000), MAX_BATCH, fallback=refused, get_batch_size=len
    )
    try:
        # A plain function runs in a thread pool, as BentoML's service does with a plain method.
        yield dispatcher(lambda rows: run([*rows]))
    finally:
        dispatcher.shutdown()


@asynccontextmanager
async def litserve_loop(run: RunBatch, limit_ms: float | None) -> AsyncIterator[Ask]:
    """LitServe's batched loop, on a thread instead of a process; it waits a millisecond for more.

    With its default of no wait at all it polls without pause, which only a process can afford.
    """
    from litserve import LitAPI  # noqa: PLC0415 - optional
    from litserve.callbacks import CallbackRunner  # noqa: PLC0415 - optional
    from litserve.loops.simple_loops import BatchedLoop  # noqa: PLC0415 - optional

    class Api(LitAPI):  # type: ignore[misc]  # untyped
        def setup(self, device: str) -> None:
            """Nothing to do."""

        def batch(self, inputs: list[Array]) -> list[Array]:
            return inputs

        def predict(self, x: list[Array]) -> Array:
            return run(x)

        def unbatch(self, output: Array) -> list[Array]:
            return [*output]

    api = Api(max_batch_size=MAX_BATCH, batch_timeout=0.001)
    logging.getLogger("litserve").setLevel(logging.CRITICAL)  # a line for each request it refuses
    api.pre_setup(spec=None)
    api.request_timeout = -1 if limit_ms is None else limit_ms / 1e3
    loop = asyncio.get_running_loop()
    requests: queue.Queue[Any] = queue.Queue()
    waiting: dict[int, asyncio.Future[Any]] = {}
    numbers = itertools.count()

    class Transport:
        def send(self, item: Any, consumer_id: int) -> None:
            del consumer_id
            uid, (value, status, *_) = item
            loop.call_soon_threadsafe(_settled, waiting, uid, value, status)

    async def ask(row: Array) -> Any:
        uid = next(numbers)
        future = waiting[uid] = loop.create_future()
        requests.put((0, uid, time.monotonic(), row))
        return await future

    arguments = (api, "cpu", 0, requests, Transport(), {}, CallbackRunner())
    thread = threading.Thread(target=BatchedLoop(), args=arguments, daemon=True)
    thread.start()
    try:
        yield ask
    finally:
        requests.put((None, None, None, None))
        await asyncio.to_thread(thread.join, 5)


def _settled(waiting: dict[int, "asyncio.Future[Any]"], uid: int, value: Any, status: Any) -> None:
    if status == "START":
        return
    future = waiting.pop(uid)
    if future.done():
        return
    if status == "OK":
        future.set_result(value)
    else:
        future.set_exception(TimeoutError(str(value)))


_ALL: dict[str, tuple[str, Contender]] = {
    "modelyard": ("modelyard", modelyard_engine),
    "BentoML's CorkDispatcher": ("bentoml", bentoml_dispatcher),
    "LitServe's BatchedLoop": ("litserve", litserve_loop),
}
CONTENDERS = {name: contender for name, (package, contender) in _ALL.items() if find_spec(package)}
"""Those whose package is installed, by name."""
