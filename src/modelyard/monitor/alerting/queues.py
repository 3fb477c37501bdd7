"""The queue of one sink: events in order, each tried until it is delivered."""

import atexit
import copy
import functools
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np

from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import ConfigError
from modelyard.monitor.alerting.alerts import AlertEventDict
from modelyard.monitor.alerting.sinks import AlertSink, DeliveryRefusedError

_logger = logging.getLogger(__name__)

# What is still waiting when the interpreter ends is tried for at most so long, all sinks together.
EXIT_TIMEOUT_S = 2.0
# Days of alerts that flap; beyond it the oldest go, counted and logged.
MAX_WAITING = 10_000
_MAX_DOUBLINGS = 30


class DeliveryDict(TypedDict):
    """An event that a sink has not taken yet.

    Attributes:
        delivery_id: Unique: the event's id and the sink's name.
        sink: Its name.
        event: As it will be delivered.
        error: Why the last attempt failed, if there was one.
    """

    delivery_id: str
    sink: str
    event: AlertEventDict
    error: NotRequired[str]


class SinkStateDict(TypedDict):
    """How a sink is doing; `last_failed_at` ISO 8601, None if it never failed.

    `n_failures` counts attempts; `n_refused` events that the receiver will never take, which are
    kept; `n_dropped` events that went because too many waited.
    """

    n_delivered: int
    n_waiting: int
    n_failures: int
    n_refused: int
    n_dropped: int
    last_error: str | None
    last_failed_at: str | None


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """How long to wait after a failed attempt: twice as long each time, less a random part.

    Attributes:
        first_s: Longest wait after the first failure.
        most_s: Longest wait after any.

    Raises:
        ConfigError: A time that is not above 0.
    """

    first_s: float = 1.0
    most_s: float = 300.0

    def __post_init__(self) -> None:
        if not 0.0 < self.first_s <= self.most_s:
            raise ConfigError(
                f"first_s must be above 0 and at most most_s; got {self.first_s} and "
                f"{self.most_s}."
            )

    def delay_s(self, n_failures: int, rng: np.random.Generator) -> float:
        """Seconds to wait after so many failures in a row (1 or more).

        Half of it is random, so that many senders do not come back to a receiver all at once.
        """
        longest = min(self.most_s, self.first_s * 2.0 ** min(n_failures - 1, _MAX_DOUBLINGS))
        return longest * (1.0 - 0.5 * rng.random())


class SinkQueue:
    """What one sink must still get. A thread of its own lives while something waits.

    One condition guards all state and is never held while the sink works. After a fork the child
    begins with nothing to deliver: what waited is the parent's.

    Args:
        sink: Where events go.
        clock: For the time of the last failure.
        backoff: Waits between attempts.
        rng: For their random part.
        max_waiting: Waiting events beyond this number go, oldest first.
    """

    def __init__(
        self,
        sink: AlertSink,
        *,
        clock: Clock,
        backoff: Backoff,
        rng: np.random.Generator,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.sink = sink
        self._clock, self._backoff, self._rng = clock, backoff, rng
        self._max_waiting = max_waiting
        self._n_delivered = self._n_failures = self._n_dropped = 0
        self._last_error: str | None = None
        self._last_failed_at: str | None = None
        self._is_closed = False
        self._revision = 0
        self._begin_empty()
        _known_queues().add(self)

    @property
    def revision(self) -> int:
        """Changes whenever `undelivered` does."""
        return self._revision

    def add(self, deliveries: Sequence[DeliveryDict]) -> None:
        """Take events to deliver, in this order; returns at once."""
        if not deliveries:
            return
        with self._changed:
            self._waiting.extend(deliveries)
            self._drop_oldest()
            self._revision += 1
            if self._thread is None and not self._is_closed:
                self._start()

    def undelivered(self) -> list[DeliveryDict]:
        """Events the sink has not taken, also those it refused, oldest first."""
        with self._changed:
            deliveries = [delivery.copy() for delivery in (*self._refused, *self._waiting)]
        # Events never change; they are copied for the caller without holding anyone up.
        return copy.deepcopy(deliveries)

    def state(self) -> SinkStateDict:
        """How the sink is doing."""
        with self._changed:
            return {
                "n_delivered": self._n_delivered,
                "n_waiting": len(self._waiting),
                "n_failures": self._n_failures,
                "n_refused": len(self._refused),
                "n_dropped": self._n_dropped,
                "last_error": self._last_error,
                "last_failed_at": self._last_failed_at,
            }

    def hurry(self) -> None:
        """Try once now instead of waiting for the next attempt."""
        with self._changed:
            self._n_hurries += 1
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> bool:
        """Whether nothing waits any more, now or within `timeout_s` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting, timeout=timeout_s)

    def close(self) -> None:
        """Begin no further attempt; what waits stays in `undelivered`."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def forget_after_fork(self) -> None:
        """Begin anew in the child: its copy of the lock may be held by a thread that is gone."""
        self._begin_empty()

    def _begin_empty(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[DeliveryDict] = deque()
        self._refused: deque[DeliveryDict] = deque(maxlen=self._max_waiting)
        self._thread: threading.Thread | None = None
        self._n_hurries = 0

    def _start(self) -> None:
        thread = threading.Thread(
            target=self._work, name=f"modelyard-alerts-{self.sink.name}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:
            # No thread can be had (the interpreter ends, or there are too many): the next
            # event tries again.
            _logger.warning("Alerts of sink %r wait: %s", self.sink.name, error)
        else:
            self._thread = thread

    def _work(self) -> None:
        n_failures = 0
        while True:
            with self._changed:
                if self._is_closed or not self._waiting:
                    self._thread = None
                    return
                delivery, n_hurries = self._waiting[0], self._n_hurries
            error = self._attempt(delivery)
            is_final = error is None or isinstance(error, DeliveryRefusedError)
            if error is not None and (is_final or n_failures == 0):
                # Further failures in a row are only counted: a log must not fill while a sink is
                # down. Nor is the lock held, on which callers wait, while a log is written.
                self._log_failure(delivery, error, is_final=is_final)
            n_failures = 0 if is_final else n_failures + 1
            with self._changed:
                self._note(delivery, error, is_final=is_final)
                if not is_final:
                    self._wait_for_next(n_failures, n_hurries)

    def _attempt(self, delivery: DeliveryDict) -> BaseException | None:
        try:
            # A copy: a callback that changes the event must not change the next attempt.
            self.sink.deliver(copy.deepcopy(delivery["event"]))
        except BaseException as error:  # noqa: BLE001 - also a sys.exit() in a callback is its failure
            return error
        return None

    def _wait_for_next(self, n_failures: int, n_hurries: int) -> None:
        self._changed.wait_for(
            lambda: self._is_closed or self._n_hurries != n_hurries,
            timeout=self._backoff.delay_s(n_failures, self._rng),
        )

    def _note(
        self, delivery: DeliveryDict, error: BaseException | None, *, is_final: bool
    ) -> None:
        if error is None:
            self._n_delivered += 1
        else:
            self._n_failures += 1
            self._last_error = delivery["error"] = _text_of(error)
            self._last_failed_at = self._clock.now().isoformat()
        if not is_final:
            return
        # It may have been dropped meanwhile.
        if self._waiting and self._waiting[0] is delivery:
            self._waiting.popleft()
        if error is not None:
            self._n_dropped += len(self._refused) == self._max_waiting
            self._refused.append(delivery)
        self._revision += 1
        self._changed.notify_all()

    def _log_failure(
        self, delivery: DeliveryDict, error: BaseException, *, is_final: bool
    ) -> None:
        _logger.warning(
            "Alert event %s: sink %r %s (%s).",
            delivery["event"]["event_id"],
            self.sink.name,
            "will not take it" if is_final else "will be tried again",
            _text_of(error),
        )

    def _drop_oldest(self) -> None:
        n_over = len(self._waiting) - self._max_waiting
        if n_over <= 0:
            return
        for _ in range(n_over):
            self._waiting.popleft()
        self._n_dropped += n_over
        _logger.error(
            "Sink %r has not worked for so long that %d events went: more than %d wait.",
            self.sink.name,
            n_over,
            self._max_waiting,
        )


def _text_of(error: BaseException) -> str:
    return f"{type(error).__qualname__}: {error}"


def wait_for_all(queues: Sequence[SinkQueue], timeout_s: float) -> bool:
    """Try once now what waits, and say whether all was delivered within `timeout_s` seconds."""
    # Threads wait in real time, whatever clock the monitor has.
    clock = SystemClock()
    deadline_s = clock.monotonic_s() + timeout_s
    for queue in queues:
        queue.hurry()
    return all(queue.wait(max(0.0, deadline_s - clock.monotonic_s())) for queue in queues)


@functools.cache
def _known_queues() -> "weakref.WeakSet[SinkQueue]":
    """Every queue, for the end of the interpreter and for forks; made with the first one."""
    queues: weakref.WeakSet[SinkQueue] = weakref.WeakSet()
    atexit.register(lambda: wait_for_all(list(queues), EXIT_TIMEOUT_S))
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=lambda: _forget_after_fork(list(queues)))
    return queues


def _forget_after_fork(queues: Sequence[SinkQueue]) -> None:
    for queue in queues:
        queue.forget_after_fork()
