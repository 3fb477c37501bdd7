"""Batches to calibrate and validate with, from whatever the caller has."""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from modelyard._core.errors import InputError
from modelyard.torchtools.inputs import (
    Inputs,
    answer_of,
    as_inputs,
    batch_size,
    copied_for,
    mapped,
    synthetic_like,
    tensors_of,
)
from modelyard.torchtools.layers import evaluating
from modelyard.torchtools.parity import flat_outputs, restructured
from modelyard.torchtools.quantization.error import Reference

_logger = logging.getLogger("modelyard")

_BATCH = 32
_MOST_SAMPLES = 2048
_MOST_READ = 200_000
_FEW_SAMPLES = 32
_FEWEST_TO_JUDGE = 8
# Heavy tails reach ten times their 99th percentile.
_FAR_OUT = 100.0
_FEWEST_RANKED = 20
_MOST_RANKED = 1_000_000


def batches_of(
    data: Any, *, n_inputs: int = 1, what: str = "data", is_finite_needed: bool = True
) -> list[Inputs]:
    """Batches of at most 32 samples, 2,048 samples at the most, taken from all of the data.

    Of more samples than that, those at even distances are taken, so that a change in the middle
    is seen. An iterable is read to its end, but no further than 200,000 samples.

    Args:
        data: A tensor or array of samples, a tuple or dict of them, or an iterable (a DataLoader)
            of batches; of batches `(inputs, targets)` the targets are dropped.
        n_inputs: How many tensors the model takes.
        what: The argument's name, for messages.
        is_finite_needed: Whether NaN and infinity are refused, as calibration must.

    Raises:
        InputError: No samples, or values that are not finite where they have to be.
    """
    taken = _evenly(_without_targets(item, n_inputs) for item in _items(data))
    batches = [part for item in _merged(taken) for part in _cut(item)]
    if not batches:
        raise InputError(f"{what} holds no samples; a generator can be read only once.")
    _check(batches, what, is_finite_needed=is_finite_needed)
    return batches


def _evenly(batches: Iterable[Inputs]) -> list[Inputs]:
    """At most 2,048 samples at even distances, in copies; never many more in memory."""
    kept: list[Inputs] = []
    n_seen, n_kept, step = 0, 0, 1
    for batch in batches:
        n = batch_size(batch)
        own = _picked([batch], torch.arange((-n_seen) % step, n, step))
        n_seen += n
        kept += own
        n_kept += sum(map(batch_size, own))
        while n_kept > 2 * _MOST_SAMPLES:
            kept = _picked(kept, torch.arange(0, n_kept, 2))
            n_kept, step = (n_kept + 1) // 2, 2 * step
        if n_seen >= _MOST_READ:
            _logger.warning("Only the first %d samples were looked at.", n_seen)
            break
    if n_kept > _MOST_SAMPLES:
        kept = _picked(kept, torch.linspace(0, n_kept - 1, _MOST_SAMPLES).round().long())
    return kept


def _picked(batches: Sequence[Inputs], places: torch.Tensor) -> list[Inputs]:
    """The samples at these places, counted over all batches; rising."""
    found, start = [], 0
    for batch in batches:
        n = batch_size(batch)
        own = places[(places >= start) & (places < start + n)] - start
        start += n
        if len(own):
            found.append(mapped(batch, lambda tensor, own=own: tensor[own]))  # type: ignore[misc]  # a default argument
    return found


def _merged(batches: Sequence[Inputs]) -> list[Inputs]:
    """Neighbours of one shape as one batch: a loader may give its samples one by one."""
    groups: list[list[Inputs]] = []
    for batch in batches:
        if groups and _form(groups[-1][0]) == _form(batch):
            groups[-1].append(batch)
        else:
            groups.append([batch])
    return [_joined(group) for group in groups]


def _form(inputs: Inputs) -> list[Any]:
    names = list(inputs) if isinstance(inputs, dict) else []
    return [*names, *((tensor.shape[1:], tensor.dtype) for tensor in tensors_of(inputs))]


def _joined(batches: Sequence[Inputs]) -> Inputs:
    columns = zip(*(tensors_of(batch) for batch in batches), strict=True)
    joined: Inputs = restructured(batches[0], [torch.cat(column) for column in columns])
    return joined


def synthetic_batches(example: Inputs, *, n_batches: int = 4, seed: int = 0) -> list[Inputs]:
    """Seeded normal batches with the shape of `example`."""
    return [synthetic_like(example, _BATCH, seed=seed + i) for i in range(n_batches)]


def reference_for(
    model: nn.Module, batches: Sequence[Inputs], *, is_real: bool = True
) -> Reference:
    """What the float model answers to the batches.

    Args:
        model: The float module.
        batches: Inputs.
        is_real: Whether they are like those the model is used on, or made up.

    Raises:
        InputError: It does not run on them, or answers with NaN.
    """
    try:
        with evaluating(model):
            outputs = [
                flat_outputs(answer_of(model, copied_for(model, batch))) for batch in batches
            ]
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise InputError(f"{type(model).__name__} does not run on this data: {error}") from error
    if any(bool(tensor.isnan().any()) for output in outputs for tensor in output):
        raise InputError(f"{type(model).__name__} answers this data with NaN.")
    return Reference(inputs=batches, outputs=outputs, is_real=is_real)


def has_variety(batches: Sequence[Inputs]) -> bool:
    """Whether there are enough samples, and different ones, to judge a model by its answers."""
    n = sum(batch_size(batch) for batch in batches)
    if n < _FEWEST_TO_JUDGE:
        return False
    first = [tensor[:1] for tensor in tensors_of(batches[0])]
    return (
        any(
            bool((tensor != one).any())
            for batch in batches
            for tensor, one in zip(tensors_of(batch), first, strict=True)
            if tensor.shape[1:] == one.shape[1:]
        )
        or len({str(_form(batch)) for batch in batches}) > 1
    )


def _items(data: Any) -> Iterable[Any]:
    _refuse_tables(data)
    is_whole = isinstance(data, torch.Tensor | np.ndarray | dict)
    is_tuple_of_tensors = isinstance(data, tuple) and all(
        isinstance(item, torch.Tensor | np.ndarray) for item in data
    )
    if is_whole or is_tuple_of_tensors:
        return [data]
    if not isinstance(data, Iterable):
        raise InputError(
            f"Expected a tensor, an array or an iterable of batches, got {type(data).__name__}."
        )
    return data


def _refuse_tables(data: Any) -> None:
    """Data frames and nested lists, which would be taken for batches of columns or of rows."""
    if hasattr(data, "to_numpy"):
        raise InputError(
            f"A {type(data).__name__} is no tensor of samples: pass "
            "data.to_numpy(dtype='float32'), with the columns in the model's order."
        )
    row = data[0] if isinstance(data, list) and data else None
    while isinstance(row, list | tuple) and row:
        row = row[0]
    if isinstance(row, bool | int | float):
        raise InputError(
            "A list is taken for batches, and this is one of numbers: pass "
            "numpy.array(data, dtype='float32')."
        )


def _without_targets(item: Any, n_inputs: int) -> Inputs:
    if isinstance(item, tuple | list) and len(item) >= n_inputs:
        item = item[0] if n_inputs == 1 else tuple(item[:n_inputs])
    return as_inputs(item)


def _cut(inputs: Inputs) -> list[Inputs]:
    n = batch_size(inputs)
    return [
        mapped(inputs, lambda tensor, start=start: tensor[start : start + _BATCH])  # type: ignore[misc]  # a default argument
        for start in range(0, n, _BATCH)
    ]


def _check(batches: Sequence[Inputs], what: str, *, is_finite_needed: bool) -> None:
    n = sum(batch_size(batch) for batch in batches)
    for position in range(len(tensors_of(batches[0]))):
        values = torch.cat([tensors_of(batch)[position].reshape(-1) for batch in batches])
        is_float = is_finite_needed and values.is_floating_point()
        if is_float and not bool(values.isfinite().all()):
            raise InputError(f"{what} holds NaN or infinity; clean it before calibrating.")
        if values.numel() > 1 and bool((values == values[0]).all()):
            _logger.warning("%s is constant: ranges taken from it mean little.", what)
        if values.is_floating_point() and values.numel() > 1:
            _warn_of_outliers([tensors_of(batch)[position] for batch in batches], what)
    if n < _FEW_SAMPLES:
        _logger.warning("%s holds only %d samples; %d or more are better.", what, n, _FEW_SAMPLES)


def _warn_of_outliers(tensors: Sequence[torch.Tensor], what: str) -> None:
    is_table = all(tensor.ndim == 2 for tensor in tensors)  # noqa: PLR2004 - samples and columns
    width = tensors[0].shape[-1] if is_table else 1
    sizes = torch.cat([tensor.detach().cpu().abs().reshape(-1, width) for tensor in tensors])
    times = times_beyond(sizes.nan_to_num(0.0, 0.0, 0.0).double())
    if times > _FAR_OUT:
        _logger.warning(
            "%s holds a value %.0f times as large as the 99th percentile of its like. If it is a "
            "mistake, take it out: one such sample widens every range in 8 bits.",
            what,
            times,
        )


def times_beyond(sizes: torch.Tensor) -> float:
    """How many times a column's largest size is its 99th percentile, zeros left out; the most.

    Args:
        sizes: Absolute values, shape (n, columns). Of millions, every so many are ranked. A column
            with fewer than 20 that are not 0 is left out.
    """
    ranked = sizes[:: max(1, sizes.numel() // _MOST_RANKED)].sort(dim=0).values
    n_zero = (ranked == 0).sum(dim=0)
    n_ranked = len(ranked) - n_zero
    places = n_zero + (n_ranked * 99).div(100, rounding_mode="floor") - 1
    times = sizes.amax(dim=0) / ranked.gather(0, places.clamp_min(0)[None])[0]
    is_known = n_ranked >= _FEWEST_RANKED
    return float(times[is_known].max()) if bool(is_known.any()) else 0.0
