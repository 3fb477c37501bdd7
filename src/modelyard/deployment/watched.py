"""What a version's monitor is told of a request and its answer."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modelyard._core.errors import InputError
from modelyard.torchtools.answers import numbers_in

_NUMBERS = (int, float, np.generic)
_PLAIN = (torch.Tensor, np.ndarray, str, type(None), *_NUMBERS)
_MATRIX = 2  # dimensions of (batch, columns)


def as_row(values: Any) -> Any:
    """A batch of one as a row of numbers, which a monitor reads at once; all else as it is."""
    if type(values) is not torch.Tensor or not values.is_cpu or values.dtype != torch.float32:
        return values
    array = values.detach().numpy()
    return array[0] if array.ndim == _MATRIX and len(array) == 1 else array


def as_prediction(answer: Any) -> Any:
    """An answer in the form that a monitor watches.

    Of one in several parts (a mapping, a tuple, a distribution by its parameters) that is the
    first, with those that have as many rows and one column or more beside it, shape (batch,
    columns). States with more dimensions, as of recurrent layers, are left out: where the batch is
    in them, nobody knows.
    """
    if isinstance(answer, _PLAIN):
        return as_row(answer)
    if isinstance(answer, tuple | list) and all(isinstance(part, _NUMBERS) for part in answer):
        return answer
    try:
        first, *others = numbers_in(answer)
    except InputError:
        return answer
    n = len(first) if first.ndim else 1
    if n == 0:
        return answer
    beside = [part for part in others if 1 <= part.ndim <= _MATRIX and len(part) == n]
    rows = [_as_rows(part, n) for part in (first, *beside)]
    return np.concatenate(rows, axis=1)


def _as_rows(part: torch.Tensor, n: int) -> NDArray[np.float64]:
    real = torch.view_as_real(part.resolve_conj()) if part.is_complex() else part
    rows: NDArray[np.float64] = real.detach().cpu().reshape(n, -1).double().numpy()
    return rows
