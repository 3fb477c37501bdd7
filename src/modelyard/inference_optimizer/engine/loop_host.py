"""The engine on an event loop: short models run on it, long ones on a worker thread."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from modelyard._core.errors import ConflictError, NotReadyError
from modelyard._core.forking import call_after_fork
from modelyard.inference_optimizer.engine.hosts import (
    Parts,
    closed_error,
    died_error,
    hand_over,
    reading_of,
    reentrant_error,
)
from modelyard.inference_optimizer.engine.policy import Placement
from modelyard.inference_optimizer.engine.requests import LoopRequest, Request, ThreadRequest
from modelyard.inference_optimizer.engine.running import Failures, answers_of
from modelyard.inference_optimizer.engine.stats import EngineStats, engine_stats
from modelyard.inference_optimizer.engine.worker import Worker

_logger = logging.getLogger("modelyard")


class LoopHost:
    """Lives on one loop, whose thread alone touches the core: no locks on that path.

    Requests from other threads go through an inbox. One lock guards it and the flags of the end.

    Args:
        parts: What the engine keeps.
        loop: The running loop; made on its thread.
        placement: Where batches run.
    """

    def __init__(
        self, parts: Parts, *, loop: asyncio.AbstractEventLoop, placement: Placement
    ) -> None:
        self.loop = loop
        self._parts = parts
        self._core = parts.core
        self._clock_s = reading_of(parts.clock)
        self._placement = placement
        self._worker = Worker()
        self._on_worker: list[Request] = []
        self._is_flush_due = False
        self.thread_id = threading.get_ident()
        self._inside_model_id: int | None = None  # the thread that runs the model now
        self._inbox: deque[ThreadRequest] = deque()
        self._lock = threading.Lock()
        self._is_closing = False
        self._is_abandoned = False
        self._ended = asyncio.Event()
        call_after_fork(self._after_fork)

    @property
    def is_usable(self) -> bool:
        """Whether it takes requests."""
        return not self._is_closing and not self.loop.is_closed()

    # ── requests ────────────────────────────────────────────────────────────────────────────

    def enqueue(
        self, prepared: Any, submitted_s: float, deadline_s: float | None, priority: int
    ) -> "asyncio.Future[Any]":
        """Queue a request of a coroutine on this loop."""
        if self._is_closing:
            self._parts.side.count("closed")
            raise closed_error()
        if not self._is_flush_due:
            self._flush_soon()
        future: asyncio.Future[Any] = asyncio.Future(loop=self.loop)
        self._core.admit(
            LoopRequest(prepared, future, submitted_s, deadline_s, priority), submitted_s
        )
        return future

    def submit(
        self, prepared: Any, submitted_s: float, deadline_s: float | None, priority: int
    ) -> "Future[Any]":
        """Queue a request from another thread; refusals come through the future as well."""
        self._check_thread()
        request = ThreadRequest(prepared, Future(), submitted_s, deadline_s, priority)
        with self._lock:
            if self._is_closing or not self._has_told_loop():
                self._parts.side.count("closed")
                raise closed_error()
            self._inbox.append(request)
        return request.future

    def _after_fork(self) -> None:
        """In a child: whoever held the lock is not here."""
        self._lock = threading.Lock()

    def _check_thread(self) -> None:
        if threading.get_ident() == self._inside_model_id:
            raise reentrant_error()
        if threading.get_ident() == self.thread_id and self.loop.is_running():
            raise ConflictError(
                "submit() was called on the engine's own event loop, which would stand still "
                "while it waits for the result. Use `await engine.apredict(x)` there."
            )

    def _has_told_loop(self) -> bool:
        """Whether the loop will look at the inbox; the lock is held."""
        if self._inbox:
            return not self.loop.is_closed()
        try:
            self.loop.call_soon_threadsafe(self._empty_inbox)
        except RuntimeError:  # the loop is closed
            return False
        return True

    # ── the end ─────────────────────────────────────────────────────────────────────────────

    async def aclose(self, *, drain: bool, timeout_s: float | None) -> None:
        """Take nothing more, answer or cancel what waits, and let the running batch end.

        Args:
            drain: Answer what waits.
            timeout_s: Leave a batch that runs longer to itself, its requests cancelled; None waits
                for ever.
        """
        with self._lock:
            self._is_closing = True
        self._empty_inbox()
        if not drain:
            self._cancel_waiting()
        self._end_if_empty()
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()
        except TimeoutError:
            self._give_up()
        except asyncio.CancelledError:
            self._give_up()
            raise

    def _give_up(self) -> None:
        self.abandon()
        self._ended.set()

    def close(self, *, drain: bool, timeout_s: float | None) -> None:
        """As `aclose`, from another thread."""
        if not self.loop.is_running():
            self.abandon()
        elif threading.get_ident() in {self.thread_id, self._inside_model_id}:
            raise ConflictError(
                "close() was called on a thread that has to do the work it would wait for. "
                "Use `await engine.aclose()` on the engine's event loop."
            )
        else:
            closing = self.aclose(drain=drain, timeout_s=timeout_s)
            asyncio.run_coroutine_threadsafe(closing, self.loop).result()

    def abandon(self) -> None:
        """Cancel all that waits or runs; nobody hears of the running batch any more."""
        for request in self._left():
            _cancel(request)

    def _left(self) -> list[Request]:
        """All that waits or runs, to be told of the end; nothing if they were told."""
        with self._lock:
            self._is_closing = True
            if self._is_abandoned:
                return []
            self._is_abandoned = True
            coming = [*self._inbox]
            self._inbox.clear()
        self._core.counts.n_submitted += len(coming)
        self._core.counts.n_cancelled += len(coming)
        self._core.abandon_running()
        left = [*coming, *self._core.cancel_all(), *self._on_worker]
        self._on_worker = []
        self._worker.stop()
        return left

    def _die(self, cause: BaseException, batch: Sequence[Request] = ()) -> None:
        """End by an error of the engine's own, and tell everyone."""
        _logger.error("An engine ended on its event loop.", exc_info=cause)
        for request in [*batch, *self._left()]:
            request.fail(died_error(cause))
        self._ended.set()

    def stats(self) -> EngineStats:
        """The figures."""
        return engine_stats(
            self._core.counts,
            self._parts.side.read(),
            self._parts.timings,
            n_queued=self._core.n_queued,
            n_coming=len(self._inbox),
        )

    # ── inside, on the loop ─────────────────────────────────────────────────────────────────

    def _flush_soon(self) -> None:
        # While a batch is on the worker, its end looks at the queue.
        if self._on_worker:
            return
        if self._inside_model_id == threading.get_ident():
            raise reentrant_error()
        if not self.loop.is_running():
            raise NotReadyError(
                "The event loop on which the engine was started is not running any more. Close "
                "the engine and enter it again on this one."
            )
        self._is_flush_due = True
        self.loop.call_soon(self._flush)

    def _empty_inbox(self) -> None:
        with self._lock:
            coming = [*self._inbox]
            self._inbox.clear()
        for request in coming:
            try:
                self._core.admit(request, self._clock_s())
            except Exception as error:  # noqa: BLE001 - one that cannot be queued loses no other
                if request.start():
                    request.fail(error)
        if coming and not self._is_flush_due:
            self._flush_soon()

    def _flush(self) -> None:
        self._is_flush_due = False
        batch: list[Request] = []
        try:
            started_s = self._clock_s()
            plan, rejected = self._core.next_batch(started_s)
            batch = plan.batch
            for request, error in rejected:
                request.fail(error)
            if not batch:
                self._go_on()
            elif self._placement.is_inline:
                self._run_here(batch, started_s)
            else:
                self._on_worker = batch
                self._worker.put(lambda: self._run_there(batch, started_s))
        except Exception as cause:  # noqa: BLE001 - a clock's, say: nobody may be left waiting
            self._die(cause, batch)

    def _run_here(self, batch: list[Request], started_s: float) -> None:
        answers, failures = self._answers(batch)
        self._core.counts.n_inline += 1
        self._deliver(batch, answers, failures, started_s, self._clock_s() - started_s)
        if failures and isinstance(failures.get(0), KeyboardInterrupt):
            raise failures[0]

    def _answers(self, batch: list[Request]) -> tuple[Sequence[Any], Failures]:
        self._inside_model_id = threading.get_ident()
        found = answers_of(self._parts.run_batch, [request.prepared for request in batch])
        self._inside_model_id = None
        return found

    def _deliver(
        self,
        batch: list[Request],
        answers: Sequence[Any],
        failures: Failures,
        started_s: float,
        compute_s: float,
    ) -> None:
        n_answered, n_failed = hand_over(batch, answers, failures)
        ended_s = self._clock_s()
        self._core.finished(
            batch,
            started_s=started_s,
            ended_s=ended_s,
            n_answered=n_answered,
            n_failed=n_failed,
        )
        self._placement.observe(compute_s)
        self._parts.timings.add(
            [request.submitted_s for request in batch],
            started_s=started_s,
            ended_s=ended_s,
            compute_s=compute_s,
        )
        self._go_on()

    def _go_on(self) -> None:
        if self._core.n_queued:
            if not self._is_flush_due:
                self._flush_soon()
        elif self._is_closing:
            self._end_if_empty()

    def _end_if_empty(self) -> None:
        if not (self._core.n_queued or self._on_worker or self._inbox or self._ended.is_set()):
            self._worker.stop()
            self._ended.set()

    def _cancel_waiting(self) -> None:
        for request in self._core.cancel_all():
            _cancel(request)

    # ── inside, on the worker ───────────────────────────────────────────────────────────────

    def _run_there(self, batch: list[Request], started_s: float) -> None:
        try:
            began_s = self._clock_s()
            answers, failures = self._answers(batch)
            compute_s = self._clock_s() - began_s
        except BaseException as cause:  # noqa: BLE001 - a clock's, say: nobody may be left waiting
            self._tell_loop(partial(self._die, cause))
            return

        def ended() -> None:
            if self._is_abandoned:
                return
            self._on_worker = []
            try:
                self._deliver(batch, answers, failures, started_s, compute_s)
            except Exception as cause:  # noqa: BLE001 - as above
                self._die(cause, batch)

        self._tell_loop(ended)

    def _tell_loop(self, what: Callable[[], None]) -> None:
        try:
            self.loop.call_soon_threadsafe(what)
        except RuntimeError:  # the loop was closed meanwhile, and nobody else will tell them
            self.abandon()


def _cancel(request: Request) -> None:
    """Cancel its future, also when it runs already or the loop of its waiter is gone."""
    if not request.cancel():
        request.fail(closed_error())
