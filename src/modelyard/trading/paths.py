"""What a policy lives through: market states day by day and the return that followed each."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray
from torch import nn

from modelyard.trading.data import Dates, Floats
from modelyard.trading.rows import MarketRows, in_batches

_BATCH = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class MarketPath:
    """One stock's market states and what the stock did next; arrays of one length.

    Attributes:
        symbol: Ticker.
        dates: Days at whose close the state is known and a trade is made, shape (n_days,).
        next_dates: Trading day after each; the return is earned there.
        states: Market states, shape (n_days, 256), float32.
        next_returns: Simple return of the stock from this close to the next, shape (n_days,).
    """

    symbol: str
    dates: Dates
    next_dates: Dates
    states: NDArray[np.float32]
    next_returns: Floats

    def __len__(self) -> int:
        return len(self.dates)

    def between(self, *, start: date | None = None, end: date | None = None) -> "MarketPath":
        """The days traded on or after `start` whose return is earned by `end` (inclusive)."""
        inside = np.ones(len(self), dtype=bool)
        if start is not None:
            inside &= self.dates >= np.datetime64(start, "D")
        if end is not None:
            inside &= self.next_dates <= np.datetime64(end, "D")
        return MarketPath(
            symbol=self.symbol,
            dates=self.dates[inside],
            next_dates=self.next_dates[inside],
            states=self.states[inside],
            next_returns=self.next_returns[inside],
        )


def market_path(
    transformer: nn.Module,
    rows: MarketRows,
    *,
    progress: Callable[[float], None] | None = None,
) -> MarketPath | None:
    """The market states of one stock, or None if it has no day with a full sequence.

    Args:
        transformer: Gives (batch, 256) for (batch, 64, 155); in eval mode.
        rows: Scaled rows.
        progress: Told the share done, 0 to 1.
    """
    ends = rows.ends()[:-1]  # the last day has no return after it yet
    if len(ends) == 0:
        return None
    batches = [ends[i : i + _BATCH] for i in range(0, len(ends), _BATCH)]
    states = in_batches(
        transformer,
        (rows.sequences(batch) for batch in batches),
        n_batches=len(batches),
        progress=progress,
    )
    return MarketPath(
        symbol=rows.symbol,
        dates=rows.dates[ends],
        next_dates=rows.dates[ends + 1],
        states=states.astype(np.float32),
        next_returns=rows.next_returns[ends],
    )
