"""Single predictions and batches: from the cache, else from the fastest way that was proved."""

import logging
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, overload

import numpy as np
import torch
from xxhash import xxh3_128_digest

from modelyard._core.errors import InputError, NotReadyError
from modelyard.inference_optimizer.answers import (
    given_back,
    joined,
    n_samples,
    sample_of,
    to_array,
)
from modelyard.inference_optimizer.cache import AnswerCache, Computation
from modelyard.inference_optimizer.examining import Examination, examination
from modelyard.inference_optimizer.joining import Item, can_join, computed, item_of, lean_answer
from modelyard.inference_optimizer.kept import as_tensors, from_kept, kept, kept_rows
from modelyard.inference_optimizer.keys import Key, key_of, keys_of_samples
from modelyard.inference_optimizer.latency import FOLDED_AT, LatencyRecord
from modelyard.inference_optimizer.serving import Serving, Way
from modelyard.inference_optimizer.streaming import Failure, streamed
from modelyard.inference_optimizer.taking import taken
from modelyard.torchtools.inputs import Inputs, batch_size, mapped
from modelyard.torchtools.onnx_module import OnnxModule
from modelyard.torchtools.parity import map_tensors

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

    def predict(self, x: Any) -> Any:
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
        # Written out in one piece: calls of Python are what a cached answer costs.
        serving = self._serving or self._current()
        started_s = _now_s()
        is_array = type(x) is np.ndarray
        cache = serving.cache
        array: Any = x
        if not is_array:
            if not cache.max_size and type(x) is torch.Tensor:
                way = serving.ways.get((x.dtype, x.shape))
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
            answer = answer.copy()
        else:
            answer = from_kept(answer, x, as_arrays=is_array)
        ended_s = _now_s()
        calls = self._latency.buffer
        calls.append((ended_s, ended_s - started_s, len(array)))
        if len(calls) >= FOLDED_AT:
            self._latency.fold()
        return answer if is_array or type(answer) is not np.ndarray else torch.from_numpy(answer)

    def predict_batch(self, x_batch: Any, *, exact: bool = False) -> Any:
        """Answers to many samples in order; those that are cached are not computed.

        The rest is computed in the chunks that measured fastest, `batch_size` at most. Where a
        sample's answer depends on its neighbours, an int8 graph, which quantizes activations over
        the whole batch, computes them one at a time; any other module gets the whole batch at
        once, since its first dimension may not be the batch at all.

        Args:
            x_batch: As for `predict`, any number of samples.
            exact: Compute one sample at a time, so that each equals `predict` bit for bit.

        Raises:
            NotReadyError: There is no model.
            InputError: The model does not take this input, it holds no sample, or the first
                dimension of the answers is not the batch.
        """
        serving = self._current()
        inputs, is_array = taken(x_batch, serving)
        n = batch_size(inputs)
        if n == 0:
            raise InputError("x_batch holds no samples: its first dimension is 0.")
        first_and_last = [sample_of(inputs, i) for i in (0, -1)]
        serving, _ = self._examined(serving, first_and_last[0])
        if n == 1 or self._can_join(serving, first_and_last):
            answer = self._samples(serving, inputs, n, exact=exact)
        else:
            # Where samples are not independent, only the whole batch gives what predict would.
            is_alone = exact or isinstance(serving.model, OnnxModule)
            answer = self._in_chunks(serving, inputs, n, 1 if is_alone else n)
        return given_back(answer, inputs, as_arrays=is_array)

    # ── streams ─────────────────────────────────────────────────────────────────────────────

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
        key = key_of(inputs) if serving.cache.max_size else None
        answer = self._finished(serving, inputs, key, as_arrays=is_array)
        if not serving.cache.max_size:
            serving.learn_way(x)
        ended_s = _now_s()
        self._latency.add(ended_s - started_s, n_samples(inputs), ended_s)
        return answer

    def _computed(
        self, serving: Serving, x: Any, array: np.ndarray[Any, Any], key: Key | None
    ) -> Any:
        """The answer to a plain array, or to the plain tensor it shares its memory with.

        An array where the shortest way was taken or such a one was kept.
        """
        run_array = serving.lean(array) if serving.is_checked else None
        if run_array is None:
            inputs, is_array = taken(x, serving)
            return self._finished(serving, inputs, key, as_arrays=is_array)
        if key is None or not serving.cache.max_size:
            return lean_answer(serving, run_array, array)
        computation, to_keep = Computation(), None
        try:
            answer = serving.cache.begin(key, computation)
            if answer is not None:
                return from_kept(answer, torch.empty(0), as_arrays=True)
            answer = lean_answer(serving, run_array, array)
            to_keep = answer.copy()
        finally:
            serving.cache.end(key, computation, to_keep)
        return answer

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

    # ── many ────────────────────────────────────────────────────────────────────────────────

    def _samples(self, serving: Serving, inputs: Inputs, n: int, *, exact: bool) -> Any:
        """Answers to independent samples as one; those in the cache are not computed."""
        started_s = _now_s()
        keys = keys_of_samples(inputs, n) if serving.has_cache else None
        found = {} if keys is None else serving.cache.get_many(keys, alone=exact)
        if keys is None or not found:
            wanted: list[int] = list(range(n))
            part = inputs
        else:
            wanted = list({key: i for i, key in enumerate(keys) if key not in found}.values())
            part = mapped(inputs, lambda tensor: tensor[wanted])
        step = 1 if exact else min(serving.chunk_size or self.batch_size, self.batch_size)
        answer = self._in_chunks(serving, part, len(wanted), step) if wanted else None
        if keys is None:
            return answer
        if answer is not None:
            rows = kept_rows(answer, len(wanted))
            fresh = dict(zip((keys[i] for i in wanted), rows, strict=True))
            kept_last = dict(list(fresh.items())[-serving.cache.max_size :])
            serving.cache.put_many(kept_last, alone=step == 1)
            if not found:
                return answer
            found |= fresh
        ended_s = _now_s()
        self._latency.add(ended_s - started_s, n - len(wanted), ended_s)
        return joined([as_tensors(found[key]) for key in keys], [1] * n)

    def _in_chunks(self, serving: Serving, inputs: Inputs, n: int, step: int) -> Any:
        answers, sizes = [], []
        for start in range(0, n, step):
            stop = min(start + step, n)
            started_s = _now_s()
            part = mapped(inputs, lambda t, a=start, b=stop: t[a:b])  # type: ignore[misc]  # defaults bind now
            answers.append(serving.run(part))
            sizes.append(stop - start)
            ended_s = _now_s()
            self._latency.add(ended_s - started_s, n_samples(part), ended_s)
        return joined(answers, sizes)

    def _joined_items(
        self, serving: Serving, items: Sequence[Item], *, exact: bool, look_up: bool
    ) -> list[Any]:
        """Answers to prepared inputs, computed together where that changes nothing."""
        started_s = _now_s()
        serving, _ = self._examined(serving, items[0].tensors)
        is_looked_up = look_up and serving.has_cache
        keys = [item.key for item in items if item.key is not None] if is_looked_up else []
        answers = computed(
            serving,
            items,
            found=serving.cache.get_many(keys, alone=exact) if keys else {},
            can_join=lambda pair: not exact and self._can_join(serving, pair),
        )
        ended_s = _now_s()
        n = sum(item.n_samples for item in items)
        self._latency.add(ended_s - started_s, n, ended_s)
        return answers

    def _item_from_cache(self, item: Item) -> Any | None:
        """The answer to a prepared input if it is there, else None."""
        cache = self._current().cache
        if item.key is None or not cache.max_size:
            return None
        started_s = _now_s()
        found = cache.get_many([item.key])
        if not found:
            return None
        answer = from_kept(found[item.key], item.tensors, as_arrays=item.as_arrays)
        ended_s = _now_s()
        self._latency.add(ended_s - started_s, item.n_samples, ended_s)
        return answer

    # ── what serves ─────────────────────────────────────────────────────────────────────────

    def _current(self) -> Serving:
        serving = self._serving
        if serving is None:
            raise NotReadyError(
                "There is no model to predict with: pass one to InferenceOptimizer(model=...) or "
                "call set_model(model)."
            )
        return serving

    def _can_join(self, serving: Serving, inputs: list[Inputs]) -> bool:
        return can_join(serving, inputs, bound=max(self._tolerance, 1e-5), seed=self._seed)

    def _examined(self, serving: Serving, inputs: Inputs) -> tuple[Serving, Any]:
        """What serves, once the model was looked at on a first input, and its answer to that."""
        if serving.is_checked:
            return serving, None
        with self._examining:
            now = self._serving
            if now is not None and now.eager is serving.eager and now.is_checked:
                return now, None
            seen = examination(serving, inputs)
            if seen is None:
                return serving, None
            return self._settled(serving, seen), seen.answer

    def _settled(self, serving: Serving, seen: Examination) -> Serving:
        """What serves, with what was seen of the model."""
        reason = seen.reason_not_to_cache
        examined = replace(
            serving,
            is_checked=True,
            writes_inputs=seen.writes_inputs,
            cache=AnswerCache(0) if reason else serving.cache,
        )
        with self._serving_lock:
            now = self._serving
            if now is None or now.eager is not serving.eager:
                return examined  # another model was set meanwhile; this call ends with its own
            self._serving = replace(
                now,
                is_checked=True,
                writes_inputs=seen.writes_inputs,
                cache=AnswerCache(0) if reason else now.cache,
            )
            examined = self._serving
        if reason:
            _logger.warning("%s %s: the cache is off.", type(serving.model).__name__, reason)
        return examined


def _shared(x: Any) -> np.ndarray[Any, Any] | None:
    """An array over a plain tensor's memory; None for what needs a closer look."""
    if type(x) is torch.Tensor and not x.requires_grad and x.is_cpu:
        try:
            array: np.ndarray[Any, Any] = x.numpy()
        except (TypeError, RuntimeError):
            return None  # NumPy has no such type
        return array
    return None
