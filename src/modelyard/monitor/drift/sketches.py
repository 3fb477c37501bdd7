"""Quantiles of columns: what is kept of a distribution when its values go."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from modelyard.stats.distances import sort_columns
from modelyard.stats.quantiles import midpoint_sketch

# A column that was constant and is so no longer has no deviation to be measured in.
MAX_SCORE = 1000.0


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


# Values whose sums overflow have no score, and never a warning to the caller.
@np.errstate(over="ignore", invalid="ignore")
def sketch_score(
    a: NDArray[np.float64], b: NDArray[np.float64], std: NDArray[np.float64]
) -> float:
    """Largest Wasserstein-1 distance of a column, in standard deviations; 0 without columns."""
    scores = np.abs(a - b).mean(axis=1) / std
    known = scores[np.isfinite(scores)]
    return float(min(known.max(), MAX_SCORE)) if known.size else 0.0


def sketch_to_plain(sketch: NDArray[np.float64]) -> list[list[float | None]]:
    """Quantiles as lists, to six digits; NaN as None."""
    return [[rounded(value) for value in row] for row in sketch.tolist()]


def sketch_from_plain(plain: Sequence[Sequence[float | None]]) -> NDArray[np.float64]:
    """The quantiles that `sketch_to_plain` described."""
    if not plain:
        return np.empty((0, 0))
    return np.array(plain, dtype=np.float64)


def _column_sketch(column: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    known = np.sort(column[np.isfinite(column)])
    if known.size == 0:
        return np.full(size, np.nan)
    positions = ((np.arange(size) + 0.5) / size * known.size).astype(np.intp)
    return np.asarray(known[positions])


def rounded(value: float) -> float | None:
    """`value` to six digits; None for NaN and infinities."""
    return float(f"{value:.6g}") if math.isfinite(value) else None
