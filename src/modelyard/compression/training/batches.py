"""Batches as a loader yields them: inputs apart from targets, on the model's device."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from modelyard._core.errors import InputError
from modelyard.torchtools.inputs import Inputs, as_inputs, mapped, tensors_of
from modelyard.torchtools.parity import map_tensors


@dataclass(frozen=True)
class Batch:
    """What one step of training sees.

    Attributes:
        inputs: As the model takes them, on its device.
        targets: A tensor, or a nesting of tensors for a loss function that wants one; None where
            the loader yields inputs alone.
        n_samples: Size of the first dimension.
    """

    inputs: Inputs
    targets: Any
    n_samples: int


def as_loader(data: Any, *, what: str) -> Iterable[Any]:
    """`data` as something that yields batches: a tensor, dict or tuple of tensors is one batch.

    Raises:
        InputError: It cannot be iterated over.
    """
    is_tuple = isinstance(data, tuple) and all(isinstance(x, torch.Tensor) for x in data)
    if isinstance(data, torch.Tensor | np.ndarray | dict) or is_tuple:
        return [data]
    if not isinstance(data, Iterable):
        raise InputError(f"{what} must yield batches, got a {type(data).__name__}.")
    return data


def check_repeatable(loader: Iterable[Any], n_passes: int, *, what: str) -> None:
    """Refuse a generator that is to be read more than once, before anything is trained.

    Raises:
        InputError: It is one and `n_passes` is above 1.
    """
    if n_passes > 1 and inspect.isgenerator(loader):
        raise InputError(
            f"{what} is a generator, which can be read only once, not {n_passes} times. "
            "Pass a list of its batches or a DataLoader."
        )


def batches(
    loader: Iterable[Any],
    *,
    device: torch.device,
    are_targets_needed: bool,
    what: str,
    epoch: int = 1,
) -> Iterator[Batch]:
    """One pass over the loader.

    Args:
        loader: Yields `inputs`, `(inputs, targets)` or `(first, second, ..., targets)`. Inputs of
            several tensors without targets are a tuple inside a tuple: `((first, second),)`.
        device: Where inputs and targets go.
        are_targets_needed: Whether batches without targets are an error.
        what: What the loader is called in messages.
        epoch: Which pass this is.

    Raises:
        InputError: No batch, no targets although needed, or inputs that are no tensors.
    """
    is_empty = True
    for item in loader:
        is_empty = False
        inputs, targets = _split(item)
        if targets is None and are_targets_needed:
            raise InputError(
                f"{what} yields inputs without targets, which only distillation with alpha=1.0 "
                "can use. Yield (inputs, targets), or distil with alpha=1.0."
            )
        yield Batch(
            mapped(inputs, lambda tensor: tensor.to(device)),
            map_tensors(targets, lambda tensor: tensor.to(device)),
            _n_samples(inputs),
        )
    if is_empty and epoch > 1:
        raise InputError(
            f"{what} yields no batch in epoch {epoch}: it can be read only once, as a generator "
            "can. Pass a list of its batches or a DataLoader."
        )
    if is_empty:
        raise InputError(f"{what} yields no batch; a generator can be read only once.")


def n_batches_of(loader: Iterable[Any]) -> int | None:
    """How many batches a pass has; None where the loader cannot say."""
    measure: Callable[[], int] | None = getattr(loader, "__len__", None)
    if measure is None:
        return None
    try:
        return measure()
    except (TypeError, NotImplementedError):  # a DataLoader of an iterable data set
        return None


def _split(item: Any) -> tuple[Inputs, Any]:
    if isinstance(item, tuple | list):
        if len(item) > 1:
            *inputs, targets = item
            return as_inputs(inputs[0] if len(inputs) == 1 else inputs), _as_targets(targets)
        if len(item) == 1:
            item = item[0]
    return as_inputs(item), None


def _as_targets(targets: Any) -> Any:
    if isinstance(targets, torch.Tensor | dict | tuple):
        return targets
    try:
        return torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"Targets must be a tensor or array, got a {type(targets).__name__}: {error}"
        ) from error


def _n_samples(inputs: Inputs) -> int:
    first = tensors_of(inputs)[0]
    return int(first.shape[0]) if first.ndim else 1
