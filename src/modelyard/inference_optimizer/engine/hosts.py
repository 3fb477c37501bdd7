"""What the two places where an engine can live have in common."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import InvalidStateError
from dataclasses import dataclass
from typing import Any

from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import ConflictError, NotReadyError
from modelyard.inference_optimizer.engine.core import Core
from modelyard.inference_optimizer.engine.requests import Request
from modelyard.inference_optimizer.engine.running import Failures, RunBatch
from modelyard.inference_optimizer.engine.stats import SideCounts, Timings


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What an engine keeps from one start to the next.

    Attributes:
        run_batch: Computes.
        core: The queue and the decisions.
        side: Counters of what never came into the queue.
        timings: Waits and durations.
        clock: Where the time comes from.
    """

    run_batch: RunBatch
    core: Core
    side: SideCounts
    timings: Timings
    clock: Clock


def hand_over(
    batch: Sequence[Request], answers: Sequence[Any], failures: Failures
) -> tuple[int, int]:
    """Give everyone the answer or the error.

    Returns:
        How many took an answer, and how many an error; the others gave up meanwhile.
    """
    n_answered = n_failed = 0
    for i, (request, answer) in enumerate(zip(batch, answers, strict=True)):
        if failures and i in failures:
            n_failed += request.fail(failures[i])
            continue
        try:
            request.future.set_result(answer)
            n_answered += 1
        except (asyncio.InvalidStateError, InvalidStateError):
            continue  # its caller gave up meanwhile
    return n_answered, n_failed


def reading_of(clock: Clock) -> Callable[[], float]:
    """`clock.monotonic_s`, for the machine's clock without the call in between.

    It is read for every request, and a call costs as much as half of what queueing does.
    """
    return time.monotonic if type(clock) is SystemClock else clock.monotonic_s


def closed_error() -> NotReadyError:
    """For a request to an engine that does not run."""
    return NotReadyError(
        "The engine is not running. Enter it with `async with engine:` or `with engine:`, or call "
        "start() first."
    )


def reentrant_error() -> ConflictError:
    """For a request from within `run_batch`."""
    return ConflictError(
        "run_batch asked its own engine for an answer, which could only come after run_batch has "
        "ended. Call the model directly there."
    )
