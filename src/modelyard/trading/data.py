"""Daily prices of five stocks, split- and dividend-adjusted, and the date that cuts them in two.

Everything fitted later is fitted on bars up to `TRAIN_END`; everything judged is judged after it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from modelyard._core.errors import InputError
from modelyard._core.extras import require

SYMBOLS = ("AAPL", "FB", "GOOG", "IBM", "MSFT")
TRAIN_END = date(2006, 12, 31)
"""Last day of the training part: 2008 stays unseen."""

BAR_INPUTS = ("open_return", "high_return", "low_return", "close_return")
"""The four inputs per bar of TS2Vec: log price relative to the previous close."""

_PRICES = ("open", "high", "low", "close")

Floats = NDArray[np.float64]
Dates = NDArray[np.datetime64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Stock:
    """Daily bars of one stock, oldest first; arrays of one length, read-only.

    Attributes:
        symbol: Ticker.
        dates: Trading days, `datetime64[D]`, strictly rising.
        open: Adjusted price in US dollars; `high`, `low` and `close` likewise.
        high: Highest price of the day.
        low: Lowest price of the day.
        close: Last price of the day.
        volume: Shares traded, adjusted so that price times volume is the dollars traded.

    Raises:
        InputError: Lengths differ, dates do not rise, or a bar is impossible.
    """

    symbol: str
    dates: Dates
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats

    def __post_init__(self) -> None:
        _check_shapes(self)
        _check_bars(self)
        for name in ("dates", *_PRICES, "volume"):
            getattr(self, name).flags.writeable = False

    def __len__(self) -> int:
        return len(self.dates)

    def until(self, last: date) -> "Stock":
        """The bars up to and including `last`."""
        n_bars = int(np.searchsorted(self.dates, np.datetime64(last, "D"), side="right"))
        return Stock(
            symbol=self.symbol,
            dates=self.dates[:n_bars].copy(),
            volume=self.volume[:n_bars].copy(),
            **{name: getattr(self, name)[:n_bars].copy() for name in _PRICES},
        )


def load_stocks() -> dict[str, Stock]:
    """The five stocks of `bokeh_sampledata`: 12,154 bars from 2000-03-01 to 2013-03-01.

    Prices in the source are as traded; each bar is multiplied by its adjusted over its plain
    close, so that a split is not a crash (AAPL halves overnight in February 2005 otherwise).
    The factor uses later dividends, hence only ratios of prices may become model inputs.

    Raises:
        MissingDependencyError: The extra `trading` is not installed.
    """
    source = require("bokeh_sampledata.stocks", extra="trading")
    return {symbol: _adjusted(symbol, getattr(source, symbol)) for symbol in SYMBOLS}


def bar_inputs(stock: Stock) -> Floats:
    """TS2Vec's inputs, shape (n_bars, 4), columns as `BAR_INPUTS`; the first row is zero."""
    previous_close = np.concatenate([stock.close[:1], stock.close[:-1]])
    prices = np.stack([getattr(stock, name) for name in _PRICES], axis=1)
    relative: Floats = np.log(prices / previous_close[:, None])
    relative[:1] = 0.0
    return relative


def _adjusted(symbol: str, raw: Mapping[str, list[float]]) -> Stock:
    factor = np.asarray(raw["adj_close"], dtype=np.float64) / np.asarray(raw["close"])
    return Stock(
        symbol=symbol,
        dates=np.asarray(raw["date"], dtype="datetime64[D]"),
        volume=np.asarray(raw["volume"], dtype=np.float64) / factor,
        **{name: np.asarray(raw[name], dtype=np.float64) * factor for name in _PRICES},
    )


def _check_shapes(stock: Stock) -> None:
    for name in (*_PRICES, "volume"):
        shape = getattr(stock, name).shape
        if shape != (len(stock.dates),):
            raise InputError(
                f"{stock.symbol}: {name} has shape {shape}, the dates have {len(stock.dates)} "
                "days. Give one value per day."
            )
    if len(stock.dates) > 1 and not np.all(np.diff(stock.dates) > np.timedelta64(0, "D")):
        raise InputError(f"{stock.symbol}: dates must rise strictly. Sort and deduplicate them.")


def _check_bars(stock: Stock) -> None:
    tolerance = 1.0 + 1e-9  # adjusting rounds each price on its own
    impossible = ~(
        (stock.low > 0)
        & np.isfinite(stock.high)
        & (stock.high * tolerance >= np.maximum(stock.open, stock.close))
        & (stock.low <= np.minimum(stock.open, stock.close) * tolerance)
        & (stock.volume >= 0)
    )
    if impossible.any():
        day = stock.dates[int(np.argmax(impossible))]
        raise InputError(
            f"{stock.symbol}: the bar of {day} is impossible. Prices must be positive, low and "
            "high must enclose open and close, volume must not be negative."
        )
