"""The trained chain and what the rest of modelyard needs of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelyard.trading.backtesting import backtest
from modelyard.trading.data import Stock
from modelyard.trading.paths import MarketPath, market_path
from modelyard.trading.rows import MarketRows, market_rows, stack_sequences, training_rows
from modelyard.trading.scaling import Scaler
from modelyard.trading.settings import ChainSettings, Models


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingCurves:
    """How training went, for plots.

    Attributes:
        ts2vec_loss: Per step, shape (n_iterations,).
        transformer_loss: Per step, shape (n_iterations,).
        policy_episode_return: Mean log return per episode in percent, per rollout; NaN before
            the first episode has ended.
    """

    ts2vec_loss: NDArray[np.float64]
    transformer_loss: NDArray[np.float64]
    policy_episode_return: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class TradingChain:
    """Three trained models, the statistics they need, and the data they were trained beside.

    Attributes:
        settings: What the chain was trained with; `settings.train_end` cuts the data.
        seed: Of the training.
        models: `ts2vec`, `transformer`, `head`, `policy`, all in eval mode.
        bar_scaler: Of TS2Vec's 4 inputs, fitted on the training part.
        input_scaler: Of the Transformer's 155 inputs, fitted on the training part.
        target_scaler: Of the 3 forecasts, fitted on the training part.
        curves: How training went.
        policy_hyper_parameters: What PPO was called with.
        rows: Scaled Transformer inputs and targets per ticker, all days.
        paths: Market states per ticker, all days; stocks with too short a history are left out.
    """

    settings: ChainSettings
    seed: int
    models: Models
    bar_scaler: Scaler
    input_scaler: Scaler
    target_scaler: Scaler
    curves: TrainingCurves
    policy_hyper_parameters: Mapping[str, Any]
    rows: Mapping[str, MarketRows]
    paths: Mapping[str, MarketPath]

    @property
    def held_out_start(self) -> date:
        """First day of the held-out part."""
        return self.settings.train_end + timedelta(days=1)

    def training_paths(self) -> dict[str, MarketPath]:
        """Market paths whose returns were earned in the training part."""
        return _cut(self.paths, end=self.settings.train_end)

    def held_out_paths(
        self, *, start: date | None = None, end: date | None = None
    ) -> dict[str, MarketPath]:
        """Market paths after the training part, or a period of them."""
        first = max(start or self.held_out_start, self.held_out_start)
        return _cut(self.paths, start=first, end=end)


def market_states(
    chain: TradingChain,
    stocks: Mapping[str, Stock],
    *,
    progress: Callable[[float], None] | None = None,
) -> dict[str, MarketPath]:
    """Market states of any stocks through the chain's models; short histories are left out.

    Args:
        chain: Trained.
        stocks: Bars per ticker.
        progress: Told the share of stocks done, 0 to 1.
    """
    paths = {}
    for i, (symbol, stock) in enumerate(stocks.items()):
        rows = market_rows(chain.models.ts2vec, stock, chain.bar_scaler)
        scaled = rows.scaled(chain.input_scaler, chain.target_scaler)
        path = market_path(chain.models.transformer, scaled)
        if path is not None:
            paths[symbol] = path
        if progress is not None:
            progress((i + 1) / len(stocks))
    return paths


def calibration_states(chain: TradingChain, *, n_states: int, rng: np.random.Generator) -> Tensor:
    """States the policy visits in the training part, shape (n, 263), drawn without repetition.

    All of them, in order, if there are no more than `n_states`.
    """
    walked = backtest(
        chain.models.policy, chain.training_paths(), cost_rate=chain.settings.cost_rate
    )
    return torch.from_numpy(walked.states[_draw(len(walked.states), n_states, rng)])


def training_sequences(
    chain: TradingChain, *, n_sequences: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Sequences (n, 64, 155) and scaled targets (n, 3) of the training part, drawn at random."""
    days = {
        symbol: training_rows(rows, train_end=chain.settings.train_end)
        for symbol, rows in chain.rows.items()
    }
    return _drawn_sequences(chain, days, n_sequences, rng)


def held_out_sequences(
    chain: TradingChain, *, n_sequences: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Sequences (n, 64, 155) and scaled targets (n, 3) after that part, drawn at random."""
    days = {}
    for symbol, rows in chain.rows.items():
        ends = rows.ends(start=chain.held_out_start)
        days[symbol] = ends[np.isfinite(rows.targets[ends]).all(axis=1)]
    return _drawn_sequences(chain, days, n_sequences, rng)


def _cut(
    paths: Mapping[str, MarketPath], *, start: date | None = None, end: date | None = None
) -> dict[str, MarketPath]:
    cut = {symbol: path.between(start=start, end=end) for symbol, path in paths.items()}
    return {symbol: path for symbol, path in cut.items() if len(path)}


def _drawn_sequences(
    chain: TradingChain,
    days: Mapping[str, NDArray[np.intp]],
    n_sequences: int,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    symbols = np.repeat(np.arange(len(days)), [len(ends) for ends in days.values()])
    chosen = _draw(len(symbols), n_sequences, rng)
    flat = np.concatenate(list(days.values()))[chosen]
    ends = [flat[symbols[chosen] == i] for i in range(len(days))]
    used = [(chain.rows[s], e) for s, e in zip(days, ends, strict=True) if len(e)]
    return stack_sequences([rows for rows, _ in used], [each for _, each in used])


def _draw(n_available: int, n_wanted: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Indices of a sample without repetition, in order."""
    if n_wanted >= n_available:
        return np.arange(n_available)
    return np.sort(rng.choice(n_available, size=n_wanted, replace=False))
