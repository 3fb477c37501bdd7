"""Several inputs computed as one, each getting its own answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from modelyard._core.errors import InputError
from modelyard.inference_optimizer.answers import concatenated, given_back, n_samples, split
from modelyard.inference_optimizer.backends import Backend
from modelyard.inference_optimizer.copying import own_copy
from modelyard.inference_optimizer.kept import from_kept, kept
from modelyard.inference_optimizer.keys import Key, array_key, key_of
from modelyard.inference_optimizer.ordinary import are_ordinary
from modelyard.inference_optimizer.serving import Form, RunArray, Serving, form_of
from modelyard.inference_optimizer.taking import taken
from modelyard.torchtools.inputs import Inputs, batch_size, mapped, synthetic_like
from modelyard.torchtools.parity import differences

# Rows of a larger answer are copied: a view of one would keep all of them in memory.
_MOST_SHARED_BYTES = 1 << 16
# Sizes of one kind of input that have to agree, and forms remembered in all.
_ENOUGH_SIZES = 3
_MOST_FORMS = 256

Array = np.ndarray[Any, Any]


@dataclass(slots=True)
class Item:
    """An input that was checked, and belongs to whoever computes it.

    Attributes:
        inputs: As tensors; an array where the shortest way takes it.
        as_arrays: Whether its answer is to be arrays.
        key: In the cache; None for none.
        n_samples: In it.
        given: What it was made of, for when another module is to answer: that may compute in
            another type, to which nothing that was rounded to this one's can be brought back.
        made_for: The module's own backend.
    """

    inputs: Inputs | Array
    as_arrays: bool
    key: Key | None
    n_samples: int
    given: Any
    made_for: Backend

    @property
    def tensors(self) -> Inputs:
        """The input as tensors, which share an array's memory."""
        return (
            torch.from_numpy(self.inputs) if isinstance(self.inputs, np.ndarray) else self.inputs
        )


def item_of(x: Any, serving: Serving, *, is_copied: bool) -> Item:
    """An input as it is computed among others.

    Args:
        x: As `predict` takes it.
        serving: What will answer.
        is_copied: Whether to copy it, since the caller may change it before it is computed.

    Raises:
        InputError: It does not fit.
    """
    if is_copied:
        x = own_copy(x)
    has_cache = serving.cache.max_size > 0
    if type(x) is np.ndarray and serving.lean(x) is not None:
        array = x if x.flags.writeable else x.copy()
        key = array_key(array) if has_cache else None
        return Item(array, True, key, array.shape[0], array, serving.eager)
    inputs, as_arrays = taken(x, serving)
    key = key_of(inputs) if has_cache else None
    return Item(inputs, as_arrays, key, n_samples(inputs), x, serving.eager)


def item_for(serving: Serving, waiting: Item | Array) -> Item:
    """What waited, as the module that serves now takes it.

    Raises:
        InputError: It does not fit.
    """
    if isinstance(waiting, np.ndarray):
        return item_of(waiting, serving, is_copied=False)
    if waiting.made_for is not serving.eager:
        return item_of(waiting.given, serving, is_copied=False)
    return waiting


def computed(
    serving: Serving,
    items: Sequence[Item],
    *,
    found: Mapping[Key, Any],
    can_join: Callable[[list[Inputs]], bool],
) -> list[Any]:
    """The answer to each item, in order; equal ones are computed once, those found not at all.

    Args:
        serving: What answers.
        items: Of any forms; those of one form are joined where that changes no answer.
        found: What the cache holds of them.
        can_join: Whether joining inputs of this form, of which it gets two, changes no answer.

    Raises:
        InputError: The model does not take one of them.
    """
    known = dict(found)
    if not serving.has_cache:
        items = [replace(item, key=None) for item in items]
    answers: dict[int, Any] = {}
    for places in _of_one_form(_first_of_equals(items, known)).values():
        group = [items[i] for i in places]
        computed, is_alone = _together(serving, group, can_join)
        pairs = zip(group, computed, strict=True)
        copies = {item.key: _kept(one, item) for item, one in pairs if item.key is not None}
        fresh = {key: copy for key, copy in copies.items() if copy is not None}
        known.update(fresh)
        serving.cache.put_many(fresh, alone=is_alone)
        for place, answer in zip(places, computed, strict=True):
            answers[place] = _given(answer, items[place])
    return [
        answers[i] if i in answers else _repeated(serving, item, known)
        for i, item in enumerate(items)
    ]


def can_join(serving: Serving, inputs: list[Inputs], *, bound: float, seed: int) -> bool:
    """Whether joining inputs along the first dimension gives what each would alone.

    Tried on the first two that come of a form, beside large neighbours of either sign and beside
    ones of NaN and infinity: two of the caller's may be alike, and what a batch shares, or decides
    as a whole, would not show. Once enough sizes of one kind have shown the same, it is taken to
    hold for all.

    Args:
        serving: What answers.
        inputs: Two of one form.
        bound: Difference allowed, as part of the output's size.
        seed: Of the neighbour.
    """
    form = form_of(inputs[0])
    known = serving.joinable.get(form)
    if known is None:
        alike = [ok for other, ok in serving.joinable.items() if _kind(other) == _kind(form)]
        if len(alike) >= _ENOUGH_SIZES and all(alike):
            return True
        if len(serving.joinable) >= _MOST_FORMS:
            serving.joinable.clear()
        large = synthetic_like(inputs[1], 2, seed=seed, scale=10.0)
        with serving.trial() as trial:
            known = all(
                trial.joins([*inputs, neighbour], bound=bound)
                for neighbour in (large, mapped(large, _mirrored))
            ) and not _is_spoiled(trial, inputs[0], bound=bound)
        serving.joinable[form] = known
    return known


def _mirrored(tensor: torch.Tensor) -> torch.Tensor:
    """The opposite of made-up values, whole numbers within their own range."""
    if tensor.dtype == torch.bool:
        return ~tensor
    if tensor.is_floating_point() or tensor.is_complex():
        return -tensor
    return tensor.max() + tensor.min() - tensor if tensor.numel() else tensor


def _is_spoiled(serving: Serving, inputs: Inputs, *, bound: float) -> bool:
    """Whether neighbours that are no numbers change an answer.

    Where the model refuses them there is nothing to spoil: who asked is told.
    """
    others = [
        mapped(inputs, lambda t, v=v: torch.full_like(t, v) if t.is_floating_point() else t)  # type: ignore[misc]  # defaults bind now
        for v in (float("nan"), float("inf"))
    ]
    try:
        want = serving.run(inputs)
        sizes = [batch_size(one) for one in (inputs, *others)]
        got = split(serving.run(concatenated([inputs, *others])), sizes)[0]
    except (InputError, RuntimeError):
        return False
    return not all(gap.is_within(rtol=bound, atol=bound) for gap in differences(want, got))


def _kind(form: Form) -> Form:
    """A form without its sizes."""
    names, *tensors = form
    return (names, *((dtype, ndim) for dtype, ndim, _ in tensors))


def _first_of_equals(items: Sequence[Item], known: Mapping[Key, Any]) -> list[tuple[int, Item]]:
    """The items to compute, with their places: not known, and each equal one once."""
    wanted: list[tuple[int, Item]] = []
    seen = set(known)
    for i, item in enumerate(items):
        if item.key is None:
            wanted.append((i, item))
        elif item.key not in seen:
            seen.add(item.key)
            wanted.append((i, item))
    return wanted


def _of_one_form(items: Sequence[tuple[int, Item]]) -> dict[Form, list[int]]:
    forms: dict[Form, list[int]] = {}
    for i, item in items:
        inputs = item.inputs
        if isinstance(inputs, np.ndarray):
            form: Form = (inputs.dtype, inputs.shape[1:])
        elif not are_ordinary(inputs):
            form = (i,)  # of a form of its own: it cannot be joined
        else:
            form = (*form_of(inputs), type(inputs))
        forms.setdefault(form, []).append(i)
    return forms


def _together(
    serving: Serving, group: Sequence[Item], can_join: Callable[[list[Inputs]], bool]
) -> tuple[list[Any], bool]:
    """Arrays or tensors for each of one form, and whether each was computed alone."""
    if len(group) > 1 and can_join([item.tensors for item in group[:2]]):
        return _joined(serving, group), False
    return [_alone(serving, item) for item in group], True


def lean_rows(serving: Serving, arrays: Sequence[Any]) -> list[Array] | None:
    """The answers to arrays of one row each, in the shortest way; None where there is none."""
    if serving.form is None or not serving.joinable.get(serving.form, False):
        return None
    try:
        whole = np.concatenate(arrays)
    except (ValueError, TypeError):  # of several forms
        return None
    n = len(arrays)
    run_array = serving.lean(whole) if whole.shape[0] == n else None
    if run_array is None:
        return None
    answer = lean_answer(serving, run_array, whole)
    if answer.nbytes > _MOST_SHARED_BYTES:
        return [answer[i : i + 1].copy() for i in range(n)]
    return [answer[i : i + 1] for i in range(n)]


def _joined(serving: Serving, group: Sequence[Item]) -> list[Any]:
    arrays = [item.inputs for item in group if isinstance(item.inputs, np.ndarray)]
    if len(arrays) == len(group):
        whole = np.concatenate(arrays)
        run_array = serving.lean(whole)
        if run_array is not None:
            return _rows(lean_answer(serving, run_array, whole), group)
    inputs = [item.tensors for item in group]
    return split(serving.run(concatenated(inputs)), [batch_size(one) for one in inputs])


def _rows(answer: Array, group: Sequence[Item]) -> list[Array]:
    rows, start = [], 0
    for item in group:
        stop = start + item.n_samples
        # A copy: a view of one row would keep the whole batch in memory.
        rows.append(answer[start:stop].copy())
        start = stop
    return rows


def _alone(serving: Serving, item: Item) -> Any:
    if isinstance(item.inputs, np.ndarray):
        run_array = serving.lean(item.inputs)
        if run_array is not None:
            return lean_answer(serving, run_array, item.inputs)
    return serving.run(item.tensors)


def _kept(answer: Any, item: Item) -> Any | None:
    """A copy for the cache; None where it cannot be kept."""
    if isinstance(answer, np.ndarray) and isinstance(item.inputs, np.ndarray):
        return answer.copy()  # in the shortest way: it stands for a tensor
    return kept(answer)


def _repeated(serving: Serving, item: Item, known: Mapping[Key, Any]) -> Any:
    """The answer to an item that equals another; computed again where that was not kept."""
    if item.key in known:
        return from_kept(known[item.key], item.tensors, as_arrays=item.as_arrays)
    return _given(_alone(serving, item), item)


def _given(answer: Any, item: Item) -> Any:
    if isinstance(answer, np.ndarray):  # only for who gave an array; it is nobody else's
        return answer
    return given_back(answer, item.tensors, as_arrays=item.as_arrays)


def lean_answer(serving: Serving, run_array: RunArray, array: Array) -> Array:
    """The answer in the shortest way.

    Raises:
        InputError: The backend refuses it after all.
    """
    try:
        return run_array(array)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - backends raise anything
        serving.refuse(torch.from_numpy(array.copy()), error)
