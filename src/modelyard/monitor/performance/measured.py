"""A figure and how far it can be believed, for values that may follow one another.

A figure that is no plain mean is one to first order: of its influence function, what each row
adds to it. The spread of that mean, over rows in time order, is the spread of the figure.

Source: Hampel (1974), J. of the American Statistical Association 69, 383-393.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelyard.stats.autocorrelation import lag1
from modelyard.stats.intervals import Interval
from modelyard.stats.proportions import wilson_interval
from modelyard.stats.sharpe import long_run_covariance

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
# Rows below which nothing can be said of how they follow one another.
FEWEST = 10
# Standard errors beyond which an autocorrelation is no chance.
_SIGNIFICANT = 2.0
# Beyond it values would tell nothing at all of their mean.
_MOST_MEMORY = 0.97
UNKNOWN = Interval(math.nan, math.nan)

Rows = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A figure and how far it can be believed.

    Attributes:
        value: In its unit; NaN without values.
        interval: 95 %, for values that may follow one another; NaN where they are too few.
        n: Values it is made of.
    """

    value: float
    interval: Interval
    n: int


def unknown(n: int) -> Measured:
    """A figure that `n` values do not give."""
    return Measured(value=math.nan, interval=UNKNOWN, n=n)


def measured_mean(values: Rows) -> Measured:
    """The mean of values in time order, shape (n,); what is not finite is left out.

    Its interval needs ten values.
    """
    known = values[np.isfinite(values)]
    n = len(known)
    if not n:
        return unknown(0)
    # In units of the largest value no square and no sum overflows.
    size = float(np.abs(known).max()) or 1.0
    scaled = known / size
    mean = float(scaled.mean())
    value = mean * size
    if n < FEWEST:
        return Measured(value=value, interval=UNKNOWN, n=n)
    half = Z * math.sqrt(variance_of_mean(scaled - mean))
    return Measured(
        value=value, interval=Interval((mean - half) * size, (mean + half) * size), n=n
    )


def measured_share(hits: Rows) -> Measured:
    """The share of ones among zeros and ones; its interval never leaves 0 to 1.

    Below ten rows the interval takes rows for independent.

    Args:
        hits: shape (n, k), rows in time order; what is not finite is left out.
    """
    known = np.isfinite(hits)
    counts = known.sum(axis=1).astype(np.float64)
    has_any = counts > 0.0
    sums, counts = np.where(known, hits, 0.0).sum(axis=1)[has_any], counts[has_any]
    n_rows, n = len(counts), int(counts.sum())
    if not n:
        return unknown(0)
    share = float(sums.sum()) / n
    influence = (sums - share * counts) / counts.mean()
    # Hits of one row may go together; rows that all agree tell nothing about that.
    n_effective = effective_number(share, influence, least=1.0, most=n, unseen=n_rows)
    return Measured(value=share, interval=wilson_interval(share, n_effective), n=n)


def effective_number(
    share: float, influence: Rows, *, least: float, most: float, unseen: float
) -> float:
    """Independent values that would tell as much about a share.

    Args:
        share: 0 to 1.
        influence: What each row adds to it, mean 0, shape (n,), in time order.
        least: The number it is not below.
        most: The number it is not above.
        unseen: The number where rows are too few, or all alike.
    """
    variance = variance_of_mean(influence) if len(influence) >= FEWEST else 0.0
    if variance <= 0.0:
        return unseen
    return min(max(share * (1.0 - share) / variance, least), most)


def variance_of_mean(centred: Rows) -> float:
    """Variance of the mean of values in time order, shape (n,), mean 0.

    Values that follow one another are also looked at in blocks: a long memory, such as that of
    the signs of a slow series, shows little from one value to the next.
    """
    n = len(centred)
    plain = max(float(long_run_covariance(centred[:, None])[0, 0]), 0.0) / n
    if _memory(centred) * math.sqrt(n) <= _SIGNIFICANT:
        return plain
    size = round(n ** (1.0 / 3.0))
    blocks = centred[n % size :].reshape(-1, size).mean(axis=1)
    return max(plain, _whitened_variance(centred), _whitened_variance(blocks - blocks.mean()))


def _whitened_variance(centred: Rows) -> float:
    """As `variance_of_mean`, what a value tells of the next one taken out and put back at the end.

    Source:
        Andrews and Monahan (1992), Econometrica 60, 953-966.
    """
    memory = min(max(_memory(centred), 0.0), _MOST_MEMORY)
    rest = centred[1:] - memory * centred[:-1]
    spread = float(long_run_covariance((rest - rest.mean())[:, None])[0, 0])
    return max(spread, 0.0) / (1.0 - memory) ** 2 / len(centred)


def _memory(centred: Rows) -> float:
    return float(lag1(centred[:, None])[0])
