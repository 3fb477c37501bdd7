"""A request, and how its waiter hears of the end."""

import asyncio
import logging
import threading
from abc import ABC, abstractmethod
from concurrent.futures import Future, InvalidStateError
from typing import Any

from modelyard._core.errors import InputError

_logger = logging.getLogger("modelyard")


class Request(ABC):
    """Something to compute, and who waits for it.

    Attributes:
        prepared: What `run_batch` takes.
        future: Where the answer goes.
        submitted_s: When it came, on the engine's clock.
        deadline_s: When its answer is of no use any more, on the same clock; None for never.
        priority: Higher goes first.
    """

    __slots__ = ("deadline_s", "future", "prepared", "priority", "submitted_s")

    def __init__(
        self,
        prepared: Any,
        future: Any,
        submitted_s: float,
        deadline_s: float | None = None,
        priority: int = 0,
    ) -> None:
        self.prepared = prepared
        self.future = future
        self.submitted_s = submitted_s
        self.deadline_s = deadline_s
        self.priority = priority

    def is_cancelled(self) -> bool:
        """Whether its caller gave up."""
        return bool(self.future.cancelled())

    @abstractmethod
    def start(self) -> bool:
        """Whether anyone still waits; a future that can be told is told that it runs now."""

    @abstractmethod
    def fail(self, error: BaseException) -> bool:
        """Hand over the error; False if the caller gave up meanwhile."""

    def cancel(self) -> bool:
        """Tell the caller that no answer comes; False if it is too late for that."""
        try:
            return bool(self.future.cancel())
        except RuntimeError:
            return True  # the loop is closed, and with it the waiter
        except BaseException as error:  # noqa: BLE001 - a callback's error is not the engine's
            forgive(error)
            return True


class LoopRequest(Request):
    """One whose waiter is a coroutine of the loop on which the engine lives."""

    __slots__ = ()
    future: "asyncio.Future[Any]"

    def start(self) -> bool:
        """Whether anyone still waits."""
        return not self.future.done()

    def fail(self, error: BaseException) -> bool:
        """Hand over the error; what would end the loop is wrapped in an InputError."""
        if self.future.done():
            return False
        if isinstance(error, StopIteration) or not isinstance(error, Exception):
            wrapped = InputError(
                f"The model raised {type(error).__name__}({error}), which would have ended the "
                "event loop. Models should raise exceptions derived from Exception."
            )
            wrapped.__cause__ = error
            error = wrapped
        self.future.set_exception(error)
        return True


class ThreadRequest(Request):
    """One whose waiter is a thread."""

    __slots__ = ()
    future: "Future[Any]"

    def start(self) -> bool:
        """Whether anyone still waits; from here on the future can no longer be cancelled."""
        try:
            return self.future.set_running_or_notify_cancel()
        except (InvalidStateError, RuntimeError):
            return False  # whoever holds the future has set it

    def fail(self, error: BaseException) -> bool:
        """Hand over the error."""
        try:
            self.future.set_exception(error)
        except InvalidStateError:
            return False
        except BaseException as raised:  # noqa: BLE001 - a callback's error is not the engine's
            forgive(raised)
        return True


def forgive(raised: BaseException) -> None:
    """Log what a future's done-callback raised, so that the others still get their answers.

    Futures log every Exception by themselves; what arrives here is the like of SystemExit.

    Raises:
        KeyboardInterrupt: It came on the main thread, where it is the user's.
    """
    is_on_main = threading.current_thread() is threading.main_thread()
    if isinstance(raised, KeyboardInterrupt) and is_on_main:
        raise raised
    _logger.error("A done-callback of a request raised; the engine goes on.", exc_info=raised)
