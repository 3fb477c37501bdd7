"""Quantiles of small arrays, quickly, and the quantile sketch of a window."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def quantiles(values: NDArray[Any], levels: Sequence[float]) -> list[float]:
    """Quantiles by linear interpolation between order statistics, as `numpy.quantile`.

    `numpy.partition` finds only the order statistics that are needed, which for a window of a
    thousand values takes a tenth of the time of `numpy.quantile`.

    Args:
        values: shape (n,), n >= 1, without NaN.
        levels: Each in [0, 1].

    Source:
        Hyndman and Fan (1996), The American Statistician 50, 361-365, definition 7.
    """
    last = len(values) - 1
    positions = [level * last for level in levels]
    below = [int(position) for position in positions]
    above = [min(index + 1, last) for index in below]
    parted = np.partition(values, sorted({*below, *above}))
    return [
        float(parted[low] + (parted[high] - parted[low]) * (position - low))
        for position, low, high in zip(positions, below, above, strict=True)
    ]


def midpoint_sketch(ordered: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """`size` values of each column, at the levels (i + 1/2) / size of its distribution.

    Two sketches of one size give the Wasserstein-1 distance of their samples as the mean absolute
    difference, up to the detail that lies between two levels. The values are observed ones, never
    in between, so that a column of a few distinct values keeps them.

    Args:
        ordered: shape (columns, n), each row ascending, n >= 1.
        size: Number of levels.

    Returns:
        shape (columns, min(size, n)).
    """
    n = ordered.shape[1]
    if n <= size:
        return ordered
    positions = ((np.arange(size) + 0.5) / size * n).astype(np.intp)
    return np.asarray(ordered[:, positions])
