"""How much a value says about the next one, and what that costs in information."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.stats.moments import Moments

# Below these a measured autocorrelation is either chance or too small to matter.
MIN_LAG1 = 0.1
_STANDARD_ERRORS = 3.0
# Of a constant column, anything below this share of its value is rounding.
_ROUNDING = 1e-12


@dataclass(slots=True)
class Lag1:
    """Lag-1 autocorrelation of a stream in constant memory. Not thread-safe: its owner locks.

    Sums are kept about the first value, so that a large mean does not cancel the digits.
    """

    first: float = 0.0
    last: float = 0.0
    total: float = 0.0
    products: float = 0.0
    n: int = 0

    def add(self, value: float) -> None:
        """Take the stream's next value (finite)."""
        if self.n == 0:
            self.first = value
        centred = value - self.first
        self.products += centred * self.last
        self.total += centred
        self.last = centred
        self.n += 1

    def correlation(self, moments: Moments) -> float:
        """Lag-1 autocorrelation, -1 to 1; 0 while it cannot be known.

        Args:
            moments: Of the same stream.
        """
        rounding = self.n * (_ROUNDING * abs(moments.mean)) ** 2
        if self.n <= 2 or moments.m2 <= rounding:  # noqa: PLR2004 - two pairs at least
            return 0.0
        mean = moments.mean - self.first
        cross = self.products - mean * (2.0 * self.total - self.last) + (self.n - 1) * mean * mean
        return cross / moments.m2


def lag1(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Lag-1 autocorrelation of each column; 0 for a constant column.

    Args:
        rows: shape (n, columns), in time order, finite.

    Source:
        Box, Jenkins and Reinsel (1994), Time Series Analysis, equation 2.1.11.
    """
    centred = np.asarray(rows, dtype=np.float64) - rows.mean(axis=0, dtype=np.float64)
    squares = np.einsum("ij,ij->j", centred, centred)
    cross = np.einsum("ij,ij->j", centred[1:], centred[:-1])
    rounding = len(rows) * (_ROUNDING * np.abs(rows).max(axis=0, initial=0.0)) ** 2
    return np.asarray(
        np.divide(cross, squares, out=np.zeros_like(cross), where=squares > rounding)
    )


def is_autocorrelated(correlation: float, n: int) -> bool:
    """Whether a measured lag-1 autocorrelation is real and large enough to matter."""
    return correlation > max(MIN_LAG1, _STANDARD_ERRORS / math.sqrt(max(n, 1)))


def effective_share(correlation: float) -> float:
    """Effective over actual sample size for the mean of a first-order autoregression.

    (1 - r) / (1 + r), at most 1: a negative correlation is not taken as extra information. For
    the mean of overlapping windows it is on the safe side by about a factor of two.

    Source:
        Bayley and Hammersley (1946), J. Royal Statistical Society Supplement 8, 184-197.
    """
    r = min(max(correlation, 0.0), 0.9999)
    return (1.0 - r) / (1.0 + r)


def variance_ratio(rows: NDArray[Any], *, n_blocks: int = 20) -> NDArray[np.float64]:
    """How much more the means of blocks vary than those of independent values, by column.

    1 for independent values, (1 + r) / (1 - r) for a first-order autoregression; large also where
    a slow movement lies under noise that hides it from the lag-1 autocorrelation. 1 for a constant
    column, and with fewer than two rows a block.

    Args:
        rows: shape (n, columns), in time order, finite.
        n_blocks: How many blocks to make.

    Source:
        Cochrane (1988), J. of Political Economy 96, 893-920, with means of blocks.
    """
    size = len(rows) // n_blocks
    if size < 2:  # noqa: PLR2004 - a mean of one is the value
        return np.ones(rows.shape[1])
    used = np.asarray(rows[-size * n_blocks :], dtype=np.float64)
    means = used.reshape(n_blocks, size, -1).mean(axis=1)
    variance, of_means = used.var(axis=0), means.var(axis=0, ddof=1)
    known = variance > (_ROUNDING * np.abs(used).max(axis=0)) ** 2
    ratio = np.divide(size * of_means, variance, out=np.ones(rows.shape[1]), where=known)
    return np.asarray(ratio)
