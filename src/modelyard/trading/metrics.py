"""Sharpe ratio, growth, drawdown and win rate of daily simple returns.

Every figure is NaN for an empty series and for one that contains NaN: an unknown day makes the
figure unknown. Reference numbers: `tests/reference/trading_metrics.json`, made with
empyrical-reloaded and quantstats by `tests/reference/make_trading_metrics.py`.
"""

from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike

from modelyard._core.errors import InputError
from modelyard.trading.data import Floats

TRADING_DAYS_PER_YEAR = 252


class PerformanceMetrics(TypedDict):
    """The four figures of the design document, by its names."""

    sharpe: float
    cagr: float
    max_dd: float
    win_rate: float


def performance(
    returns: ArrayLike, *, periods_per_year: int = TRADING_DAYS_PER_YEAR
) -> PerformanceMetrics:
    """All four figures of daily simple returns."""
    return {
        "sharpe": sharpe(returns, periods_per_year=periods_per_year),
        "cagr": cagr(returns, periods_per_year=periods_per_year),
        "max_dd": max_dd(returns),
        "win_rate": win_rate(returns),
    }


def sharpe(returns: ArrayLike, *, periods_per_year: int = TRADING_DAYS_PER_YEAR) -> float:
    """Mean over standard deviation, annualised; the risk-free rate is taken as zero.

    The standard deviation is the sample's (divisor n - 1). NaN with fewer than two returns and
    for constant returns, whose ratio does not exist.

    Source:
        Sharpe (1994), The Journal of Portfolio Management 21(1), 49-58.
    """
    values = _checked(returns)
    # Constant values may have a standard deviation of 1e-19: compare the values themselves.
    if len(values) < 2 or np.ptp(values) == 0:  # noqa: PLR2004 - a deviation needs two values
        return float("nan")
    return float(values.mean() / values.std(ddof=1) * np.sqrt(periods_per_year))


def cagr(returns: ArrayLike, *, periods_per_year: int = TRADING_DAYS_PER_YEAR) -> float:
    """Compound annual growth: 0.25 means that a year multiplied the money by 1.25."""
    values = _checked(returns)
    if len(values) == 0:
        return float("nan")
    return float(np.prod(1.0 + values) ** (periods_per_year / len(values)) - 1.0)


def max_dd(returns: ArrayLike) -> float:
    """Largest fall from an earlier high, the starting capital included: 0.3 means 30 % lost."""
    values = _checked(returns)
    if len(values) == 0:
        return float("nan")
    equity = np.concatenate([[1.0], equity_curve(values)])
    return float(np.max(1.0 - equity / np.maximum.accumulate(equity)))


def win_rate(returns: ArrayLike) -> float:
    """Share of positive returns among those that are not zero; NaN if all are zero.

    Days without a position return exactly zero and are neither won nor lost.
    """
    values = _checked(returns)
    n_decided = int(np.count_nonzero(values))
    if n_decided == 0 or np.isnan(values).any():
        return float("nan")
    return float(np.count_nonzero(values > 0) / n_decided)


def equity_curve(returns: ArrayLike) -> Floats:
    """Value of 1 unit of money at the end of each day, same length as `returns`."""
    return np.cumprod(1.0 + _checked(returns), dtype=np.float64)


def _checked(returns: ArrayLike) -> Floats:
    values = np.asarray(returns, dtype=np.float64)
    if values.ndim != 1:
        raise InputError(f"Returns must be a series, got shape {values.shape}. Pass one column.")
    if (values < -1.0).any():
        raise InputError(
            f"A simple return of {values.min()} loses more than everything. Pass 0.01 for 1 %, "
            "not 1; log returns become simple ones by numpy.expm1."
        )
    return values
