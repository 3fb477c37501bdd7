"""`InferenceOptimizer`: one module, served as fast as measured backends allow."""

import asyncio
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, overload

import numpy as np
import torch
from torch import nn

from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import ConfigError, ExampleInputRequiredError, InputError
from modelyard.inference_optimizer import tuning
from modelyard.inference_optimizer.answers import to_array
from modelyard.inference_optimizer.backends import Backend, make_eager
from modelyard.inference_optimizer.cache import AnswerCache
from modelyard.inference_optimizer.devices import (
    device_named,
    finished,
    gpu_memory_mb,
    gpu_utilization,
    memory_mb,
)
from modelyard.inference_optimizer.engine import Engine
from modelyard.inference_optimizer.joining import Item, item_of, lean_rows
from modelyard.inference_optimizer.predicting import Predictor
from modelyard.inference_optimizer.records import (
    Benchmark,
    CacheStats,
    Optimization,
    PerformanceStats,
)
from modelyard.inference_optimizer.serving import Serving, form_of
from modelyard.inference_optimizer.streaming import Failure, streamed
from modelyard.inference_optimizer.targets import TargetCheck, Targets, checked
from modelyard.torchtools.inputs import Inputs, resolve_example, with_batch
from modelyard.torchtools.parity import map_tensors
from modelyard.torchtools.signature import noted_signature
from modelyard.torchtools.timing import summarized, time_calls

_MAX_QUEUE = 10_000


class InferenceOptimizer(Predictor):
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
        if batch_size < 1:
            raise ConfigError(f"batch_size must be 1 or more, got {batch_size}.")
        if not tolerance >= 0 or (max_latency_ms is not None and not max_latency_ms > 0):
            raise ConfigError(
                f"tolerance must be 0 or more and max_latency_ms above 0, got {tolerance} and "
                f"{max_latency_ms}."
            )
        if cache_size < 0 or (cache_ttl_s is not None and not cache_ttl_s > 0):
            raise ConfigError(
                f"cache_size must be 0 (off) or more and cache_ttl_s above 0, got {cache_size} "
                f"and {cache_ttl_s}."
            )
        if backend not in {"auto", *tuning.BACKENDS}:
            known = ", ".join(("auto", *tuning.BACKENDS))
            raise ConfigError(f"backend {backend!r} is not one of {known}.")
        super().__init__(batch_size=batch_size, tolerance=tolerance, seed=seed or 0)
        self.device = device_named(device)
        self._use_amp = use_amp
        self._backend = backend
        self._max_latency_ms = max_latency_ms
        clock = clock or SystemClock()
        self._cache = AnswerCache(cache_size, ttl_s=cache_ttl_s, now_s=clock.monotonic_s)
        self._example: Inputs | None = None
        self._engine: Engine | None = None
        self._engine_lock = threading.Lock()  # guards the making and closing of the engine
        if model is not None:
            self.set_model(model)

    # ── the model ───────────────────────────────────────────────────────────────────────────

    @property
    def model(self) -> nn.Module | None:
        """The module that answers, or None."""
        return None if self._serving is None else self._serving.model

    def set_model(self, model: nn.Module) -> None:
        """Serve `model` from now on; calls that run finish with the one before.

        Answers cached for the one before are forgotten, and so is its backend: call
        `optimize_for_inference` again. Weights that are changed in place are not noticed: set the
        model again after that.

        Raises:
            ConfigError: `model` is no module.
        """
        serving = self._made(model)
        with self._serving_lock:
            self._serving = serving

    def swap(self, model: nn.Module, example_input: Any = None) -> Optimization:
        """Replace the model under load, once the new one has been made ready beside it.

        Backends are measured for the new model if they were for the one before, and each batch
        size is computed once, before it gets its first request. No call fails or waits.

        Args:
            model: The new module.
            example_input: An input it takes; by default the one given for the model before, or
                one inferred from the layers.

        Returns:
            What serves now, as `optimize_for_inference` tells it.

        Raises:
            ConfigError: `model` is no module, or the backend asked for cannot serve it.
            InputError: It does not run on the example; the model before goes on serving.
        """
        serving = self._made(model)
        before = self._serving
        given = self._example if example_input is None else example_input
        if before is not None and before.form is not None:
            serving, found = self._tuned(serving, given)
        else:
            found = self._kept_eager("backends were not measured for the model before")
        self._warm_up(serving, given)
        with self._serving_lock:
            self._serving = serving
        return found

    def optimize_for_inference(self, example_input: Any = None) -> Optimization:
        """Measure the backends and use the fastest whose answers equal eager's.

        Args:
            example_input: Tensor, or tuple or dict of tensors, batch first; by default inferred
                from the layers. If none can be, eager stays and the result says why.

        Returns:
            What was tried, and why each loser lost.

        Raises:
            NotReadyError: There is no model.
            InputError: The model does not run on `example_input`.
            ConfigError: The backend asked for by name cannot serve this model.
        """
        serving = self._current()
        tuned, found = self._tuned(serving, example_input)
        self._change(
            serving,
            by_batch=tuned.by_batch,
            form=tuned.form,
            chunk_size=tuned.chunk_size,
            cache=tuned.cache,
        )
        return found

    # ── inside: what serves ─────────────────────────────────────────────────────────────────

    def _made(self, model: nn.Module) -> Serving:
        if not isinstance(model, nn.Module):
            raise ConfigError(f"model must be an nn.Module, got {type(model).__name__}.")
        model.eval().to(self.device)
        floats = (p.dtype for p in model.parameters() if p.is_floating_point())
        return Serving(
            model=model,
            eager=make_eager(model, torch.empty(0), self.device),
            cache=self._cache.renewed(),
            signature=noted_signature(model),
            float_dtype=next(floats, torch.float32),
        )

    def _warm_up(self, serving: Serving, given: Any) -> None:
        try:
            example = resolve_example(serving.model, given)
        except ExampleInputRequiredError:
            return  # its first request warms it up
        for n in {1, *serving.by_batch}:
            serving.run(with_batch(example, n))

    def _tuned(self, serving: Serving, example_input: Any) -> tuple[Serving, Optimization]:
        """The same module with its fastest backends, and what was measured."""
        try:
            example = resolve_example(serving.model, example_input)
        except ExampleInputRequiredError as error:
            return serving, self._kept_eager(str(error))
        self._example = example
        makers = tuning.makers_for(serving.model, self.device, use_amp=self._use_amp)
        if self._backend != "auto":
            makers = {name: make for name, make in makers.items() if name == self._backend}
        choice = tuning.chosen(
            serving.model,
            example,
            self.device,
            makers,
            batch_sizes=sorted({1, self.batch_size}),
            tolerance=self._tolerance,
            seed=self._seed,
        )
        by_batch = dict(choice.by_batch)
        if self._backend not in {"auto", "eager"}:
            by_batch = self._forced(choice)
        # Answers of another backend differ within the tolerance: the cache starts anew.
        cache = serving.cache.renewed(serving.cache.max_size)
        tuned = replace(serving, by_batch=by_batch, form=form_of(example), cache=cache)
        return tuned, {
            "backend": by_batch[1].name,
            "backend_by_batch": {str(n): backend.name for n, backend in by_batch.items()},
            "candidates": choice.candidates,
            "reason": "" if makers else "no other backend runs this model here",
            "tolerance": self._tolerance,
            "device": str(self.device),
        }

    def _kept_eager(self, reason: str) -> Optimization:
        return {
            "backend": "eager",
            "backend_by_batch": {"1": "eager"},
            "candidates": [],
            "reason": f"eager is kept: {reason}",
            "tolerance": self._tolerance,
            "device": str(self.device),
        }

    def _forced(self, choice: tuning.Choice) -> dict[int, Backend]:
        """The backend the caller asked for, whatever its speed."""
        row = next((c for c in choice.candidates if c["name"] == self._backend), None)
        if row is None or not row["latency_ms"]:
            why = "it does not run this model on this device" if row is None else row["reason"]
            raise ConfigError(f"backend={self._backend!r} cannot serve this model: {why}.")
        return dict.fromkeys(choice.by_batch, choice.made[self._backend])

    # ── streams and the engine ──────────────────────────────────────────────────────────────

    @overload
    def predict_streaming(  # type: ignore[overload-overlap]  # an iterator is told from the rest
        self,
        x_list: Iterator[Any],
        return_numpy: bool = ...,  # noqa: FBT001 - the design document's signature
        *,
        exact: bool = ...,
    ) -> Iterator[Any]: ...

    @overload
    def predict_streaming(
        self,
        x_list: Iterable[Any],
        return_numpy: bool = ...,  # noqa: FBT001 - the design document's signature
        *,
        exact: bool = ...,
    ) -> list[Any]: ...

    def predict_streaming(
        self,
        x_list: Iterable[Any],
        return_numpy: bool = False,  # noqa: FBT001, FBT002 - the design document's signature
        *,
        exact: bool = False,
    ) -> list[Any] | Iterator[Any]:
        """The answer to each input, in order, computed in chunks.

        Inputs of equal shape are joined along the batch. That this gives the same answers is
        checked once for every shape; where it does not, they are computed one by one. While one
        chunk is computed the next is taken from `x_list`.

        Args:
            x_list: Inputs as `predict` takes them. An iterator is read as its answers are asked
                for, at most two chunks of `batch_size` ahead; a feed whose next item waits for
                the last answer is what `predict` is for.
            return_numpy: Arrays instead of tensors.
            exact: Compute one input at a time, so that each equals `predict` bit for bit.

        Returns:
            A list; for an iterator, an iterator.

        Raises:
            NotReadyError: There is no model.
            InputError: The model does not take one of the inputs; raised in its place, after
                the answers to those before.
        """
        serving = self._current()
        answers = streamed(
            x_list,
            lambda xs: self._stream_chunk(xs, exact=exact),
            chunk_size=min(serving.chunk_size or self.batch_size, self.batch_size),
        )
        if return_numpy:
            answers = (map_tensors(answer, to_array) for answer in answers)
        return answers if isinstance(x_list, Iterator) else list(answers)

    def _stream_chunk(self, xs: Sequence[Any], *, exact: bool) -> list[Any]:
        """Answers to several inputs; up to the first that fails, and its error."""
        serving = self._current()
        try:
            items = [item_of(x, serving, is_copied=False) for x in xs]
            return self._joined_items(serving, items, exact=exact, look_up=True)
        except InputError as error:
            if len(xs) == 1:
                return [Failure(error)]
        answers: list[Any] = []
        for x in xs:
            answers += self._stream_chunk([x], exact=exact)
            if isinstance(answers[-1], Failure):
                break
        return answers

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
        has_cache = self._current().cache.max_size > 0
        return Engine(
            self._engine_batch,
            prepare=self._prepared,
            cached=self._item_from_cache if has_cache else None,
            max_batch=self.batch_size,
            max_queue=max_queue,
            max_latency_ms=self._max_latency_ms if max_latency_ms is None else max_latency_ms,
            clock=SystemClock(),
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
            if self._engine is None:
                self._engine = self.engine().start()
            engine = self._engine
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
        serving = self._serving or self._current()
        if type(x) is np.ndarray and not serving.cache.max_size and serving.lean(x):
            return x.copy()
        return item_of(x, serving, is_copied=True)

    def _engine_batch(self, waiting: Sequence[Item | np.ndarray[Any, Any]]) -> Sequence[Any]:
        serving = self._current()
        started_s = time.perf_counter()
        rows = lean_rows(serving, waiting) if len(waiting) > 1 else None
        if rows is not None:
            ended_s = time.perf_counter()
            self._latency.add(ended_s - started_s, len(rows), ended_s)
            return rows
        items = [
            item_of(one, serving, is_copied=False) if isinstance(one, np.ndarray) else one
            for one in waiting
        ]
        return self._joined_items(serving, items, exact=False, look_up=False)

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

    # ── figures ─────────────────────────────────────────────────────────────────────────────

    def benchmark(
        self,
        input_shape: Sequence[int],
        num_iterations: int = 1000,
        warmup_iterations: int = 10,
    ) -> Benchmark:
        """Latency of single calls of the backend in use, without the cache.

        Args:
            input_shape: Of each call, batch first; standard normal values.
            num_iterations: Calls measured, 1 or more.
            warmup_iterations: Calls before that.

        Raises:
            NotReadyError: There is no model.
            ConfigError: `num_iterations` below 1.
            InputError: The model does not take this shape.
        """
        if num_iterations < 1:
            raise ConfigError(f"num_iterations must be 1 or more, got {num_iterations}.")
        serving = self._current()
        generator = torch.Generator().manual_seed(self._seed)
        x = torch.randn(tuple(input_shape), generator=generator).to(self.device)
        serving.run(x)
        durations = time_calls(
            lambda: finished(serving.run(x)), n=num_iterations, warmup=warmup_iterations
        )
        samples = int(input_shape[0]) if input_shape else 1
        return {
            **summarized(durations, items_per_call=samples),
            "memory_mb": memory_mb(self.device),
        }

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
