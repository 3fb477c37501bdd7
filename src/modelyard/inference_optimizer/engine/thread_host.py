"""The engine on a worker thread of its own."""

import atexit
import contextlib
import logging
import os
import threading
import weakref
from concurrent.futures import Future
from typing import Any

from modelyard._core.errors import ConflictError, NotReadyError
from modelyard._core.forking import call_after_fork
from modelyard.inference_optimizer.engine.core import Rejected
from modelyard.inference_optimizer.engine.hosts import (
    GRACE_S,
    Parts,
    closed_error,
    died_error,
    hand_over,
    reading_of,
    reentrant_error,
)
from modelyard.inference_optimizer.engine.requests import Request, ThreadRequest
from modelyard.inference_optimizer.engine.running import answers_of
from modelyard.inference_optimizer.engine.stats import EngineStats, engine_stats

_logger = logging.getLogger("modelyard")


class ThreadHost:
    """One lock guards the core and the flags; nobody holds it while a model or a callback runs.

    The thread is daemonic, so that a batch that hangs cannot keep the process alive. One that the
    interpreter's end meets inside native code would abort the process, so that one which is still
    there at exit is closed first, and waited for a moment. That happens after all other threads
    were joined: whoever waits for an answer gets it.

    What computes is held only while there is something to compute, so that an engine nobody holds
    any more goes with its model, once it has answered. Its owner then calls `let_go`.

    Args:
        parts: What the engine keeps, and its owner holds.
    """

    def __init__(self, parts: Parts) -> None:
        self._idle_parts = weakref.ref(parts)
        self._parts: Parts | None = parts
        self._core, self._side, self._timings = parts.core, parts.side, parts.timings
        self._clock_s = reading_of(parts.clock)
        self._lock = threading.Lock()
        self._is_closing = False
        self._is_abandoned = False
        self._is_let_go = False
        self._died_of: BaseException | None = None
        self._running: list[Request] = []
        # Released once by whoever finds the worker asleep: a semaphore without its cost.
        self._wake = threading.Lock()
        self._wake.acquire()
        self._is_asleep = False
        self._is_inside_model = False
        self._thread = threading.Thread(target=self._work, name="modelyard-engine", daemon=True)
        self._thread.start()
        self._process_id = os.getpid()
        atexit.register(self._exit)
        call_after_fork(self._after_fork)

    @property
    def is_usable(self) -> bool:
        """Whether it takes requests."""
        return not self._is_closing

    def submit(
        self, prepared: Any, submitted_s: float, deadline_s: float | None, priority: int
    ) -> "Future[Any]":
        """Queue a request from any thread."""
        if self._is_inside_model and threading.get_ident() == self._thread.ident:
            raise reentrant_error()
        request = ThreadRequest(prepared, Future(), submitted_s, deadline_s, priority)
        with self._lock:
            if self._is_closing:
                self._side.count("closed")
                raise self._ended_error()
            self._core.admit(request, submitted_s)
            self._wake_up()
        return request.future

    def close(self, *, drain: bool, timeout_s: float | None) -> None:
        """Take nothing more, answer or cancel what waits, and let the running batch end.

        Args:
            drain: Answer what waits.
            timeout_s: Leave a batch that runs longer to itself, its requests failed; None waits
                for ever.
        """
        if threading.get_ident() == self._thread.ident:
            raise ConflictError(
                "The engine cannot be closed from its own worker thread, which would wait for "
                "itself. Close it from the thread that started it."
            )
        with self._lock:
            self._is_closing = True
            cancelled = [] if drain else self._core.cancel_all()
            self._wake_up()
        for request in cancelled:
            request.cancel()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._abandon()

    def let_go(self) -> None:
        """Let the worker end when it has nothing to do; nobody can ask for anything any more.

        Takes no lock: the collector may call it at any moment, on a thread that holds one.
        """
        self._is_let_go = True
        with contextlib.suppress(RuntimeError):  # the worker is being woken already
            self._wake.release()

    def stats(self) -> EngineStats:
        """The figures, of one moment."""
        with self._lock:
            return engine_stats(
                self._core.counts,
                self._side.read(),
                self._timings,
                n_queued=self._core.n_queued,
                n_coming=0,
            )

    def _wake_up(self) -> None:
        """Let the worker look at the queue; the lock is held."""
        if self._is_asleep:
            self._is_asleep = False
            self._parts = self._idle_parts()
            with contextlib.suppress(RuntimeError):  # the worker was let go meanwhile
                self._wake.release()

    def _abandon(self) -> None:
        for request in self._left():
            if not request.cancel():
                request.fail(closed_error())

    def _left(self) -> list[Request]:
        """All that waits or runs; nobody hears of the running batch any more."""
        with self._lock:
            self._is_closing = self._is_abandoned = True
            self._core.abandon_running()
            return [*self._running, *self._core.cancel_all()]

    def _exit(self) -> None:
        # In a forked child the thread is not there.
        if self._process_id == os.getpid():
            self.close(drain=False, timeout_s=GRACE_S)

    def _after_fork(self) -> None:
        """In a child: the figures can still be read."""
        self._lock = threading.Lock()

    def _ended_error(self) -> NotReadyError:
        return closed_error() if self._died_of is None else died_error(self._died_of)

    def _work(self) -> None:
        try:
            self._serve_all()
        except BaseException as error:
            _logger.exception("The worker thread of an engine ended.")
            self._died_of = error
            for request in self._left():
                request.fail(died_error(error))
        finally:
            self._parts = None
            atexit.unregister(self._exit)

    def _serve_all(self) -> None:
        is_ended = False
        while not is_ended:
            with self._lock:
                started_s = self._clock_s()
                rejected = self._take(started_s)
                is_asleep = self._is_asleep
                is_ended = is_asleep and (self._is_closing or self._is_let_go)
                parts, self._parts = self._parts, None if is_asleep else self._parts
            for request, error in rejected:
                request.fail(error)
            # Without the lock: the model may go with it, and what that does is not known.
            del parts
            rejected.clear()
            if self._running:
                is_ended = not self._serve(self._running, started_s)
            elif is_asleep and not is_ended:
                self._wake.acquire()

    def _take(self, started_s: float) -> Rejected:
        """Plan the next batch; the lock is held."""
        plan, rejected = self._core.next_batch(started_s)
        self._running = plan.batch
        self._is_asleep = not plan.batch and not self._core.n_queued
        return rejected

    def _serve(self, batch: list[Request], started_s: float) -> bool:
        """Run a batch; False if nobody waits for it any more and the worker has to end."""
        self._is_inside_model = True
        began_s = self._clock_s()
        parts = self._parts
        assert parts is not None  # noqa: S101 - given up only when there is nothing to run
        answers, failures = answers_of(parts.run_batch, [request.prepared for request in batch])
        del parts
        ended_s = self._clock_s()
        self._is_inside_model = False
        with self._lock:
            if self._is_abandoned:
                return False
            # Counted before anyone has the answer: who has it finds it counted.
            self._core.finished(
                batch,
                started_s=started_s,
                ended_s=ended_s,
                n_answered=len(batch) - len(failures),
                n_failed=len(failures),
            )
        self._timings.add(
            [request.submitted_s for request in batch],
            started_s=started_s,
            ended_s=ended_s,
            compute_s=ended_s - began_s,
        )
        hand_over(batch, answers, failures)
        return True
