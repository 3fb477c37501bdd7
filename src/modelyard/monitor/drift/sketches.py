"""Quantiles of columns: what is kept of a distribution when its values go."""

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.stats.distances import sort_columns
from modelyard.stats.quantiles import midpoint_sketch


def sketch_of(rows: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Quantiles of each column; NaN for a column without a finite value.

    Args:
        rows: shape (n, columns).
        size: Number of levels.

    Returns:
        shape (columns, at most `size`).
    """
    if rows.size == 0:
        return np.empty((rows.shape[-1], 0))
    if np.isfinite(rows).all():
        return midpoint_sketch(sort_columns(rows), size)
    return np.stack([_column_sketch(column, min(size, len(rows))) for column in rows.T])


def array_to_plain(array: NDArray[Any]) -> dict[str, Any]:
    """An array of floats as a plain value: its shape, and its bytes in base64."""
    exact = np.ascontiguousarray(array, dtype="<f8")
    return {"shape": list(exact.shape), "float64": base64.b64encode(exact.tobytes()).decode()}


def array_from_plain(plain: Mapping[str, Any] | Sequence[Any]) -> NDArray[np.float64]:
    """The array that `array_to_plain` described, or nested lists with None for NaN.

    Raises:
        KeyError, TypeError, ValueError: It describes none.
    """
    if isinstance(plain, Mapping):
        data = base64.b64decode(plain["float64"], validate=True)
        return np.frombuffer(data, "<f8").reshape(plain["shape"]).astype(np.float64)
    if not plain:
        return np.empty((0, 0))
    return np.array(plain, dtype=np.float64)


def _column_sketch(column: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    known = np.sort(column[np.isfinite(column)])
    if known.size == 0:
        return np.full(size, np.nan)
    positions = ((np.arange(size) + 0.5) / size * known.size).astype(np.intp)
    return np.asarray(known[positions])
