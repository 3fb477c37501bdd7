"""The numbers in what a model answers, whatever holds them."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.distributions import Distribution

from modelyard._core.errors import InputError
from modelyard.torchtools.inputs import owned_array


def numbers_in(answer: Any) -> list[torch.Tensor]:
    """The tensors of an answer in order, however nested; arrays and numbers count as tensors.

    Of a distribution, as policies give, those are its parameters. What else is in the answer, such
    as texts, is left out.

    Raises:
        InputError: It holds no number.
    """
    found = list(_numbers(answer))
    if not found:
        raise InputError(
            f"The model answered with {type(answer).__name__}, which holds no number."
        )
    return found


def _numbers(answer: Any) -> Iterator[torch.Tensor]:
    if isinstance(answer, torch.Tensor):
        yield answer
    elif isinstance(answer, np.ndarray | np.generic | bool | int | float | complex):
        if not isinstance(answer, np.ndarray | np.generic) or answer.dtype.kind in "biufc":
            yield torch.from_numpy(owned_array(np.asarray(answer)))
    else:
        for part in _parts(answer):
            yield from _numbers(part)


def _parts(answer: Any) -> list[Any]:
    if isinstance(answer, Mapping):
        return list(answer.values())
    if isinstance(answer, tuple | list):
        return list(answer)
    if dataclasses.is_dataclass(answer) and not isinstance(answer, type):
        return [getattr(answer, field.name) for field in dataclasses.fields(answer)]
    if isinstance(answer, Distribution):
        # Sizes, options and caches are no parameters; those of another distribution are.
        return [v for v in vars(answer).values() if isinstance(v, torch.Tensor | Distribution)]
    return []
