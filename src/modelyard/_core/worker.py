"""Threads that work for all who record in the process, away from those who call them."""

import logging
import os
import threading
import time
from typing import Protocol

_logger = logging.getLogger(__name__)

# Each uses at most this share of a core.
_LARGEST_SHARE = 0.25
# Without work for so long the thread ends; the next work starts another.
_IDLE_S = 5.0


class Worked(Protocol):
    """Something that has work to do now and then."""

    def work(self) -> None:
        """Do what is due; nothing it does may raise for long."""
        ...


class Worker:
    """Calls `work` of whoever asked for it, one at a time.

    Whoever asks again before it was called is called once, and not again before three times as
    long as its last call computed. Others do not wait for that. One condition guards all state.

    Args:
        purpose: Part of the thread's name.
    """

    def __init__(self, purpose: str = "worker") -> None:
        self._name = f"modelyard-{purpose}"
        self._changed = threading.Condition()
        # Who asked, and for when (`time.monotonic`). Whoever nobody else holds stays for its work.
        self._asked: dict[int, tuple[Worked, float]] = {}
        # Before when nobody is called again, by identity.
        self._resting: dict[int, float] = {}
        self._thread: threading.Thread | None = None

    def ask(self, one: Worked, *, after_s: float = 0.0) -> None:
        """Have `one.work()` called in `after_s` seconds, or soon after; returns at once."""
        now = time.monotonic()
        with self._changed:
            due = max(now + after_s, self._resting.get(id(one), 0.0))
            known = self._asked.get(id(one))
            if known is not None and known[1] <= due and self._thread is not None:
                return
            self._asked[id(one)] = (one, due)
            if self._thread is None:
                self._thread = self._started()
            else:
                self._changed.notify()

    def _started(self) -> threading.Thread | None:
        """A thread that works; None where there is none to be had, until somebody asks again."""
        # Daemon: whoever ends the program is not kept waiting.
        thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # too many, or Python is ending: who records goes on
            _logger.warning("Nothing is stored in the background for now: %s", error)
            return None
        return thread

    def _run(self) -> None:
        while (one := self._next()) is not None:
            self._work(one)
            del one  # while the thread waits, it holds nobody

    def _next(self) -> Worked | None:
        """Who is due, once someone is; None when nobody has asked for a while."""
        with self._changed:
            while True:
                now = time.monotonic()
                key = min(self._asked, key=lambda one: self._asked[one][1], default=None)
                if key is not None and self._asked[key][1] <= now:
                    return self._asked.pop(key)[0]
                wait_s = _IDLE_S if key is None else self._asked[key][1] - now
                if not self._changed.wait(wait_s) and not self._asked:
                    self._thread = None
                    return None

    def _work(self, one: Worked) -> None:
        # Of a store that is slow to answer, nobody has to rest.
        started = time.thread_time()
        try:
            one.work()
        except Exception:
            _logger.exception("Work for %r failed.", one)
        rest_s = (time.thread_time() - started) * (1.0 / _LARGEST_SHARE - 1.0)
        now = time.monotonic()
        with self._changed:
            self._resting = {key: until for key, until in self._resting.items() if until > now}
            self._resting[id(one)] = now + rest_s
            if id(one) in self._asked:
                asked, due = self._asked[id(one)]
                self._asked[id(one)] = (asked, max(due, now + rest_s))


_workers: dict[str, Worker] = {}
_making = threading.Lock()


def worker(purpose: str) -> Worker:
    """The process's worker for this.

    Args:
        purpose: Whose work it does; those of other purposes do not wait while a store that does
            not answer holds one up.
    """
    found = _workers.get(purpose)
    if found is None:
        with _making:
            found = _workers.setdefault(purpose, Worker(purpose))
    return found


def _forget() -> None:
    # Of the parent's threads none lives in the child.
    global _making  # noqa: PLW0603 - a lock held by a thread of the parent would stay held
    _workers.clear()
    _making = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
