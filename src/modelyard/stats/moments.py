"""Count, mean and sum of squares about the mean: streaming, mergeable, stable."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Moments:
    """What a sample says about its mean and spread.

    Attributes:
        n: Number of values.
        mean: Their mean; 0.0 while there are none.
        m2: Sum of squares about the mean, in the squared unit.
    """

    n: int = 0
    mean: float = 0.0
    m2: float = 0.0

    @property
    def variance(self) -> float:
        """Unbiased variance; NaN below two values."""
        return self.m2 / (self.n - 1) if self.n > 1 else math.nan

    @property
    def std(self) -> float:
        """Square root of the unbiased variance; NaN below two values."""
        return math.sqrt(self.variance) if self.n > 1 else math.nan

    def with_value(self, value: float) -> "Moments":
        """The moments after one more value (Welford, 1962)."""
        n = self.n + 1
        delta = value - self.mean
        mean = self.mean + delta / n
        return Moments(n, mean, self.m2 + delta * (value - mean))


def moments_of(values: NDArray[Any]) -> Moments:
    """Moments of `values`, any shape, in float64; NaN and infinities are left out."""
    x = np.asarray(values, dtype=np.float64).ravel()
    x = x[np.isfinite(x)]
    if x.size == 0:
        return Moments()
    mean = float(x.mean())
    return Moments(int(x.size), mean, float(np.square(x - mean).sum()))


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of the two samples together (Chan, Golub and LeVeque, 1983)."""
    n = a.n + b.n
    if n == 0:
        return a
    delta = b.mean - a.mean
    # Sums of squares about the mean: E[x^2] - E[x]^2 cancels when the mean is large
    # beside the spread (mean 1e9, variance 0.97: the short formula returns 128).
    m2 = a.m2 + b.m2 + delta * delta * a.n * b.n / n
    return Moments(n, a.mean + delta * b.n / n, m2)


def merge_all(parts: Iterable[Moments]) -> Moments:
    """Moments of all samples together."""
    total = Moments()
    for part in parts:
        total = merge(total, part)
    return total
