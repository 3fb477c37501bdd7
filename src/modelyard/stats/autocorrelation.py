"""How much a value says about the next one, and what that costs in information."""

import math
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.stats.moments import Moments

# Below these a measured autocorrelation is either chance or too small to matter.
MIN_LAG1 = 0.1
_STANDARD_ERRORS = 3.0
_OF_SEVERAL = 4.0
MAX_LAG = 64
_AT_ONCE = 256
# Of a constant column, anything below this share of its value is rounding.
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class Correlogram:
    """Autocorrelations of a stream by lag, from 1.

    Attributes:
        values: shape (lags,), each -1 to 1.
        scores: In standard errors that hold whatever the values' distribution is, such as that of
            rare events, shape (lags,).
    """

    values: NDArray[np.float64]
    scores: NDArray[np.float64]


class Autocorrelation:
    """Autocorrelations of a stream at the first 64 lags, in constant memory.

    Streams of several accounts that take turns show theirs at the lag of their number. Not
    thread-safe: its owner locks. Sums are kept about the mean of the first 256 values, so that a
    large mean does not cancel the digits.
    """

    def __init__(self) -> None:
        self._origin = 0.0
        self._n = 0
        self._total = 0.0
        self._products, self._squares = np.zeros(MAX_LAG), np.zeros(MAX_LAG)
        self._head = self._tail = np.empty(0)
        self._pending: list[float] = []

    def add(self, value: float) -> None:
        """Take the stream's next value (finite)."""
        self._pending.append(value)
        if len(self._pending) == _AT_ONCE:
            self._take()

    def correlogram(self, moments: Moments) -> Correlogram:
        """Autocorrelations by lag; 0 while they cannot be known.

        Args:
            moments: Of the same stream.

        Source:
            Box, Jenkins and Reinsel (1994), Time Series Analysis, equation 2.1.11; standard
            errors: Lo and MacKinlay (1988), Review of Financial Studies 1, 41-66, section 1.2.
        """
        now = self.frozen()
        now._take()  # noqa: SLF001 - its own
        return now._known(moments)  # noqa: SLF001 - likewise

    def frozen(self) -> "Autocorrelation":
        """The same as it is now; what is added later is not in it."""
        now = copy(self)  # its arrays are replaced, never written to
        now._pending = list(self._pending)  # noqa: SLF001 - its own
        return now

    def _known(self, moments: Moments) -> Correlogram:
        rounding = self._n * (_ROUNDING * abs(moments.mean)) ** 2
        if self._n <= 2 or moments.m2 <= rounding:  # noqa: PLR2004 - two pairs at least
            return Correlogram(np.zeros(MAX_LAG), np.zeros(MAX_LAG))
        mean = moments.mean - self._origin
        n_pairs = np.maximum(0, self._n - np.arange(1, MAX_LAG + 1))
        earlier = self._total - _grown(self._tail[::-1])
        later = self._total - _grown(self._head)
        cross = self._products - mean * (earlier + later) + n_pairs * mean * mean
        cross = np.where(n_pairs > 0, cross, 0.0)
        scores = np.divide(
            cross, np.sqrt(self._squares), out=np.zeros(MAX_LAG), where=self._squares > 0.0
        )
        return Correlogram(np.clip(cross / moments.m2, -1.0, 1.0), scores)

    def _take(self) -> None:
        if not self._pending:
            return
        values = np.array(self._pending)
        self._pending = []
        if self._n == 0:
            self._origin = float(values.mean())
        values -= self._origin
        joined = np.concatenate([np.zeros(MAX_LAG - len(self._tail)), self._tail, values])
        before = np.lib.stride_tricks.sliding_window_view(joined[:-1], MAX_LAG)[-len(values) :]
        self._products = self._products + (values @ before)[::-1]
        self._squares = self._squares + (np.square(values) @ np.square(before))[::-1]
        self._n += len(values)
        self._total += float(values.sum())
        if len(self._head) < MAX_LAG:
            self._head = np.concatenate([self._head, values])[:MAX_LAG]
        self._tail = joined[-min(MAX_LAG, self._n) :]


def _grown(ends: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of the first one, two, ... of the values; of all where there are no more."""
    sums = np.cumsum(ends)
    return np.concatenate([sums, np.full(MAX_LAG - len(sums), sums[-1] if len(sums) else 0.0)])


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
    rounding = len(rows) * (_ROUNDING * _largest(rows)) ** 2
    return np.asarray(
        np.divide(cross, squares, out=np.zeros_like(cross), where=squares > rounding)
    )


def _largest(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Largest size of a value in each column; 0 of none."""
    # Without a copy of all of them.
    highest, lowest = (
        np.asarray(ends, np.float64)
        for ends in (rows.max(axis=0, initial=0), rows.min(axis=0, initial=0))
    )
    return np.asarray(np.maximum(highest, -lowest))


def is_autocorrelated(correlation: float, n: int) -> bool:
    """Whether a measured lag-1 autocorrelation is real and large enough to matter."""
    return correlation > max(MIN_LAG1, _STANDARD_ERRORS / math.sqrt(max(n, 1)))


def deciding_lag(found: Correlogram) -> int:
    """The lag whose autocorrelation is real, large enough to matter and the largest; 0 for none.

    Another than 1 only where it says clearly more, as that of accounts that take turns.
    """
    is_real = (found.values > MIN_LAG1) & (found.scores > _OF_SEVERAL)
    is_real[0] = found.values[0] > MIN_LAG1 and found.scores[0] > _STANDARD_ERRORS
    if not is_real.any():
        return 0
    largest = int(np.argmax(np.where(is_real, found.values, -1.0)))
    return 1 if is_real[0] and found.values[largest] < found.values[0] + MIN_LAG1 else largest + 1


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
    known = variance > (_ROUNDING * _largest(used)) ** 2
    ratio = np.divide(size * of_means, variance, out=np.ones(rows.shape[1]), where=known)
    return np.asarray(ratio)
