"""One version's try at a request: timed, checked, and with an end even where it hangs."""

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from modelyard._core.errors import DeadlineExceededError
from modelyard.deployment.leaving import end_at_exit
from modelyard.deployment.serving import Served, ended_by, refuse_non_finite

# So many calls of one version may hang before it is asked no more.
_MOST_HUNG = 4


class Attempt(NamedTuple):
    """What one version made of a request: an output, or the error that came instead."""

    served: Served
    output: Any
    error: Exception | None
    latency_s: float


def attempt(served: Served, x: Any) -> Attempt:
    """One version's try at a request, timed; NaN, infinity and a call of sys.exit are errors."""
    output: Any = None
    error: Exception | None = None
    started = time.perf_counter()
    try:
        output = served.optimizer.predict(x)
        refuse_non_finite(output, served.version_id)
    except Exception as failure:  # noqa: BLE001 - whatever a candidate does, stable answers
        output, error = None, failure
    except SystemExit as failure:
        output, error = None, ended_by(failure, served.version_id)
    latency_s = time.perf_counter() - started
    return Attempt(served, output, error, latency_s)


class Deadline:
    """Asks one version on threads of its own, so that a call that hangs keeps nobody waiting.

    Python cannot stop a call: a thread that hangs is left behind, and once four of them are, the
    version is not asked any more until one comes back. The threads do not keep the process alive:
    they are broken off when it ends.

    Thread-safe: one lock guards how many are at work.

    Args:
        timeout_s: Seconds that an answer may take.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._n_threads = self._n_idle = self._n_hung = 0

    def attempt(self, served: Served, x: Any) -> Attempt:
        """One version's try at a request, given up after `timeout_s`."""
        if self._n_hung >= _MOST_HUNG:
            error = DeadlineExceededError(
                f"{served.version_id} is not asked: {self._n_hung} calls of it hang."
            )
            return Attempt(served=served, output=None, error=error, latency_s=0.0)
        done: SimpleQueue[Attempt] = SimpleQueue()
        gave_up = threading.Event()
        started = time.perf_counter()
        self._give(lambda: self._answer(served, x, done, gave_up))
        try:
            return done.get(timeout=self._timeout_s)
        except Empty:
            with self._lock:
                if not done.empty():
                    return done.get()  # it came in this very moment
                gave_up.set()
                self._n_hung += 1
            error = DeadlineExceededError(
                f"{served.version_id} did not answer within {self._timeout_s:g} s."
            )
            latency_s = time.perf_counter() - started
            return Attempt(served=served, output=None, error=error, latency_s=latency_s)

    def close(self) -> None:
        """Let the threads end: those that wait at once, those that work when they are done."""
        with self._lock:
            n_threads = self._n_threads
        for _ in range(n_threads):
            self._jobs.put(None)

    def _give(self, job: Callable[[], None]) -> None:
        with self._lock:
            if self._n_idle > 0:
                self._n_idle -= 1
            else:
                self._n_threads += 1
                name = f"modelyard-candidate-{self._n_threads}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                thread.start()
                end_at_exit(thread, self.close)
        self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            with self._lock:
                self._n_idle += 1

    def _answer(
        self, served: Served, x: Any, done: "SimpleQueue[Attempt]", gave_up: threading.Event
    ) -> None:
        made = attempt(served, x)
        with self._lock:
            done.put(made)
            if gave_up.is_set():
                self._n_hung -= 1
