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
from modelyard.inference_optimizer.engine.requests import Request, forgive
from modelyard.inference_optimizer.engine.running import Failures, RunBatch
from modelyard.inference_optimizer.engine.stats import SideCounts, Timings

# Nobody waits longer than this for a batch that may hang: who leaves because of an error, and
# the interpreter's exit.
GRACE_S = 5.0


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
        except (asyncio.InvalidStateError, InvalidStateError):
            continue  # its caller gave up meanwhile
        except BaseException as error:  # noqa: BLE001 - a callback's error is not the engine's
            forgive(error)
        n_answered += 1
    return n_answered, n_failed


def reading_of(clock: Clock) -> Callable[[], float]:
    """`clock.monotonic_s`, for the machine's clock without the call in between.

    It is read for every request, so a call that only calls another is left out.
    """
    return time.monotonic if type(clock) is SystemClock else clock.monotonic_s


def closed_error() -> NotReadyError:
    """For a request to an engine that does not run."""
    return NotReadyError(
        "The engine is not running. Enter it with `async with engine:` or `with engine:`, or call "
        "start() first."
    )


def died_error(cause: BaseException) -> NotReadyError:
    """For the requests of an engine that ended by an error of its own."""
    error = NotReadyError(
        f"The engine ended by {type(cause).__name__}({cause}), and with it every request that "
        "waited or ran. Close it and start it again."
    )
    error.__cause__ = cause
    return error


def reentrant_error() -> ConflictError:
    """For a request from within `run_batch`."""
    return ConflictError(
        "run_batch asked its own engine for an answer, which could only come after run_batch has "
        "ended. Call the model directly there."
    )
