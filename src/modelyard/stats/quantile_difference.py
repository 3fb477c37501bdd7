"""Difference of two quantiles, such as of two 99th percentiles of latency."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from modelyard._core.errors import ConfigError
from modelyard.stats.quantiles import quantiles
from modelyard.stats.significance import Contrast, contrast_of, no_contrast

# Values expected beyond the quantile below which its error cannot be known.
MIN_BEYOND = 10
# 100 values at a level of 0.9 have 9.999999999999998 beyond.
_ROUNDING = 1e-9
# Standard deviations of a rank within which its chances are summed.
_REACH = 9.0
# Those within which the quantile may lie beyond a step between tied values, or beyond any step:
# spacings far out in a tail are wide without being steps. A quantile that is as likely on either
# side has half of the step for a standard error, which it has at two standard deviations too.
_TIED_WITHIN, _WITHIN = 4.0, 2.0
# How much more often values have to be there for the quantile to be looked for between them.
_OFTEN = 4.0


def quantile_contrast(a: NDArray[Any], b: NDArray[Any], *, level: float) -> Contrast:
    """Difference of the quantiles at `level` of two independent samples.

    Values may be rounded, whole numbers, or zeros and ones. Where the quantile of either side lies
    between two values that are there often, it is that of the shares below a value with half of
    those equal to it, which moves smoothly where the plain one jumps. Elsewhere, where the true
    quantile could as well be the next value there is, the error is no less than that step allows;
    and where values are tied the difference is not called more certain than the shares of values
    on either side of every point between the two quantiles are.

    Args:
        a: Values of the control, shape (n,), finite and independent of each other.
        b: Values of the treatment, shape (m,), in the same unit.
        level: Strictly between 0 and 1: 0.5 for the median.

    Returns:
        Without variance where fewer than ten values of a side are expected beyond the quantile.

    Raises:
        ConfigError: `level` lies outside (0, 1).

    Source:
        Standard errors: Maritz and Jarrett (1978), J. American Statistical Association 73,
        194-196; among tied values they fall to 0 too early. Quantiles by the shares below a value:
        Woodruff (1952), J. American Statistical Association 47, 635-646. Between frequent values:
        Ma, Genton and Parzen (2011), Annals of the Inst. of Statistical Mathematics 63, 227-243.
    """
    if not 0.0 < level < 1.0:
        raise ConfigError(f"level must lie strictly between 0 and 1, got {level}.")
    if min(len(a), len(b)) * min(level, 1.0 - level) < MIN_BEYOND - _ROUNDING:
        return no_contrast()
    steps = [_Step.of(values, level) for values in (a, b)]
    if all(steps):
        known = [step for step in steps if step is not None]
        return contrast_of(
            mean_a=known[0].quantile,
            mean_b=known[1].quantile,
            parts=[(step.variance, step.n - 1.0) for step in known],
            n=4.0 * len(a) * len(b) / (len(a) + len(b)),
        )
    sides = [_Side.of(values, level) for values in (a, b)]
    parts = [(side.variance(), 2.0 * side.rank_error) for side in sides]
    if any(side.is_tied() for side in sides):
        low, high = sorted(sides, key=lambda side: side.quantile)
        missing = _variance_by_shares(low, high) - sum(variance for variance, _ in parts)
        parts.append((max(0.0, missing), sum(df for _, df in parts)))
    return contrast_of(
        mean_a=sides[0].quantile,
        mean_b=sides[1].quantile,
        parts=parts,
        n=4.0 * len(a) * len(b) / (len(a) + len(b)),
    )


@dataclass(frozen=True, slots=True)
class _Step:
    """A quantile between two values that are both there often.

    Attributes:
        n: Number of values in the sample.
        quantile: By the shares below a value with half of those equal to it.
        variance: Its squared standard error.
    """

    n: int
    quantile: float
    variance: float

    @classmethod
    def of(cls, values: NDArray[Any], level: float) -> "_Step | None":
        """The quantile of a sample; None where its neighbours are not there often enough."""
        atoms, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
        n = len(values)
        shares = counts / n
        middles = np.cumsum(shares) - shares / 2.0
        above = int(np.searchsorted(middles, level, side="right"))
        below = above - 1
        if below < 0 or above == len(atoms):
            return None
        if min(counts[below], counts[above]) < _OFTEN * _many(n, level):
            return None
        part = (level - middles[below]) / (middles[above] - middles[below])
        # What each value adds to the share at that place: all below it, half of those equal.
        adds = np.array([1.0, (1.0 + part) / 2.0, part / 2.0])
        chances = np.array([middles[below] - shares[below] / 2.0, shares[below], shares[above]])
        variance = float(chances @ np.square(adds)) - level * level
        step = atoms[above] - atoms[below]
        scale = step / (middles[above] - middles[below])
        return cls(n, float(atoms[below] + part * step), variance / n * float(scale) ** 2)


@dataclass(frozen=True, slots=True)
class _Side:
    """A sample near its quantile.

    Attributes:
        n: Number of values.
        level: Of the quantile.
        quantile: The sample's.
        first: Number of values before those of `near`.
        near: The values among which the true quantile surely is, in order, shape (k,).
    """

    n: int
    level: float
    quantile: float
    first: int
    near: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[Any], level: float) -> "_Side":
        """The part of a sample that matters."""
        n = len(values)
        rank = level * (n - 1) + 1.0
        reach = _REACH * math.sqrt(n * level * (1.0 - level)) + 1.0
        first, last = max(0, math.floor(rank - reach)), min(n, math.ceil(rank + reach))
        parted = np.partition(np.asarray(values, dtype=np.float64), (first, last - 1))
        return cls(n, level, quantiles(values, [level])[0], first, np.sort(parted[first:last]))

    @property
    def rank_error(self) -> float:
        """Standard deviation of the number of values below the true quantile."""
        return math.sqrt(self.n * self.level * (1.0 - self.level))

    def variance(self) -> float:
        """Squared standard error of the quantile.

        Its scale is read from about four `rank_error` spacings, which is what half as many
        degrees of freedom know.
        """
        return max(self._smooth_variance(), self._largest_step() ** 2)

    def is_tied(self) -> bool:
        """Whether some value is there so often that the quantile may stay on it."""
        _, counts = np.unique(self.near, return_counts=True)
        return bool(counts.max() >= self._many)

    def excess_below(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Standard errors by which too many values are below each point for the quantile."""
        n_below = self.first + np.searchsorted(self.near, points, side="left")
        excess: NDArray[np.float64] = np.maximum(0.0, n_below - self.n * self.level)
        return excess / self.rank_error

    def excess_above(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Standard errors by which too many values are above each point for the quantile."""
        n_up_to = self.first + np.searchsorted(self.near, points, side="right")
        excess: NDArray[np.float64] = np.maximum(0.0, self.n * self.level - n_up_to)
        return excess / self.rank_error

    @property
    def _many(self) -> float:
        return _many(self.n, self.level)

    def _smooth_variance(self) -> float:
        """Maritz and Jarrett's: the order statistics of a new sample fall among these.

        They do so by a beta distribution, so the quantile would be each of these with its chance.
        """
        rank = self.level * (self.n - 1) + 1.0
        edges = np.arange(self.first, self.first + len(self.near) + 1) / self.n
        chances = np.diff(special.betainc(rank, self.n + 1.0 - rank, edges))
        centred = self.near - self.near[len(self.near) // 2]
        mean = float(chances @ centred)
        return float(chances @ np.square(centred - mean))

    def _largest_step(self) -> float:
        """The standard error that the steps to other values within reach ask for.

        A step that is some standard deviations of the rank away is to be as many standard errors.
        """
        values, counts = np.unique(self.near, return_counts=True)
        n_below = self.first + np.cumsum(counts)[:-1]
        away = np.abs(n_below - self.n * self.level) / self.rank_error
        is_by_ties = np.maximum(counts[1:], counts[:-1]) >= self._many
        counts_here = (away <= _WITHIN) | (is_by_ties & (away <= _TIED_WITHIN))
        errors = np.diff(values) / np.maximum(_WITHIN, away)
        return float(np.max(errors, where=counts_here, initial=0.0))


def _many(n: int, level: float) -> float:
    """How often a value has to be there so that a quantile may stay on it."""
    return max(2.0, math.sqrt(n * level * (1.0 - level)) / 2.0)


def _variance_by_shares(low: _Side, high: _Side) -> float:
    """The least variance with which the difference of the quantiles is not overstated.

    If both had one true quantile, it would be some point between. There too many of the low
    side's values were below it, or too many of the high side's above: by so many standard errors
    that the likeliest point is as unlikely as the difference may be called.
    """
    points = np.concatenate([low.near, high.near, [low.quantile, high.quantile]])
    points = points[(low.quantile <= points) & (points <= high.quantile)]
    z = float(np.hypot(low.excess_below(points), high.excess_above(points)).min())
    return ((high.quantile - low.quantile) / max(1.0, z)) ** 2
