"""The Sharpe ratio and how far it can be believed."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from modelyard.stats.intervals import Interval, alpha_of

# Below this a standard error is chance.
MIN_RETURNS = 10


@dataclass(frozen=True, kw_only=True)
class SharpeRatio:
    """A Sharpe ratio with its standard error; both NaN below ten returns or without any spread.

    Attributes:
        value: Mean over standard deviation, times the root of the periods in a year.
        standard_error: Same unit.
        df: Degrees of freedom of the standard error.
        n: Returns it is made of.
    """

    value: float
    standard_error: float
    df: float
    n: int

    def interval(self, *, confidence_level: float = 0.95) -> Interval:
        """Interval for the true ratio, normal approximation.

        Raises:
            ConfigError: `confidence_level` lies outside (0, 1).
        """
        z = float(special.ndtri(1.0 - alpha_of(confidence_level) / 2.0))
        return Interval(
            lower=self.value - z * self.standard_error, upper=self.value + z * self.standard_error
        )


def sharpe_ratio(returns: NDArray[np.float64], *, periods_per_year: float = 1.0) -> SharpeRatio:
    """Sharpe ratio of returns that may follow one another and need not be normal.

    Args:
        returns: Excess returns, shape (n,), in time order; what is not finite is left out.
        periods_per_year: For annualising: 252 for daily returns, 1 to leave the ratio as it is.

    Source:
        Sharpe (1994), J. of Portfolio Management 21, 49-58; standard error by the delta method
        with a covariance of returns and their squares that is consistent under autocorrelation:
        Ledoit and Wolf (2008), J. of Empirical Finance 15, 850-859, section 3.1.
    """
    known = np.asarray(returns, np.float64)
    known = known[np.isfinite(known)]
    n = len(known)
    if n < MIN_RETURNS or not np.ptp(known) > 0.0:
        return SharpeRatio(value=math.nan, standard_error=math.nan, df=math.nan, n=n)
    value, moved_by = influences(known)
    error, df = standard_error(moved_by)
    root = math.sqrt(periods_per_year)
    return SharpeRatio(value=root * value, standard_error=root * error, df=df, n=n)


def influences(returns: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """The Sharpe ratio of a period, and how far each return moves it.

    With z a return about the mean in standard deviations and S the ratio, z - S (z^2 - 1) / 2:
    the delta method's gradient at each return. The mean is 0; the long-run variance over n is the
    squared standard error of the ratio.

    Args:
        returns: shape (n,), finite, not all equal.
    """
    spread = returns.std()
    scaled = (returns - returns.mean()) / spread
    value = float(returns.mean() / spread)
    return value, scaled - 0.5 * value * (scaled * scaled - 1.0)


def standard_error(values: NDArray[np.float64]) -> tuple[float, float]:
    """Standard error of the mean of values that follow one another, and its degrees of freedom.

    From `long_run_covariance` with L lags, enlarged by what taking the mean off costs it,
    1 / (1 - (L + 1) / n); it has as much to say as a variance of 1.5 n / (L + 1) values.

    Args:
        values: shape (n,), in time order, mean 0.

    Source:
        Kiefer and Vogelsang (2005), Econometric Theory 21, 1130-1164 (the bias); Sun (2014),
        J. of Econometrics 178, 659-677 (the degrees of freedom, for Bartlett weights).
    """
    n = len(values)
    width = (_n_lags(values) + 1.0) / n
    variance = float(long_run_covariance(values[:, None])[0, 0]) / n
    return math.sqrt(max(variance, 0.0) / max(1.0 - width, 1.0 / n)), max(1.5 / width, 1.0)


def long_run_covariance(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Covariance of sqrt(n) times the mean of rows that follow one another.

    Bartlett weights up to the lag 4 (n / 100)^(2/9), or to the one that the first column's memory
    asks for if that is more.

    Args:
        moments: shape (n, k), in time order, mean 0.

    Source:
        Newey and West (1987), Econometrica 55, 703-708; lag: their (1994), Review of
        Economic Studies 61, 631-653, and Andrews (1991), Econometrica 59, 817-858, equation 6.4.
    """
    n = len(moments)
    lags = _n_lags(moments[:, 0])
    covariance = moments.T @ moments / n
    for lag in range(1, lags + 1):
        cross = moments[lag:].T @ moments[:-lag] / n
        covariance += (1.0 - lag / (lags + 1.0)) * (cross + cross.T)
    return np.asarray(covariance)


def memory_lag(values: NDArray[np.float64]) -> int:
    """Lags that the memory of a stream asks for; 0 for one without memory.

    Args:
        values: shape (n,), in time order, mean 0.
    """
    total = float(values @ values)
    r = min(max(float(values[1:] @ values[:-1]) / total, 0.0), 0.97) if total > 0.0 else 0.0
    alpha = 4.0 * r * r / ((1.0 - r) ** 2 * (1.0 + r) ** 2)
    return int(1.1447 * (alpha * len(values)) ** (1.0 / 3.0))


def _n_lags(values: NDArray[np.float64]) -> int:
    n = len(values)
    return min(max(math.floor(4.0 * math.pow(n / 100.0, 2.0 / 9.0)), memory_lag(values)), n - 1)
