"""`InferenceOptimizer`: one module, served as fast as measured backends allow."""

import asyncio
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np
import torch
from torch import nn

from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import ConflictError
from modelyard.inference_optimizer.cache import AnswerCache
from modelyard.inference_optimizer.devices import (
    device_named,
    gpu_memory_mb,
    gpu_utilization,
    memory_mb,
)
from modelyard.inference_optimizer.engine import Engine
from modelyard.inference_optimizer.joining import Item, item_for, item_of, lean_rows
from modelyard.inference_optimizer.measured import MeasuredPredictor
from modelyard.inference_optimizer.records import (
    CacheStats,
    PerformanceStats,
)
from modelyard.inference_optimizer.settings import (
    check_backend,
    check_flag,
    check_number,
    whole_number,
)
from modelyard.inference_optimizer.targets import TargetCheck, Targets, checked
from modelyard.torchtools.timing import MS_PER_S

_MAX_QUEUE = 10_000


class InferenceOptimizer(MeasuredPredictor):
    """Serves a module: the fastest equal backend, an exact cache, batches, statistics.

    The module is put in eval mode and moved to the device. Thread-safe: what answers is one
    immutable object that is replaced as a whole; cache and counters have locks of their own.

    Args:
        model: The module; may be attached later by `set_model`.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1". Without a GPU "cuda" runs
            on the CPU, with a warning.
        batch_size: Largest batch that `predict_batch`, `predict_streaming` and engines compute.
        use_amp: Admit reduced precision beyond `tolerance` where it is faster.
        cache_size: Answers kept; 0 turns the cache off.
        backend: "auto", or the one that `optimize_for_inference` has to use.
        tolerance: Bound on a backend's difference from eager, as part of the output's size.
        max_latency_ms: Deadline of requests to engines, in milliseconds; None for none.
        cache_ttl_s: Seconds after which a cached answer is computed anew; None for never.
        store: Taken as every class with state takes it; what is measured here holds for one
            machine and one process, and nothing of it is stored.
        clock: Where the time comes from.
        seed: Of the inputs on which backends are compared.

    Raises:
        ConfigError: A value out of range, or an unknown backend or device.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        device: str = "auto",
        batch_size: int = 32,
        use_amp: bool = False,  # noqa: FBT001, FBT002 - the design document's signature
        cache_size: int = 1000,
        *,
        backend: str = "auto",
        tolerance: float = 1e-5,
        max_latency_ms: float | None = None,
        cache_ttl_s: float | None = None,
        store: Any = None,  # noqa: ARG002 - see the docstring
        clock: Clock | None = None,
        seed: int | None = None,
    ) -> None:
        batch_size = whole_number(batch_size, "batch_size", at_least=1)
        cache_size = whole_number(cache_size, "cache_size", at_least=0, hint=" (off)")
        check_flag(use_amp, "use_amp")
        check_backend(backend)
        check_number(tolerance, "tolerance")
        for name, value in (("max_latency_ms", max_latency_ms), ("cache_ttl_s", cache_ttl_s)):
            if value is not None:
                check_number(value, name, above=0)
        if seed is not None:
            seed = whole_number(seed, "seed", at_least=0)
        clock = clock or SystemClock()
        super().__init__(
            device=device_named(device),
            batch_size=batch_size,
            backend=backend,
            use_amp=use_amp,
            tolerance=tolerance,
            cache=AnswerCache(cache_size, ttl_s=cache_ttl_s, now_s=clock.monotonic_s),
            clock=clock,
            seed=seed or 0,
        )
        self._max_latency_ms = max_latency_ms
        self._engine: Engine | None = None
        self._engine_lock = threading.Lock()  # guards the making and closing of the engine
        if model is not None:
            self.set_model(model)

    # ── the engine ──────────────────────────────────────────────────────────────────────────

    def engine(
        self,
        *,
        max_latency_ms: float | None = None,
        max_queue: int = _MAX_QUEUE,
    ) -> Engine:
        """An engine that answers many callers in batches: `async with optimizer.engine()`.

        Entered with `async with` it lives on the event loop, with `with` on a thread of its own.
        It never waits for a batch to fill, and answers from the cache at once.

        Args:
            max_latency_ms: Deadline of requests that name none, in milliseconds; that of the
                optimizer by default.
            max_queue: How many requests may wait.

        Raises:
            NotReadyError: There is no model.
            ConfigError: A value out of range.
        """
        if max_latency_ms is not None:
            check_number(max_latency_ms, "max_latency_ms", above=0)
        serving = self._current()
        measured = {} if serving.record is None else serving.record.winners
        return Engine(
            self._engine_batch,
            prepare=self._prepared,
            cached=self._item_from_cache if serving.cache.max_size else None,
            max_batch=self.batch_size,
            max_queue=whole_number(max_queue, "max_queue", at_least=1),
            max_latency_ms=self._max_latency_ms if max_latency_ms is None else max_latency_ms,
            clock=SystemClock(),
            service_s={n: winner.latency_ms / MS_PER_S for n, winner in measured.items()},
        )

    def submit(
        self, x: Any, *, deadline_ms: float | None = None, priority: int = 0
    ) -> "Future[Any]":
        """Queue an input for an engine of the optimizer's own; the future gives the answer.

        Starts the engine. `close()`, or leaving `with optimizer:`, answers what is queued.

        Args:
            x: As for `predict`.
            deadline_ms: Milliseconds after which the answer is of no use; `max_latency_ms` by
                default.
            priority: Higher goes first.

        Raises:
            NotReadyError: There is no model.
            InputError: It is no input.
            DeadlineExceededError: It cannot be answered in time.
            QueueFullError: Too many requests wait.
        """
        with self._engine_lock:
            engine = self._engine
            if engine is None or not engine.is_usable:  # as in a child after a fork
                engine = self._engine = self.engine().start()
        return engine.submit(x, deadline_ms=deadline_ms, priority=priority)

    async def apredict(
        self, x: Any, *, deadline_ms: float | None = None, priority: int = 0
    ) -> Any:
        """As `submit`, for coroutines. Where many await, `engine` on their loop costs less."""
        return await asyncio.wrap_future(
            self.submit(x, deadline_ms=deadline_ms, priority=priority)
        )

    def _prepared(self, x: Any) -> Item | np.ndarray[Any, Any]:
        """An input as it waits; of a form that needs nothing else, just a copy."""
        serving = self._serving
        row = None if serving is None else serving.lean_row
        if row and type(x) is np.ndarray and x.shape == row[0] and x.dtype is row[1]:
            return x.copy()
        return item_of(x, self._current(), is_copied=True)

    def _engine_batch(self, waiting: Sequence[Item | np.ndarray[Any, Any]]) -> Sequence[Any]:
        serving = self._current()
        started_s = time.perf_counter()
        rows = lean_rows(serving, waiting) if len(waiting) > 1 else None
        if rows is not None:
            ended_s = time.perf_counter()
            self._latency.add(ended_s - started_s, len(rows), ended_s)
            return rows
        items = [item_for(serving, one) for one in waiting]
        return self._joined_items(serving, items, exact=False, look_up=False)

    def _after_fork(self) -> None:
        super()._after_fork()
        self._engine_lock = threading.Lock()

    def close(self, *, drain: bool = True) -> None:
        """End the engine after answering (or, without `drain`, cancelling) what is queued."""
        with self._engine_lock:
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.close(drain=drain)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        """Neither pickled nor copied: threads, locks and compiled graphs are of this process."""
        raise ConflictError(
            "An InferenceOptimizer cannot be pickled or copied: its threads, locks and compiled "
            "graphs belong to one process. Send the model (optimizer.model) and "
            "optimizer.tuning_record(), make a new InferenceOptimizer(model) there, and call "
            "optimize_for_inference(example, reuse=record)."
        )

    # ── figures ─────────────────────────────────────────────────────────────────────────────

    def get_performance_stats(self) -> PerformanceStats:
        """What the calls so far took."""
        found = self._latency.percentiles_ms()
        return {
            "p50_latency_ms": found["p50"],
            "p95_latency_ms": found["p95"],
            "p99_latency_ms": found["p99"],
            "mean_latency_ms": found["mean"],
            "throughput_qps": self._latency.throughput_qps(),
            "total_predictions": self._latency.n_samples,
            "device": str(self.device),
            "backend": "none" if self._serving is None else self._serving.backend_for(1).name,
            "gpu_utilization": gpu_utilization(self.device),
            "memory_mb": memory_mb(torch.device("cpu")),
            "gpu_memory_mb": gpu_memory_mb(self.device),
        }

    def get_cache_stats(self) -> CacheStats:
        """How the cache does, since the model was set or optimised."""
        serving = self._serving
        return (self._cache if serving is None else serving.cache).stats()

    def clear_cache(self) -> None:
        """Forget every cached answer."""
        if self._serving is not None:
            self._serving.cache.clear()

    def check_targets(self, targets: Targets | None = None) -> list[TargetCheck]:
        """Which targets the service meets, by its statistics so far.

        Args:
            targets: By default 100 ms at the 99th percentile, 100 samples a second, a hit rate of
                80 % and a GPU busy 70 % of the time.
        """
        return checked(targets or Targets(), self.get_performance_stats(), self.get_cache_stats())

    def reset_stats(self) -> None:
        """Count latencies and samples from zero."""
        self._latency.reset()
