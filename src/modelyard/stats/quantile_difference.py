"""Difference of two quantiles, such as of two 99th percentiles of latency."""

import math
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


def quantile_contrast(a: NDArray[Any], b: NDArray[Any], *, level: float) -> Contrast:
    """Difference of the quantiles at `level` of two independent samples.

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
        194-196.
    """
    if not 0.0 < level < 1.0:
        raise ConfigError(f"level must lie strictly between 0 and 1, got {level}.")
    if min(len(a), len(b)) * min(level, 1.0 - level) < MIN_BEYOND - _ROUNDING:
        return no_contrast()
    return contrast_of(
        mean_a=quantiles(a, [level])[0],
        mean_b=quantiles(b, [level])[0],
        parts=[_variance(side, level) for side in (a, b)],
        n=4.0 * len(a) * len(b) / (len(a) + len(b)),
    )


def _variance(values: NDArray[Any], level: float) -> tuple[float, float]:
    """Squared standard error of a quantile, and its degrees of freedom.

    The order statistics of a new sample would fall among these by a beta distribution, so the
    quantile would be each of these with its chance. Its scale is read from about
    4 sqrt(n level (1 - level)) spacings, which is what half as many degrees of freedom know.
    """
    n = len(values)
    rank = level * (n - 1) + 1.0
    reach = _REACH * math.sqrt(n * level * (1.0 - level)) + 1.0
    first, last = max(0, math.floor(rank - reach)), min(n, math.ceil(rank + reach))
    chances = np.diff(special.betainc(rank, n + 1.0 - rank, np.arange(first, last + 1) / n))
    near = _order_statistics(values, first, last)
    centred = near - near[len(near) // 2]
    mean = float(chances @ centred)
    variance = float(chances @ np.square(centred - mean))
    return variance, 2.0 * math.sqrt(n * level * (1.0 - level))


def _order_statistics(values: NDArray[Any], first: int, last: int) -> NDArray[np.float64]:
    parted = np.partition(np.asarray(values, dtype=np.float64), (first, last - 1))
    return np.sort(parted[first:last])
