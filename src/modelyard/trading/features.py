"""27 technical features per bar, each a function of that bar and earlier ones only.

All are ratios, so multiplying every price of a stock by one number changes nothing: the level of
adjusted prices contains later dividends and must not reach a model.
"""

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from scipy.signal import lfilter

from modelyard.trading.data import Floats, Stock

FEATURE_NAMES = (
    "return_1d",
    "return_5d",
    "return_10d",
    "return_21d",
    "return_63d",
    "overnight_return",
    "intraday_return",
    "range",
    "close_in_range",
    "volatility_5d",
    "volatility_21d",
    "volatility_63d",
    "parkinson_volatility_21d",
    "true_range_14d",
    "average_ratio_10d",
    "average_ratio_50d",
    "average_ratio_200d",
    "macd",
    "macd_histogram",
    "relative_strength_14d",
    "stochastic_14d",
    "bollinger_20d",
    "drawdown_63d",
    "rise_63d",
    "volume_ratio_21d",
    "volume_trend_63d",
    "volume_return_correlation_21d",
)

WARM_UP_BARS = 200
"""Rows before this one are NaN: the longest window is not yet full."""


def technical_features(stock: Stock) -> Floats:
    """The features of every bar.

    Args:
        stock: Bars of one stock, oldest first.

    Returns:
        Shape (n_bars, 27), columns as `FEATURE_NAMES`. The first `WARM_UP_BARS` rows are NaN,
        every later value is finite.
    """
    if len(stock) <= WARM_UP_BARS:
        return np.full((len(stock), len(FEATURE_NAMES)), np.nan)
    columns = {**_returns(stock), **_spreads(stock), **_trends(stock), **_volumes(stock)}
    table = np.stack([columns[name] for name in FEATURE_NAMES], axis=1)
    table[:WARM_UP_BARS] = np.nan
    return table


def _returns(stock: Stock) -> dict[str, Floats]:
    log_close = np.log(stock.close)
    columns = {f"return_{n}d": _change(log_close, n) for n in (1, 5, 10, 21, 63)}
    columns["overnight_return"] = np.log(stock.open / _before(stock.close))
    columns["intraday_return"] = np.log(stock.close / stock.open)
    daily = _change(log_close, 1)
    return columns | {f"volatility_{n}d": _rolling(np.std, daily, n) for n in (5, 21, 63)}


def _spreads(stock: Stock) -> dict[str, Floats]:
    log_range = np.log(stock.high / stock.low)
    before = _before(stock.close)
    true_range = np.maximum(stock.high, before) - np.minimum(stock.low, before)
    top, bottom = _rolling(np.max, stock.high, 14), _rolling(np.min, stock.low, 14)
    return {
        "range": log_range,
        "close_in_range": _share(stock.close - stock.low, stock.high - stock.low),
        # Parkinson (1980): the variance of a day is its squared log range over 4 ln 2.
        "parkinson_volatility_21d": np.sqrt(_mean(log_range**2, 21) / (4 * np.log(2))),
        "true_range_14d": _mean(true_range, 14) / stock.close,
        "stochastic_14d": _share(stock.close - bottom, top - bottom),
    }


def _trends(stock: Stock) -> dict[str, Floats]:
    close = stock.close
    columns = {f"average_ratio_{n}d": np.log(close / _mean(close, n)) for n in (10, 50, 200)}
    macd = _smooth(close, 12) - _smooth(close, 26)
    gain, loss = _gains_and_losses(close, 14)
    deviation = _rolling(np.std, close, 20)
    return columns | {
        "macd": macd / close,
        "macd_histogram": (macd - _smooth(macd, 9)) / close,
        "relative_strength_14d": _share(gain, gain + loss),
        "bollinger_20d": _ratio(close - _mean(close, 20), 2 * deviation, where_zero=0.0),
        "drawdown_63d": np.log(close / _rolling(np.max, close, 63)),
        "rise_63d": np.log(close / _rolling(np.min, close, 63)),
    }


def _volumes(stock: Stock) -> dict[str, Floats]:
    volume = stock.volume + 1.0  # one share: the logarithm of a day without trade stays finite
    change, daily = _change(np.log(volume), 1), _change(np.log(stock.close), 1)
    return {
        "volume_ratio_21d": np.log(volume / _mean(volume, 21)),
        "volume_trend_63d": np.log(_mean(volume, 5) / _mean(volume, 63)),
        "volume_return_correlation_21d": _correlation(change, daily, 21),
    }


def _change(values: Floats, n: int) -> Floats:
    """Difference to `n` bars before; zero while there is none."""
    changes = np.zeros_like(values)
    changes[n:] = values[n:] - values[:-n]
    return changes


def _before(values: Floats) -> Floats:
    return np.concatenate([values[:1], values[:-1]])


def _rolling(statistic: Callable[..., Floats], values: Floats, n: int) -> Floats:
    """`statistic` of the last `n` values, NaN while there are fewer."""
    result = np.full(len(values), np.nan)
    result[n - 1 :] = statistic(sliding_window_view(values, n), axis=-1)
    return result


def _mean(values: Floats, n: int) -> Floats:
    return _rolling(np.mean, values, n)


def _smooth(values: Floats, span: int) -> Floats:
    """Exponential moving average with decay 2 / (span + 1), begun at the first value."""
    alpha = 2.0 / (span + 1)
    smoothed, _ = lfilter([alpha], [1.0, alpha - 1.0], values, zi=values[:1] * (1.0 - alpha))
    return np.asarray(smoothed)


def _gains_and_losses(close: Floats, n: int) -> tuple[Floats, Floats]:
    """Mean rise and mean fall of the last `n` days (Cutler's form of the RSI)."""
    change = _change(close, 1)
    return _mean(np.maximum(change, 0.0), n), _mean(np.maximum(-change, 0.0), n)


def _correlation(a: Floats, b: Floats, n: int) -> Floats:
    covariance = _mean(a * b, n) - _mean(a, n) * _mean(b, n)
    spread = _rolling(np.std, a, n) * _rolling(np.std, b, n)
    # Rounding can carry a perfect correlation past one.
    return np.clip(_ratio(covariance, spread, where_zero=0.0), -1.0, 1.0)


def _share(part: Floats, whole: Floats) -> Floats:
    """`part / whole` from 0 to 1; one half where the whole is zero (nothing moved)."""
    return np.clip(_ratio(part, whole, where_zero=0.5), 0.0, 1.0)


def _ratio(top: Floats, bottom: Floats, *, where_zero: float) -> Floats:
    result = np.full_like(top, where_zero)
    np.divide(top, bottom, out=result, where=bottom != 0)
    return result
