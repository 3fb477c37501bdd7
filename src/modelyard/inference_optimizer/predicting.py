"""Single predictions: from the cache, else from the fastest way that was proved."""

import logging
import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from xxhash import xxh3_128_digest

from modelyard._core.errors import NotReadyError
from modelyard._core.forking import call_after_fork
from modelyard.inference_optimizer.answers import given_back, n_samples
from modelyard.inference_optimizer.cache import AnswerCache, Computation
from modelyard.inference_optimizer.examining import Examination, examination
from modelyard.inference_optimizer.joining import lean_answer
from modelyard.inference_optimizer.kept import from_kept, kept, reason_not_to_keep
from modelyard.inference_optimizer.keys import Key, key_of
from modelyard.inference_optimizer.latency import FOLDED_AT, LatencyRecord
from modelyard.inference_optimizer.ordinary import are_ordinary
from modelyard.inference_optimizer.serving import Serving, Way
from modelyard.inference_optimizer.taking import taken
from modelyard.torchtools.inputs import Inputs, mapped, tensors_of

_logger = logging.getLogger("modelyard")
_now_s = time.perf_counter


class Predictor:
    """Answers inputs with whatever serves now.

    Thread-safe: what answers is one immutable object that is replaced as a whole.

    Args:
        batch_size: Largest batch computed at once.
        tolerance: Bound on the difference between an answer computed alone and among others.
        seed: Of the inputs on which that is tried.
    """

    def __init__(self, *, batch_size: int, tolerance: float, seed: int) -> None:
        self.batch_size = batch_size
        self._tolerance = tolerance
        self._seed = seed
        self._latency = LatencyRecord()
        self._serving: Serving | None = None
        self._serving_lock = threading.Lock()  # guards the replacing of _serving, not its reading
        self._examining = threading.RLock()  # one thread looks at a new model, others wait for it
        call_after_fork(self._after_fork)

    def predict(self, x: Any) -> Any:  # noqa: C901 - calls of Python are what an answer costs
        """The model's answer to one input.

        Args:
            x: Tensor or array as the model takes it (or tuple or dict of them), batch first.
                Arrays of another floating-point type are given to the model in its own.

        Returns:
            Tensors for tensors, on the input's device; arrays for arrays. Yours to change.

        Raises:
            NotReadyError: There is no model.
            InputError: The model does not take this input; says what it does take.
        """
        serving = self._serving or self._current()
        started_s = _now_s()
        is_array = type(x) is np.ndarray
        cache = serving.cache
        array: Any = x
        if not is_array:
            if not cache.max_size and type(x) is torch.Tensor:
                try:
                    way = serving.ways.get((x.dtype, x.shape))
                except RuntimeError:  # a nested one has no shape
                    way = None
                if way is not None:
                    return self._by(way, serving, x, started_s)
            array = _shared(x) if cache.max_size or serving.takes_arrays else None
        letter = None if array is None else serving.letters.get(array.dtype)
        if letter is None or array.ndim < 2:  # noqa: PLR2004 - no batch to count
            return self._predict_any(serving, x, started_s)
        key = answer = None
        if cache.max_size:
            try:
                key = (xxh3_128_digest(array), array.shape, letter)
            except ValueError:  # not contiguous
                return self._predict_any(serving, x, started_s)
            answer = cache.get(key)
        if answer is None:
            answer = self._computed(serving, x, array, key)
        elif type(answer) is np.ndarray:
            answer = answer.copy() if is_array else torch.from_numpy(answer.copy())
        else:
            answer = from_kept(answer, x, as_arrays=is_array)
        ended_s = _now_s()
        calls = self._latency.buffer
        calls.append((ended_s, ended_s - started_s, len(array)))
        if len(calls) >= FOLDED_AT:
            self._latency.fold()
        return answer

    # ── one input ───────────────────────────────────────────────────────────────────────────

    def _by(self, way: Way, serving: Serving, x: torch.Tensor, started_s: float) -> Any:
        """As `predict` without a cache, for a tensor like one that was answered before."""
        backend, n = way
        answer = given_back(serving.answer(backend, x), x, as_arrays=False)
        ended_s = _now_s()
        self._latency.add(ended_s - started_s, n, ended_s)
        return answer

    def _predict_any(self, serving: Serving, x: Any, started_s: float) -> Any:
        """As `predict`, for whatever is no plain array or tensor in the model's own type."""
        inputs, is_array = taken(x, serving)
        if are_ordinary(inputs):
            key = key_of(inputs) if serving.cache.max_size else None
            answer = self._finished(serving, inputs, key, as_arrays=is_array)
            if not serving.cache.max_size:
                serving.learn_way(x)
        else:
            answer = self._by_module(serving, inputs)
        ended_s = _now_s()
        self._latency.add(ended_s - started_s, n_samples(inputs), ended_s)
        return answer

    def _by_module(self, serving: Serving, inputs: Inputs) -> Any:
        """The answer to what no graph takes and nothing can be learnt from, as sparse tensors."""
        own = inputs if serving.is_checked else mapped(inputs, torch.clone)
        return given_back(serving.answer(serving.eager, own), inputs, as_arrays=False)

    def _computed(
        self, serving: Serving, x: Any, array: np.ndarray[Any, Any], key: Key | None
    ) -> Any:
        """The answer to a plain array, or to the plain tensor it shares its memory with."""
        run_array = serving.lean(array) if serving.is_checked else None
        if run_array is None:
            inputs, is_array = taken(x, serving)
            return self._finished(serving, inputs, key, as_arrays=is_array)
        is_array = array is x
        answer: Any
        if key is None or not serving.cache.max_size:
            answer = lean_answer(serving, run_array, array)
            return answer if is_array else torch.from_numpy(answer)
        computation, to_keep = Computation(), None
        try:
            answer = serving.cache.begin(key, computation)
            if answer is not None:
                return from_kept(answer, torch.empty(0), as_arrays=is_array)
            answer = lean_answer(serving, run_array, array)
            to_keep = answer.copy()
        finally:
            serving.cache.end(key, computation, to_keep)
        return answer if is_array else torch.from_numpy(answer)

    def _finished(
        self, serving: Serving, inputs: Inputs, key: Key | None, *, as_arrays: bool
    ) -> Any:
        """The answer as the caller gets it, kept where it may be."""
        serving, first = self._examined(serving, inputs)
        if key is None or not serving.has_cache:
            answer = serving.run(inputs) if first is None else first
            return given_back(answer, inputs, as_arrays=as_arrays)
        computation, to_keep = Computation(), None
        try:
            answer = serving.cache.begin(key, computation)
            if answer is not None:
                return from_kept(answer, inputs, as_arrays=as_arrays)
            answer = serving.run(inputs) if first is None else first
            to_keep = kept(answer)
        finally:
            serving.cache.end(key, computation, to_keep)
        return given_back(answer, inputs, as_arrays=as_arrays)

    # ── what serves ─────────────────────────────────────────────────────────────────────────

    def _current(self) -> Serving:
        serving = self._serving
        if serving is None:
            raise NotReadyError(
                "There is no model to predict with: pass one to InferenceOptimizer(model=...) or "
                "call set_model(model)."
            )
        return serving

    def _examined(self, serving: Serving, inputs: Inputs) -> tuple[Serving, Any]:
        """What serves, once the model was looked at on a first input, and its answer to that."""
        if serving.is_checked or not are_ordinary(inputs) or _is_empty(inputs):
            return serving, None
        with self._examining:
            now = self._serving
            if now is not None and now.eager is serving.eager and now.is_checked:
                return now, None
            seen = _seen(serving, inputs)
            if seen is None:
                return serving, None
            return self._settled(serving, seen), seen.answer

    def _settled(self, serving: Serving, seen: Examination) -> Serving:
        """What serves, with what was seen of the model."""
        with self._serving_lock:
            now = self._serving
            if now is None or now.eager is not serving.eager:
                # Another model was set meanwhile; this call ends with its own.
                return _as_seen(serving, seen)
            self._serving = examined = _as_seen(now, seen)
        _warn_of(serving, seen)
        return examined

    def _looked_at(self, serving: Serving, trial: Serving, inputs: Inputs) -> Serving:
        """What is to serve, after a look at the model before anybody's first input.

        Args:
            serving: What is to serve.
            trial: The same, with the module or a copy that may run on `inputs`.
            inputs: What to look at it on.
        """
        seen = _seen(trial, inputs)
        if seen is None:
            return serving
        _warn_of(serving, seen)
        return _as_seen(serving, seen)

    def _after_fork(self) -> None:
        """In a child: whoever was looking at a model is not here, and nobody holds a lock."""
        self._serving_lock = threading.Lock()
        self._examining = threading.RLock()


def _is_empty(inputs: Inputs) -> bool:
    """Whether there is no sample in it, so that nothing shows of the model."""
    with_dimensions = [tensor for tensor in tensors_of(inputs) if tensor.ndim]
    return bool(with_dimensions) and not any(tensor.numel() for tensor in with_dimensions)


def _seen(serving: Serving, inputs: Inputs) -> Examination | None:
    """What a first input shows of the model."""
    seen = examination(serving, inputs)
    if seen is not None and not seen.reason_not_to_cache:
        seen = replace(seen, reason_not_to_cache=reason_not_to_keep(seen.answer))
    return seen


def _as_seen(serving: Serving, seen: Examination) -> Serving:
    """The same, served as what was seen of the model demands."""
    is_kept = not seen.reason_not_to_cache
    return replace(
        serving,
        is_checked=True,
        writes_inputs=seen.writes_inputs,
        writes_weights=seen.writes_weights or bool(serving.writes_weights),
        cache=serving.cache if is_kept else AnswerCache(0),
    )


def _warn_of(serving: Serving, seen: Examination) -> None:
    """Say that the cache is off, to whoever asked for one."""
    if seen.reason_not_to_cache and serving.cache.max_size:
        name = type(serving.model).__name__
        _logger.warning("%s %s: the cache is off.", name, seen.reason_not_to_cache)


def _shared(x: Any) -> np.ndarray[Any, Any] | None:
    """An array over a plain tensor's memory; None for what needs a closer look."""
    if type(x) is torch.Tensor and not x.requires_grad and x.is_cpu:
        try:
            array: np.ndarray[Any, Any] = x.numpy()
        except (TypeError, RuntimeError):
            return None  # NumPy has no such type
        return array
    return None
