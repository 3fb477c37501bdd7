"""Many inputs at once: batches, streams, and what engines have gathered."""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import torch

from modelyard._core.errors import InputError
from modelyard.inference_optimizer.answers import (
    given_back,
    joined,
    n_samples,
    sample_of,
    to_array,
)
from modelyard.inference_optimizer.copying import own_copy
from modelyard.inference_optimizer.joining import Item, can_join, computed, item_of
from modelyard.inference_optimizer.kept import as_tensors, from_kept, kept_rows
from modelyard.inference_optimizer.keys import keys_of_samples
from modelyard.inference_optimizer.ordinary import are_ordinary
from modelyard.inference_optimizer.predicting import Predictor
from modelyard.inference_optimizer.serving import Serving
from modelyard.inference_optimizer.streaming import Failure, streamed
from modelyard.inference_optimizer.taking import taken
from modelyard.torchtools.inputs import Inputs, batch_size, mapped
from modelyard.torchtools.onnx_module import OnnxModule
from modelyard.torchtools.parity import map_tensors

_now_s = time.perf_counter


class BatchPredictor(Predictor):
    """Answers many inputs with whatever serves now, computed together where that changes nothing.

    Thread-safe as `Predictor`, and made with the same arguments.
    """

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
        if not are_ordinary(inputs):
            return self._predict_any(serving, inputs, _now_s())  # nothing that can be cut
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
                for, at most two chunks of `batch_size` ahead, and may use its memory again: each
                input is copied as it is read. A feed whose next item waits for the last answer is
                what `predict` is for.
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
        # A source may write each input into the memory of the one before, as feeds do; what is in
        # a list or a tensor already stays as it is until this has ended.
        is_held = isinstance(x_list, list | tuple | torch.Tensor | np.ndarray)
        answers = streamed(
            x_list if is_held else map(own_copy, x_list),
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

    # ── inside ────────────────────────────────────────────────────────────────────────────────

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
            if any(row is None for row in rows):  # so no other sample's is kept either
                return answer if not found else self._in_chunks(serving, inputs, n, step)
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
        ordinary = (item.tensors for item in items if are_ordinary(item.tensors))
        serving, _ = self._examined(serving, next(ordinary, items[0].tensors))
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

    def _item_from_cache(self, item: Item | np.ndarray[Any, Any]) -> Any | None:
        """The answer to a prepared input if it is there, else None."""
        serving = self._current()
        cache = serving.cache
        # A bare array waits where there was no cache when it came.
        if isinstance(item, np.ndarray) or item.key is None or not cache.max_size:
            return None
        if item.made_for is not serving.eager:
            return None
        started_s = _now_s()
        found = cache.get_many([item.key])
        if not found:
            return None
        answer = from_kept(found[item.key], item.tensors, as_arrays=item.as_arrays)
        ended_s = _now_s()
        self._latency.add(ended_s - started_s, item.n_samples, ended_s)
        return answer

    def _can_join(self, serving: Serving, inputs: list[Inputs]) -> bool:
        return can_join(serving, inputs, bound=max(self._tolerance, 1e-5), seed=self._seed)
