"""Distances between two samples, for many columns at once.

All functions take samples as `ordered` arrays, shape (columns, n): one row per column, ascending
(`sort_columns` makes them), so that a reference is sorted once and used often.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special


def sort_columns(rows: NDArray[Any]) -> NDArray[np.float64]:
    """The columns of `rows`, shape (n, columns), as ascending rows, shape (columns, n)."""
    # Always a copy: a single column of float64 would otherwise be sorted in the caller's array.
    ordered = np.array(rows.T, dtype=np.float64, order="C")
    ordered.sort(axis=1)
    return ordered


def wasserstein(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """First Wasserstein distance of each column, in the column's unit.

    Args:
        a: shape (columns, n), rows ascending.
        b: shape (columns, m), rows ascending.

    Returns:
        shape (columns,): the area between the two quantile functions.

    Source:
        Vallender (1974), Theory of Probability and its Applications 18, 784-786.
        Reference numbers: `tests/reference/distances.json`, made with scipy.
    """
    n, m = a.shape[1], b.shape[1]
    if n == m:
        return np.asarray(np.abs(a - b).mean(axis=1))
    # Both quantile functions are steps; between two neighbouring steps of either, both are flat.
    # Whole numbers of 1 / (n m) keep the steps exact.
    steps = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    widths = np.diff(steps, prepend=0) / (n * m)
    gaps = np.abs(a[:, (steps - 1) // m] - b[:, (steps - 1) // n])
    return np.asarray(gaps @ widths)


def kolmogorov_smirnov(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest gap between the two empirical distribution functions of each column, 0 to 1.

    Args:
        a: shape (columns, n), rows ascending, finite.
        b: shape (columns, m), rows ascending, finite.

    Returns:
        shape (columns,).

    Source:
        Smirnov (1939), Bulletin of Moscow University 2, 3-14.
        Reference numbers: `tests/reference/distances.json`, made with scipy.
    """
    n, m = a.shape[1], b.shape[1]
    below = np.empty(b.shape, np.intp)
    for i, (x, steps) in enumerate(zip(a, b, strict=True)):
        below[i] = x.searchsorted(steps, side="left")
    up_to = below.copy()
    # Only where a value of one is a value of the other, the count up to it is another one.
    nearest = np.take_along_axis(a, np.minimum(below, n - 1), axis=1)
    for i in np.flatnonzero((nearest == b).any(axis=1)).tolist():
        up_to[i] = a[i].searchsorted(b[i], side="right")
    # Between two neighbouring steps of `b` its function is flat and that of `a` never falls, so
    # the gap is largest at a step, just before it or at it. Of equal steps only the first is one
    # to stand before, and the last one to stand at.
    levels = np.arange(m + 1) / m
    is_new = b[:, 1:] != b[:, :-1]
    before, at = np.abs(below / n - levels[:-1]), np.abs(up_to / n - levels[1:])
    before[:, 1:][~is_new] = 0.0
    at[:, :-1][~is_new] = 0.0
    return np.asarray(np.maximum(before.max(axis=1), at.max(axis=1)))


def kolmogorov_smirnov_p(statistic: NDArray[np.float64], n: int, m: int) -> NDArray[np.float64]:
    """P-value of the two-sample Kolmogorov-Smirnov statistic, independent samples assumed.

    Source:
        Stephens (1970), J. Royal Statistical Society B 32, 115-122: the limit distribution with a
        correction for finite samples.
    """
    root = np.sqrt(n * m / (n + m))
    return np.asarray(special.kolmogorov((root + 0.12 + 0.11 / root) * statistic))
