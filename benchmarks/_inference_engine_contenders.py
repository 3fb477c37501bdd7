"""Batchers to compare: modelyard's engine, and those of BentoML and LitServe where installed.

Each is driven in the process that asks, through the class that its own server drives, so that no
HTTP is measured; each is told the largest batch and, under overload, the limit.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
RunBatch = Callable[[list[Array]], Array]
Ask = Callable[[Array], Awaitable[Any]]
Contender = Callable[[RunBatch, float | None], AbstractAsyncContextManager[Ask]]
"""Of what runs a batch and the limit in milliseconds: something to ask for one answer."""

MAX_BATCH = 32


@asynccontextmanager
async def modelyard_engine(run: RunBatch, limit_ms: float | None) -> AsyncIterator[Ask]:
    """The engine as it comes."""
    from modelyard.inference_optimizer.engine import Engine  # noqa: PLC0415 - as the peers

    async with Engine(run, max_batch=MAX_BATCH, max_latency_ms=limit_ms) as engine:
        yield engine.apredict


CONTENDERS: dict[str, Contender] = {"modelyard": modelyard_engine}
