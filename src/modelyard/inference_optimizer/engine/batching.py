"""`Engine`: many callers, one model, and nobody waits for a batch to fill."""

import asyncio
import math
import operator
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import ConfigError, ConflictError, NotReadyError
from modelyard._core.forking import call_after_fork
from modelyard.inference_optimizer.engine.core import Core
from modelyard.inference_optimizer.engine.hosts import GRACE_S, Parts, closed_error, reading_of
from modelyard.inference_optimizer.engine.loop_host import LoopHost
from modelyard.inference_optimizer.engine.policy import Placement
from modelyard.inference_optimizer.engine.running import RunBatch
from modelyard.inference_optimizer.engine.stats import (
    EngineStats,
    SideCounts,
    Timings,
    engine_stats,
)
from modelyard.inference_optimizer.engine.thread_host import ThreadHost
from modelyard.torchtools.timing import MS_PER_S


def _identity(x: Any) -> Any:
    return x


class Engine:
    """Computes the requests of many callers in batches.

    When free it takes what waits, highest priority first, and never waits for more. A request
    that cannot be answered before its deadline is rejected as soon as that is known, and is not
    computed. Entered with `async with` it lives on that event loop, where short models run at
    once and long ones on one worker thread; entered with `with` it lives on a worker thread.
    After its close it may be entered again. Figures and estimates last as long as the object.

    Args:
        run_batch: Gives the answers to several prepared requests, in order; raises if any is bad.
            It runs on one thread at a time and may not call the engine.
        prepare: Makes of a request what `run_batch` takes, on the caller's side;
            raises InputError.
        cached: Gives the answer to a prepared request if it is there at once, else None.
        max_batch: Largest batch.
        max_queue: How many requests may wait.
        max_latency_ms: Deadline of requests that name none, in milliseconds; None for none.
        clock: Where the time comes from.
        service_s: Durations of batches measured before, in seconds by batch size.
        is_inline: In loop mode, whether batches run on the loop; None to choose by their duration.

    Raises:
        ConfigError: A value out of range.

    Example:
        >>> with Engine(lambda xs: [2 * x for x in xs], max_batch=32) as engine:
        ...     engine.submit(21).result()
        42
    """

    def __init__(
        self,
        run_batch: RunBatch,
        *,
        max_batch: int,
        prepare: Callable[[Any], Any] = _identity,
        cached: Callable[[Any], Any] | None = None,
        max_queue: int = 10_000,
        max_latency_ms: float | None = None,
        clock: Clock | None = None,
        service_s: Mapping[int, float] | None = None,
        is_inline: bool | None = None,
    ) -> None:
        if max_batch < 1 or max_queue < 1:
            raise ConfigError(
                f"max_batch and max_queue must be 1 or more, got {max_batch} and {max_queue}."
            )
        if max_latency_ms is not None and not max_latency_ms > 0:
            raise ConfigError(f"max_latency_ms must be above 0, got {max_latency_ms}.")
        clock = clock or SystemClock()
        self._prepare = None if prepare is _identity else prepare
        self._cached = cached
        self._latency_s = None if max_latency_ms is None else max_latency_ms / MS_PER_S
        self._clock_s = reading_of(clock)
        self._is_inline = is_inline
        self._side = SideCounts()
        self._parts = Parts(
            run_batch=run_batch,
            core=Core(max_batch=max_batch, max_queue=max_queue, service_s=service_s),
            side=self._side,
            timings=Timings(clock),
            clock=clock,
        )
        self._host: LoopHost | ThreadHost | None = None
        self._start_lock = threading.Lock()  # guards the making and the leaving of _host
        self._process_id = os.getpid()
        call_after_fork(self._after_fork)

    # ── requests ────────────────────────────────────────────────────────────────────────────

    def apredict(
        self, x: Any, *, deadline_ms: float | None = None, priority: int = 0
    ) -> "asyncio.Future[Any]":
        """Queue a request from a coroutine; awaiting the future gives the answer or the error.

        A future and no coroutine, since that costs less; where a coroutine is asked for,
        as by `asyncio.create_task`, use `asyncio.ensure_future`. Refusals are raised at once.

        Args:
            x: What `prepare` takes.
            deadline_ms: Milliseconds from now after which the answer is of no use;
                `max_latency_ms` by default.
            priority: Higher goes first.

        Raises:
            ConfigError: `priority` is no whole number, or `deadline_ms` no number.
            InputError: `prepare` does not take it.
            DeadlineExceededError: It could not be answered in time.
            QueueFullError: Too many wait; holds the time after which to try again.
            NotReadyError: The engine does not run.
            ConflictError: Called from `run_batch`.
        """
        host = self._host
        # Not get_running_loop(), which asks the system for the process id each time.
        if type(host) is not LoopHost or host.thread_id != threading.get_ident():
            future = self.submit(x, deadline_ms=deadline_ms, priority=priority)
            return asyncio.wrap_future(future)
        now_s = self._clock_s()
        prepared, deadline_s, priority = self._received(x, now_s, deadline_ms, priority)
        if self._cached is not None and (answer := self._cached(prepared)) is not None:
            self._side.count("cached")
            at_once = host.loop.create_future()
            at_once.set_result(answer)
            return at_once
        return host.enqueue(prepared, now_s, deadline_s, priority)

    def submit(
        self, x: Any, *, deadline_ms: float | None = None, priority: int = 0
    ) -> "Future[Any]":
        """Queue a request from a thread; the future gives the answer or the error.

        In loop mode not for the loop's own thread, and refusals may come through the future.

        Args:
            x: What `prepare` takes.
            deadline_ms: Milliseconds from now after which the answer is of no use;
                `max_latency_ms` by default.
            priority: Higher goes first.

        Raises:
            ConfigError: `priority` is no whole number, or `deadline_ms` no number.
            InputError: `prepare` does not take it.
            DeadlineExceededError: It cannot be answered in time.
            QueueFullError: Too many wait; holds the time after which to try again.
            NotReadyError: The engine does not run, or not in this process.
            ConflictError: Called where waiting for the answer would wait for ever: from
                `run_batch`, or on the engine's own event loop.
        """
        host = self._running_host()
        now_s = self._clock_s()
        prepared, deadline_s, priority = self._received(x, now_s, deadline_ms, priority)
        if self._cached is not None and (answer := self._cached(prepared)) is not None:
            self._side.count("cached")
            future: Future[Any] = Future()
            future.set_result(answer)
            return future
        return host.submit(prepared, now_s, deadline_s, priority)

    @property
    def is_usable(self) -> bool:
        """Whether it takes requests: it runs, and in this process. Costs next to nothing."""
        host = self._host
        return host is not None and self._process_id == os.getpid() and host.is_usable

    def stats(self) -> EngineStats:
        """What the engine has done since it was made."""
        host = self._host
        if host is not None:
            return host.stats()
        parts = self._parts
        return engine_stats(
            parts.core.counts, self._side.read(), parts.timings, n_queued=0, n_coming=0
        )

    # ── start and end ───────────────────────────────────────────────────────────────────────

    def start(self) -> Self:
        """Live on a worker thread.

        Raises:
            ConflictError: It runs already.
        """
        with self._start_lock:
            self._check_can_start()
            host = self._host = ThreadHost(self._parts)
            # Not at exit: then the host ends itself.
            self._letting_go = weakref.finalize(self, host.let_go)
            self._letting_go.atexit = False
        return self

    async def astart(self) -> Self:
        """Live on the running event loop.

        Raises:
            ConflictError: It runs already, here or on another loop.
        """
        with self._start_lock:
            self._check_can_start()
            self._host = LoopHost(
                self._parts,
                loop=asyncio.get_running_loop(),
                placement=Placement(is_inline=self._is_inline),
            )
        return self

    def close(self, *, drain: bool = True, timeout_s: float | None = None) -> None:
        """Take nothing more, answer (or, without `drain`, cancel) what waits, and end.

        Args:
            drain: Answer what waits.
            timeout_s: Leave a batch that runs longer than so many seconds to itself, its requests
                ended without an answer; None waits for ever.

        Raises:
            ConflictError: Called on a thread that has to do the work: there use `aclose`.
        """
        host = self._host
        if host is not None and self._process_id == os.getpid():
            host.close(drain=drain, timeout_s=timeout_s)
        self._leave(host)

    async def aclose(self, *, drain: bool = True, timeout_s: float | None = None) -> None:
        """As `close`, without stopping the event loop meanwhile."""
        host = self._host
        if isinstance(host, LoopHost) and host.loop is asyncio.get_running_loop():
            try:
                await host.aclose(drain=drain, timeout_s=timeout_s)
            finally:
                self._leave(host)
        else:
            await asyncio.to_thread(self.close, drain=drain, timeout_s=timeout_s)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(drain=error is None, timeout_s=None if error is None else GRACE_S)

    async def __aenter__(self) -> Self:
        return await self.astart()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose(drain=error is None, timeout_s=None if error is None else GRACE_S)

    # ── inside ──────────────────────────────────────────────────────────────────────────────

    def _received(
        self, x: Any, now_s: float, deadline_ms: float | None, priority: int
    ) -> tuple[Any, float | None, int]:
        """A request as `run_batch` takes it, when it must be answered, and how soon it goes."""
        if type(priority) is not int:
            priority = _whole(priority)
        limit_s = self._latency_s if deadline_ms is None else _seconds_of(deadline_ms)
        deadline_s = None if limit_s is None else now_s + limit_s
        if self._prepare is None:
            return x, deadline_s, priority
        try:
            return self._prepare(x), deadline_s, priority
        except Exception:
            self._side.count("malformed")
            raise

    def _running_host(self) -> "LoopHost | ThreadHost":
        if self._process_id != os.getpid():
            raise NotReadyError(
                "The engine was started in the process that this one was forked from; its threads "
                "are not here. Make a new engine in each process."
            )
        if self._host is None:
            self._side.count("closed")
            raise closed_error()
        return self._host

    def _check_can_start(self) -> None:
        host = self._host
        if isinstance(host, LoopHost) and host.loop.is_closed():
            host.abandon()
            host = self._host = None
        if host is not None:
            raise ConflictError(
                "The engine runs already. Close it first, or make another one: an engine lives on "
                "one event loop or one worker thread at a time."
            )
        self._process_id = os.getpid()

    def _after_fork(self) -> None:
        self._start_lock = threading.Lock()

    def _leave(self, host: "LoopHost | ThreadHost | None") -> None:
        with self._start_lock:
            if self._host is host:
                self._host = None
                if isinstance(host, ThreadHost):
                    self._letting_go.detach()


def _whole(priority: Any) -> int:
    try:
        return operator.index(priority)
    except TypeError as error:
        raise ConfigError(f"priority must be a whole number, got {priority!r}.") from error


def _seconds_of(deadline_ms: Any) -> float:
    try:
        limit_s = float(deadline_ms / MS_PER_S)
    except (TypeError, ValueError, OverflowError):
        limit_s = math.nan
    if math.isnan(limit_s):
        raise ConfigError(f"deadline_ms must be a number of milliseconds, got {deadline_ms!r}.")
    return limit_s
