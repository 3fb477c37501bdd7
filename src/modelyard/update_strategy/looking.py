"""Looks at a rollout that no request waits for."""

import atexit
import functools
import threading
import weakref
from collections.abc import Callable

from modelyard._core.clock import Clock

# A request waits so long for a look: most are over by then, and a store that is locked, or a
# version that takes seconds to load, is not its affair.
_REQUEST_WAITS_S = 0.01
_EXIT_S = 2.0


class Looker:
    """Has one look at a time done on a thread of its own.

    Thread-safe: one lock guards which look is under way.

    Args:
        look: What is done; it raises nothing.
        name: Of the model, for the thread.
        clock: By which a request's waiting is measured. While a clock that is moved by hand
            stands still no time passes, so that a simulation is the same each time.
    """

    def __init__(self, look: Callable[[], None], *, name: str, clock: Clock) -> None:
        self._look = look
        self._name = f"modelyard-look-{name}"
        self._clock = clock
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def look(self) -> None:
        """Begin a look, unless one is under way, and wait for it a few milliseconds at most."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self._thread is not None and self._thread.is_alive():
                return
            thread = threading.Thread(target=self._look, name=self._name, daemon=True)
            self._thread = thread
            _waited_for().add(thread)
            thread.start()
        finally:
            self._lock.release()
        began_s = self._clock.monotonic_s()
        thread.join(_REQUEST_WAITS_S)
        while thread.is_alive() and self._clock.monotonic_s() - began_s < _REQUEST_WAITS_S:
            thread.join(_REQUEST_WAITS_S)


@functools.lru_cache(maxsize=1)
def _waited_for() -> "weakref.WeakSet[threading.Thread]":
    """Looks that the interpreter waits for when it ends.

    A thread that comes back from a library's own code after that aborts the process.
    """
    threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()

    def wait() -> None:
        for thread in list(threads):
            thread.join(_EXIT_S)

    atexit.register(wait)
    return threads
