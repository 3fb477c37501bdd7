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
    is_repeatable,
    joined,
    n_samples,
    sample_of,
    to_array,
)
from modelyard.inference_optimizer.cache import AnswerCache
from modelyard.inference_optimizer.joining import Item, can_join, computed, item_of
from modelyard.inference_optimizer.kept import as_tensors, from_kept, kept
from modelyard.inference_optimizer.keys import Key, array_key, key_of
from modelyard.inference_optimizer.latency import FOLDED_AT, LatencyRecord
from modelyard.inference_optimizer.serving import Serving
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
        # Written out in one piece: a cached answer costs about as much as two calls of Python.
        serving = self._serving or self._current()
        started_s = _now_s()
        is_array = type(x) is np.ndarray
        cache = serving.cache
        array: Any = x
        if not is_array:
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
            answer = cache.begin(key)
        if answer is None:
            answer = self._computed_alone(serving, x, array, key)
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

    def _predict_any(self, serving: Serving, x: Any, started_s: float) -> Any:
        """As `predict`, for whatever is no plain array or tensor in the model's own type."""
        inputs, is_array = taken(x, serving)
        key = key_of(inputs) if serving.cache.max_size else None
        answer = None if key is None else serving.cache.begin(key)
        if answer is not None:
            answer = from_kept(answer, inputs, as_arrays=is_array)
        else:
            answer = self._begun(serving, inputs, key)
            answer = given_back(answer, inputs, as_arrays=is_array)
        ended_s = _now_s()
        self._latency.add(ended_s - started_s, n_samples(inputs), ended_s)
        return answer

    def _computed_alone(
        self, serving: Serving, x: Any, array: np.ndarray[Any, Any], key: Key | None
    ) -> Any:
        """The answer to a plain array, or to the plain tensor it shares its memory with."""
        run_array = serving.lean(array) if serving.is_checked or key is None else None
        if run_array is None:
            try:
                inputs, is_array = taken(x, serving)
            except InputError:
                if key is not None:
                    serving.cache.finish(key, None)
                raise
            return given_back(self._begun(serving, inputs, key), inputs, as_arrays=is_array)
        answer = None
        try:
            answer = run_array(array)
        except Exception as error:  # noqa: BLE001 - backends raise anything
            serving.refuse(torch.from_numpy(array.copy()), error)
        finally:
            if key is not None:
                serving.cache.finish(key, None if answer is None else answer.copy())
        return answer

    def _begun(self, serving: Serving, inputs: Inputs, key: Key | None) -> Any:
        """Compute an answer, and keep it where the cache waits for it."""
        to_keep = None
        try:
            answer = serving.run(inputs)
            if key is not None and self._is_repeatable(serving, inputs, answer):
                to_keep = kept(answer)
        finally:
            if key is not None:
                serving.cache.finish(key, to_keep)
        return answer

    # ── many ────────────────────────────────────────────────────────────────────────────────

    def _samples(self, serving: Serving, inputs: Inputs, n: int, *, exact: bool) -> Any:
        """Answers to independent samples as one; those in the cache are not computed."""
        started_s = _now_s()
        keys = _keys_of_samples(inputs, n) if serving.cache.max_size else None
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
            fresh = self._kept_samples(serving, part, answer, [keys[i] for i in wanted], step)
            if not found:
                return answer
            found |= fresh or dict(
                zip((keys[i] for i in wanted), _rows_of(answer, len(wanted)), strict=True)
            )
        ended_s = _now_s()
        self._latency.add(ended_s - started_s, n - len(wanted), ended_s)
        return joined([as_tensors(found[key]) for key in keys], [1] * n)

    def _kept_samples(
        self, serving: Serving, part: Inputs, answer: Any, keys: Sequence[Key], step: int
    ) -> dict[Key, Any]:
        """Keep the answers of a batch, as many as the cache holds; empty if it keeps none."""
        first = mapped(part, lambda tensor: tensor[:step])
        n = len(keys)
        head = map_tensors(answer, lambda tensor: tensor[:step])
        if not serving.is_checked and not self._is_repeatable(serving, first, head):
            return {}
        rows = _rows_of(answer, n)
        fresh = dict(zip(keys, rows, strict=True))
        kept_last = dict(list(fresh.items())[-serving.cache.max_size :])
        serving.cache.put_many(kept_last, alone=step == 1)
        return fresh

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
        keys = [item.key for item in items if item.key is not None] if look_up else []
        answers = computed(
            serving,
            items,
            found=serving.cache.get_many(keys, alone=exact) if keys else {},
            can_join=lambda pair: not exact and self._can_join(serving, pair),
            is_repeatable=lambda inputs, answer: self._is_repeatable(serving, inputs, answer),
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

    def _change(self, serving: Serving, **changes: Any) -> None:
        """Replace parts of what answers, unless another model was set meanwhile."""
        with self._serving_lock:
            if self._serving is not None and self._serving.eager is serving.eager:
                self._serving = replace(self._serving, **changes)

    def _can_join(self, serving: Serving, inputs: list[Inputs]) -> bool:
        return can_join(serving, inputs, bound=max(self._tolerance, 1e-5), seed=self._seed)

    def _is_repeatable(self, serving: Serving, inputs: Inputs, answer: Any) -> bool:
        """Whether the model gives one answer to one input; if not, the cache is turned off."""
        if serving.is_checked:
            return True
        if is_repeatable(answer, serving.run(inputs)):
            self._change(serving, is_checked=True)
            return True
        _logger.warning(
            "%s gives two answers to one input: the cache is off.", type(serving.model).__name__
        )
        self._change(serving, is_checked=True, cache=AnswerCache(0))
        return False


def _shared(x: Any) -> np.ndarray[Any, Any] | None:
    """An array over a plain tensor's memory; None for what needs a closer look."""
    if type(x) is torch.Tensor and not x.requires_grad and x.is_cpu:
        try:
            array: np.ndarray[Any, Any] = x.numpy()
        except (TypeError, RuntimeError):
            return None  # NumPy has no such type
        return array
    return None


def _keys_of_samples(inputs: Inputs, n: int) -> list[Key] | None:
    """Keys as `predict` has them of each sample alone; None if there are none."""
    if isinstance(inputs, torch.Tensor) and inputs.is_cpu:
        plain = inputs.detach().contiguous()
        if plain.dtype is not torch.bfloat16:
            array = plain.numpy()
            keys = [array_key(array[i : i + 1]) for i in range(n)]
            return None if None in keys else keys
    keys = [key_of(sample_of(inputs, i)) for i in range(n)]
    return None if None in keys else keys


def _rows_of(answer: Any, n: int) -> list[Any]:
    return [
        kept(map_tensors(answer, lambda tensor, i=i: tensor[i : i + 1]))  # type: ignore[misc]  # defaults bind now
        for i in range(n)
    ]
