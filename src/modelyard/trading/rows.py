"""From stocks to what the Transformer reads: 155 scaled inputs a day, and what it forecasts.

A row belongs to a day and holds the TS2Vec vector of the 256 bars that end there (128) and that
day's technical features (27). A sequence is 64 rows in a row.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor, nn

from modelyard.trading.data import Dates, Floats, Stock, bar_inputs
from modelyard.trading.features import technical_features
from modelyard.trading.scaling import Scaler
from modelyard.trading.transformer import SEQUENCE_DAYS

WINDOW_BARS = 256
"""Bars per TS2Vec window."""

HORIZON_DAYS = 5
"""How far the forecasts reach; so many days before a cut are left out of training."""

_BATCH = 16  # small batches stay in the cache: 16 windows are twice as fast each as 256
_VOLATILITY_BARS = 21
_SMALLEST_VOLATILITY = 1e-4


@dataclass(frozen=True, kw_only=True, eq=False)
class MarketRows:
    """One stock, one row a day from its 256th bar on.

    Attributes:
        symbol: Ticker.
        dates: Shape (n_days,).
        inputs: Shape (n_days, 155); scaled once `scaled` was called.
        targets: Shape (n_days, 3), as `FORECAST_TARGETS`; NaN where the future is not known.
        next_returns: Simple return from this close to the next, shape (n_days,); NaN at the end.
    """

    symbol: str
    dates: Dates
    inputs: Floats | NDArray[np.float32]
    targets: Floats | NDArray[np.float32]
    next_returns: Floats

    def __len__(self) -> int:
        return len(self.dates)

    def scaled(self, inputs: Scaler, targets: Scaler) -> "MarketRows":
        """The same days in standard scores, float32."""
        return MarketRows(
            symbol=self.symbol,
            dates=self.dates,
            inputs=inputs.apply(self.inputs),
            targets=targets.apply(self.targets),
            next_returns=self.next_returns,
        )

    def ends(self, *, start: date | None = None, end: date | None = None) -> NDArray[np.intp]:
        """Indices of the days from `start` to `end` (inclusive) that end a full sequence."""
        first = 0 if start is None else np.searchsorted(self.dates, np.datetime64(start, "D"))
        last = np.datetime64("9999-12-31" if end is None else end, "D")
        stop = np.searchsorted(self.dates, last, side="right")
        return np.arange(max(int(first), SEQUENCE_DAYS - 1), int(stop))

    def sequences(self, ends: NDArray[np.intp]) -> Tensor:
        """The sequences that end on those days, shape (n, 64, 155), float32."""
        windows = sliding_window_view(self.inputs, SEQUENCE_DAYS, axis=0)
        chosen = windows[ends - (SEQUENCE_DAYS - 1)].transpose(0, 2, 1)
        return torch.from_numpy(np.ascontiguousarray(chosen, dtype=np.float32))


def market_rows(
    ts2vec: nn.Module,
    stock: Stock,
    bar_scaler: Scaler,
    *,
    progress: Callable[[float], None] | None = None,
) -> MarketRows:
    """Unscaled rows of one stock; none for a stock with fewer than 256 bars.

    Args:
        ts2vec: Gives (batch, 128) for (batch, 256, 4); in eval mode.
        stock: Bars.
        bar_scaler: Fitted on the training part.
        progress: Told the share of windows done, 0 to 1.
    """
    embeddings = window_embeddings(ts2vec, bar_scaler.apply(bar_inputs(stock)), progress=progress)
    rows = slice(WINDOW_BARS - 1, None)
    features = technical_features(stock)[rows]
    next_returns = np.append(stock.close[1:] / stock.close[:-1] - 1.0, np.nan)
    return MarketRows(
        symbol=stock.symbol,
        dates=stock.dates[rows],
        inputs=np.concatenate([embeddings, features], axis=1),
        targets=forecast_targets(stock.close)[rows],
        next_returns=next_returns[rows],
    )


def window_embeddings(
    ts2vec: nn.Module,
    bars: NDArray[np.float32],
    *,
    progress: Callable[[float], None] | None = None,
) -> Floats:
    """TS2Vec's vector of every full window, shape (n_bars - 255, 128).

    Args:
        ts2vec: In eval mode.
        bars: Scaled bars, shape (n_bars, 4).
        progress: Told the share done, 0 to 1.
    """
    n_windows = max(len(bars) - WINDOW_BARS + 1, 0)
    if n_windows == 0:
        return np.empty((0, 128))
    windows = sliding_window_view(bars, WINDOW_BARS, axis=0).transpose(0, 2, 1)
    batches = (
        torch.from_numpy(windows[i : i + _BATCH].copy()) for i in range(0, n_windows, _BATCH)
    )
    return in_batches(ts2vec, batches, n_batches=-(-n_windows // _BATCH), progress=progress)


def forecast_targets(close: Floats) -> Floats:
    """What the Transformer is trained to forecast at each close, shape (n_bars, 3).

    Log return of the next day and of the next five days, each over its expected size by the
    volatility of the past 21 days; and the logarithm of the realised volatility (root mean
    square of daily log returns) of the next five days. NaN where past or future is missing.
    """
    log_close = np.log(close)
    daily = np.diff(log_close, prepend=log_close[:1])
    targets = np.full((len(close), 3), np.nan)
    if len(close) <= _VOLATILITY_BARS + HORIZON_DAYS:
        return targets
    past = np.full(len(close), np.nan)
    past[_VOLATILITY_BARS:] = _root_mean_square(daily[1:], _VOLATILITY_BARS)
    targets[:-1, 0] = (log_close[1:] - log_close[:-1]) / past[:-1]
    ahead = log_close[HORIZON_DAYS:] - log_close[:-HORIZON_DAYS]
    targets[:-HORIZON_DAYS, 1] = ahead / (past[:-HORIZON_DAYS] * np.sqrt(HORIZON_DAYS))
    targets[:-HORIZON_DAYS, 2] = np.log(_root_mean_square(daily[1:], HORIZON_DAYS))
    targets[:_VOLATILITY_BARS] = np.nan
    return targets


def training_rows(rows: MarketRows, *, train_end: date) -> NDArray[np.intp]:
    """Days that end a full sequence and whose forecasts are settled by `train_end`.

    The last five days of the training part are left out: their targets lie behind the cut.
    """
    return rows.ends(end=train_end)[:-HORIZON_DAYS]


def in_batches(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    n_batches: int,
    progress: Callable[[float], None] | None = None,
) -> Floats:
    """Outputs of `model` for all batches, one below the other, without gradients."""
    outputs: list[NDArray[np.float32]] = []
    with torch.inference_mode():
        for batch in batches:
            outputs.append(model(batch).numpy())
            if progress is not None:
                progress(len(outputs) / n_batches)
    return np.concatenate(outputs).astype(np.float64)


def stack_sequences(
    rows: Sequence[MarketRows], ends: Sequence[NDArray[np.intp]]
) -> tuple[Tensor, Tensor]:
    """Sequences (n, 64, 155) and targets (n, 3) of several stocks together, float32."""
    pairs = list(zip(rows, ends, strict=True))
    sequences = torch.cat([table.sequences(days) for table, days in pairs])
    targets = np.concatenate([table.targets[days] for table, days in pairs])
    return sequences, torch.from_numpy(targets.astype(np.float32))


def _root_mean_square(values: Floats, n: int) -> Floats:
    mean_square = np.mean(sliding_window_view(values, n) ** 2, axis=-1)
    volatility: Floats = np.maximum(np.sqrt(mean_square), _SMALLEST_VOLATILITY)
    return volatility
