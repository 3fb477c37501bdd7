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
    if min(len(a), len(b)) * min(level, 1.0 - level) < MIN_BEYOND:
        return no_contrast()
    return contrast_of(
        mean_a=quantiles(a, [level])[0],
        mean_b=quantiles(b, [level])[0],
        parts=[_variance(side, level) for side in (a, b)],
        n=4.0 * len(a) * len(b) / (len(a) + len(b)),
    )


def _variance(values: NDArray[Any], level: float) -> tuple[float, float]:
    """Squared standard error of a quantile, and its degrees of freedom."""
    n = len(values)
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    successes = level * (n - 1) + 1.0
    edges = special.betainc(successes, n + 1.0 - successes, np.arange(n + 1) / n)
    weights = np.diff(edges)
    centred = ordered - ordered[int(successes) - 1]
    mean = float(weights @ centred)
    return float(weights @ np.square(centred - mean)), 2.0 * math.sqrt(n * level * (1.0 - level))
