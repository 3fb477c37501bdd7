"""`InferenceOptimizer`: one module, served as fast as measured backends allow."""

import asyncio
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import (
    ConfigError,
    ExampleInputRequiredError,
    InputError,
    NotReadyError,
)
from modelyard.inference_optimizer import tuning
from modelyard.inference_optimizer.answers import (
    concatenated,
    given_back,
    is_repeatable,
    joined,
    n_samples,
    runs_of_same_form,
    sample_of,
    split,
    to_array,
)
from modelyard.inference_optimizer.backends import make_eager
from modelyard.inference_optimizer.cache import AnswerCache, key_of
from modelyard.inference_optimizer.devices import (
    device_named,
    finished,
    gpu_utilization,
    memory_mb,
)
from modelyard.inference_optimizer.engine import BatchingEngine
from modelyard.inference_optimizer.latency import LatencyRecord
from modelyard.inference_optimizer.records import (
    Benchmark,
    CacheStats,
    Optimization,
    PerformanceStats,
)
from modelyard.inference_optimizer.serving import Serving, form_of
from modelyard.torchtools.inputs import (
    Inputs,
    as_inputs,
    batch_size,
    mapped,
    resolve_example,
    synthetic_like,
)
from modelyard.torchtools.onnx_module import OnnxModule
from modelyard.torchtools.parity import map_tensors
from modelyard.torchtools.signature import check_input, noted_signature
from modelyard.torchtools.timing import summarized, time_calls

_logger = logging.getLogger("modelyard")
_MAX_QUEUE = 10_000


class InferenceOptimizer:
    """Serves a module: the fastest equal backend, an exact cache, batches, statistics.

    The module is put in eval mode and moved to the device. Thread-safe: what answers is one
    immutable object that is replaced as a whole; counters have locks of their own.

    Args:
        model: The module; may be attached later by `set_model`.
        device: "auto" (a GPU if there is one), "cpu", "cuda", "cuda:1". Without a GPU "cuda" runs
            on the CPU, with a warning.
        batch_size: Largest batch that `predict_batch`, `predict_streaming` and the engine compute.
        use_amp: Admit reduced precision beyond `tolerance` where it is faster.
        cache_size: Answers kept; 0 turns the cache off.
        backend: "auto", or the one that `optimize_for_inference` has to use.
        tolerance: Bound on a backend's difference from eager, as part of the output's size.
        max_latency_ms: Deadline of requests to the engine, in milliseconds; None for none.
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
        if cache_size < 0:
            raise ConfigError(f"cache_size must be 0 (off) or more, got {cache_size}.")
        if backend not in {"auto", *tuning.BACKENDS}:
            known = ", ".join(("auto", *tuning.BACKENDS))
            raise ConfigError(f"backend {backend!r} is not one of {known}.")
        self.device = device_named(device)
        self.batch_size = batch_size
        self._use_amp = use_amp
        self._cache_size = cache_size
        self._backend = backend
        self._tolerance = tolerance
        self._max_latency_ms = max_latency_ms
        self._clock = clock or SystemClock()
        self._seed = seed or 0
        self._latency = LatencyRecord(self._clock)
        self._serving: Serving | None = None
        self._serving_lock = threading.Lock()  # guards the replacing of _serving, not its reading
        self._engine: BatchingEngine | None = None
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
        if not isinstance(model, nn.Module):
            raise ConfigError(f"model must be an nn.Module, got {type(model).__name__}.")
        model.eval().to(self.device)
        eager = make_eager(model, torch.empty(0), self.device)
        serving = Serving(
            model=model,
            eager=eager,
            cache=AnswerCache(self._cache_size),
            signature=noted_signature(model),
        )
        with self._serving_lock:
            self._serving = serving

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
        try:
            example = resolve_example(serving.model, example_input)
        except ExampleInputRequiredError as error:
            return self._kept_eager(str(error))
        choice = tuning.chosen(
            serving.model,
            example,
            self.device,
            asked=self._backend,
            use_amp=self._use_amp,
            tolerance=self._tolerance,
            batch_sizes=tuning.sizes_that_matter(self.batch_size),
            seed=self._seed,
        )
        # Answers of another backend differ within the tolerance: the cache starts anew.
        cache = AnswerCache(serving.cache.max_size)
        self._change(serving, by_batch=choice.by_batch, form=form_of(example), cache=cache)
        return choice.to_optimization()

    # ── predicting ──────────────────────────────────────────────────────────────────────────

    def predict(self, x: Any) -> Any:
        """The model's answer to one input.

        Args:
            x: Tensor or array as the model takes it (or tuple or dict of them), batch first.
                Arrays of float64 are given to the model in its own precision.

        Returns:
            Tensors for tensors, on the input's device; arrays for arrays. Yours to change.

        Raises:
            NotReadyError: There is no model.
            InputError: The model does not take this input.
        """
        serving = self._current()
        started = time.perf_counter()
        inputs, is_array = self._taken(x, serving)
        key = key_of(inputs) if serving.cache.max_size else None
        answer = None if key is None else serving.cache.get(key)
        if answer is None:
            answer = serving.run(inputs)
            if key is not None:
                self._remember(serving, key, inputs, answer)
        else:
            answer = map_tensors(answer, torch.clone)
        self._latency.add(time.perf_counter() - started, n_samples=n_samples(inputs))
        return given_back(answer, inputs, as_arrays=is_array)

    def predict_batch(self, x_batch: Any, *, exact: bool = False) -> Any:
        """Answers to many samples, computed `batch_size` at a time, in order.

        Where a sample's answer depends on its neighbours, an int8 graph, which quantizes
        activations over the whole batch, computes them one at a time; any other module gets the
        whole batch at once, since its first dimension may not be the batch at all.

        Args:
            x_batch: As for `predict`, any number of samples.
            exact: Compute one sample at a time, so that each equals `predict` bit for bit.

        Raises:
            NotReadyError: There is no model.
            InputError: The model does not take this input, it holds no sample, or the first
                dimension of the answers is not the batch.
        """
        serving = self._current()
        inputs, is_array = self._taken(x_batch, serving)
        n = batch_size(inputs)
        if n == 0:
            raise InputError("x_batch holds no samples: its first dimension is 0.")
        first_and_last = [sample_of(inputs, i) for i in (0, -1)]
        can_join = n == 1 or self._can_join(serving, first_and_last)
        if exact or (not can_join and isinstance(serving.model, OnnxModule)):
            step = 1
        else:
            # Where samples are not independent, only the whole batch gives what predict would.
            step = self.batch_size if can_join else n
        answers, sizes = [], []
        for start in range(0, n, step):
            stop = min(start + step, n)
            started = time.perf_counter()
            part = mapped(inputs, lambda t, a=start, b=stop: t[a:b])  # type: ignore[misc]  # defaults bind now
            answers.append(serving.run(part))
            sizes.append(stop - start)
            self._latency.add(time.perf_counter() - started, n_samples=n_samples(part))
        return given_back(joined(answers, sizes), inputs, as_arrays=is_array)

    def predict_streaming(
        self,
        x_list: Iterable[Any],
        return_numpy: bool = False,  # noqa: FBT001, FBT002 - the design document's signature
        *,
        exact: bool = False,
    ) -> list[Any]:
        """The answer to each input of a list, in order, computed in batches.

        Inputs of equal shape are joined along the batch. That this gives the same answers is
        checked once for every shape; where it does not, they are computed one by one.

        Args:
            x_list: Inputs as `predict` takes them.
            return_numpy: Arrays instead of tensors.
            exact: Compute one input at a time, so that each equals `predict` bit for bit.

        Raises:
            NotReadyError: There is no model.
            InputError: The model does not take one of the inputs.
        """
        serving = self._current()
        answers = [
            answer
            for run in runs_of_same_form(x_list, longest=self.batch_size)
            for answer in self._many(serving, run, exact=exact)
        ]
        if return_numpy:
            return [map_tensors(answer, to_array) for answer in answers]
        return answers

    # ── the engine ──────────────────────────────────────────────────────────────────────────

    def submit(self, x: Any, *, deadline_ms: float | None = None) -> "Future[Any]":
        """Queue an input for the batching engine; the future gives what `predict` would.

        Starts the engine. `close()`, or leaving `with optimizer:`, answers what is queued.

        Args:
            x: As for `predict`.
            deadline_ms: Milliseconds after which the answer is of no use; `max_latency_ms` by
                default.

        Raises:
            NotReadyError: There is no model.
            QueueFullError: Too many requests wait.
        """
        self._current()
        with self._engine_lock:
            if self._engine is None:
                self._engine = BatchingEngine(
                    self._serve_requests,
                    max_batch=self.batch_size,
                    max_queue=_MAX_QUEUE,
                    clock=SystemClock(),
                )
            engine = self._engine
        limit = self._max_latency_ms if deadline_ms is None else deadline_ms
        return engine.submit(x, deadline_ms=limit)

    async def apredict(self, x: Any, *, deadline_ms: float | None = None) -> Any:
        """As `submit`, for coroutines."""
        return await asyncio.wrap_future(self.submit(x, deadline_ms=deadline_ms))

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
        }

    def get_cache_stats(self) -> CacheStats:
        """How the cache does, since the model was set or optimised."""
        serving = self._serving
        return (AnswerCache(self._cache_size) if serving is None else serving.cache).stats()

    def clear_cache(self) -> None:
        """Forget every cached answer."""
        if self._serving is not None:
            self._serving.cache.clear()

    # ── inside ──────────────────────────────────────────────────────────────────────────────

    def _current(self) -> Serving:
        if self._serving is None:
            raise NotReadyError(
                "There is no model to predict with: pass one to InferenceOptimizer(model=...) or "
                "call set_model(model)."
            )
        return self._serving

    def _change(self, serving: Serving, **changes: Any) -> None:
        """Replace parts of what answers, unless another model was set meanwhile."""
        with self._serving_lock:
            if self._serving is not None and self._serving.eager is serving.eager:
                self._serving = replace(self._serving, **changes)

    def _kept_eager(self, reason: str) -> Optimization:
        return {
            "backend": "eager",
            "backend_by_batch": {"1": "eager"},
            "candidates": [],
            "reason": f"eager is kept: {reason}",
            "tolerance": self._tolerance,
            "device": str(self.device),
            "chunk_size": self.batch_size,
            "is_reused": False,
            "hardware": tuning.hardware_of(self.device),
        }

    def _taken(self, x: Any, serving: Serving) -> tuple[Inputs, bool]:
        """`x` as tensors that fit the model's signature, and whether it came as arrays."""
        inputs, is_array = self._as_tensors(x, serving)
        if serving.signature is not None:
            check_input(serving.signature, inputs)
        return inputs, is_array

    def _as_tensors(self, x: Any, serving: Serving) -> tuple[Inputs, bool]:
        if isinstance(x, torch.Tensor):
            return x, False
        inputs = as_inputs(x)
        parts = x.values() if isinstance(x, dict) else x if isinstance(x, tuple | list) else [x]
        if any(isinstance(part, torch.Tensor) for part in parts):
            return inputs, False
        dtype = next((p.dtype for p in serving.model.parameters() if p.is_floating_point()), None)
        wanted = dtype or torch.float32
        return mapped(inputs, lambda t: t.to(wanted) if t.is_floating_point() else t), True

    def _remember(self, serving: Serving, key: bytes, inputs: Inputs, answer: Any) -> None:
        if not serving.is_checked:
            if not is_repeatable(answer, serving.run(inputs)):
                _logger.warning(
                    "%s gives two answers to one input: the cache is off.",
                    type(serving.model).__name__,
                )
                self._change(serving, is_checked=True, cache=AnswerCache(0))
                return
            self._change(serving, is_checked=True)
        # The caller may change what it gets; the cache keeps a copy of its own.
        serving.cache.put(key, map_tensors(answer, torch.clone))

    def _many(self, serving: Serving, xs: list[Any], *, exact: bool) -> list[Any]:
        taken = [self._taken(x, serving) for x in xs]
        inputs = [pair[0] for pair in taken]
        if len(xs) < 2 or exact or not self._can_join(serving, inputs[:2]):  # noqa: PLR2004 - one needs no joining
            return [self.predict(x) for x in xs]
        started = time.perf_counter()
        sizes = [batch_size(item) for item in inputs]
        answer = serving.run(concatenated(inputs))
        self._latency.add(time.perf_counter() - started, n_samples=sum(sizes))
        parts = split(answer, sizes)
        return [
            given_back(part, item, as_arrays=is_array)
            for part, (item, is_array) in zip(parts, taken, strict=True)
        ]

    def _can_join(self, serving: Serving, inputs: list[Inputs]) -> bool:
        """Whether joining along the first dimension gives what each would alone."""
        form = form_of(inputs[0])
        if form not in serving.joinable:
            # Two of the caller's may be alike; a large neighbour shows what a batch shares.
            bound = max(self._tolerance, 1e-5)
            large = synthetic_like(inputs[1], 2, seed=self._seed, scale=10.0)
            serving.joinable[form] = serving.joins(inputs, bound=bound) and serving.joins(
                [inputs[0], large], bound=bound
            )
        return serving.joinable[form]

    def _serve_requests(self, xs: Sequence[Any]) -> list[Any]:
        serving = self._current()
        return [
            answer
            for run in runs_of_same_form(xs, longest=self.batch_size)
            for answer in self._many(serving, run, exact=False)
        ]
