"""The trained chain as sources for the lifecycle."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from modelyard.pipeline import ModelSource, Stream
from modelyard.torchtools.inputs import call
from modelyard.trading import (
    FEATURE_NAMES,
    Backtest,
    MarketPath,
    TradingChain,
    backtest,
    calibration_states,
    held_out_sequences,
    training_sequences,
    transformer_task_error,
)

CALM = (date(2004, 1, 1), date(2006, 12, 31))
STREAM_END = date(2010, 12, 31)
CRISIS = ("2008-09-15", "2009-06-30", "financial crisis")

_N_STATES = 4096
_N_TRAINING_SEQUENCES = 1024
_N_HELD_OUT_SEQUENCES = 768
_EMBEDDING_SIZE = 128


def policy_source(chain: TradingChain, *, seed: int) -> ModelSource:
    """The PPO actor: judged by the portfolio it earns on held-out days, paired day by day."""
    paths = chain.held_out_paths()

    def run(model: nn.Module) -> Backtest:
        return backtest(
            lambda states: call(model, states), paths, cost_rate=chain.settings.cost_rate
        )

    def evaluate(model: nn.Module) -> Mapping[str, float]:
        return {name: float(value) for name, value in run(model).metrics.items()}  # type: ignore[arg-type]  # a TypedDict of floats

    return ModelSource(
        name="policy",
        model=chain.models.policy,
        config=asdict(chain.settings.architecture.policy),
        train_inputs=calibration_states(
            chain, n_states=_N_STATES, rng=np.random.default_rng(seed)
        ),
        held_out_inputs=torch.from_numpy(run(chain.models.policy).states),
        evaluate=evaluate,
        primary_metric="sharpe",
        unit_scores=lambda model: run(model).returns,
        unit_metric="daily_return",
        unit="day",
    )


def transformer_source(chain: TradingChain, *, seed: int) -> ModelSource:
    """The market Transformer: judged by its forecasts, through the head it was trained with."""
    rng = np.random.default_rng(seed)
    train, _ = training_sequences(chain, n_sequences=_N_TRAINING_SEQUENCES, rng=rng)
    held_out, targets = held_out_sequences(chain, n_sequences=_N_HELD_OUT_SEQUENCES, rng=rng)
    head = chain.models.head

    def evaluate(model: nn.Module) -> Mapping[str, float]:
        error = transformer_task_error(model, head, held_out, targets)
        return {"forecast_error": float(error)}

    def unit_scores(model: nn.Module) -> NDArray[np.float64]:
        forecasts = call(head, call(model, held_out))
        squared: NDArray[np.float64] = ((forecasts - targets) ** 2).mean(dim=1).double().numpy()
        return squared

    return ModelSource(
        name="transformer",
        model=chain.models.transformer,
        config=asdict(chain.settings.architecture.transformer),
        train_inputs=train,
        held_out_inputs=held_out,
        evaluate=evaluate,
        primary_metric="forecast_error",
        is_lower_better=True,
        unit_scores=unit_scores,
        unit_metric="forecast_error",
        unit="sequence",
    )


def crisis_stream(chain: TradingChain) -> Stream:
    """Calm years as the baseline, then 2007 to 2010 as they came; technical features watched."""
    calm_paths = {
        symbol: path.between(start=CALM[0], end=CALM[1]) for symbol, path in chain.paths.items()
    }
    calm = _walked(chain, {symbol: path for symbol, path in calm_paths.items() if len(path)})
    later = _walked(chain, chain.held_out_paths(end=STREAM_END))
    return Stream(
        reference_inputs=torch.from_numpy(calm.states),
        reference_features=_features(chain, calm),
        inputs=torch.from_numpy(later.states),
        features=_features(chain, later),
        times=[str(day) for day in later.state_dates],
        feature_names=FEATURE_NAMES,
        shaded=[CRISIS],
        reference_label=f"{CALM[0].year} to {CALM[1].year}",
    )


def other_models(
    chain: TradingChain,
) -> dict[str, tuple[nn.Module, Mapping[str, Any], Mapping[str, float]]]:
    """What is saved beside the models that are compressed."""
    loss = float(np.mean(chain.curves.ts2vec_loss[-10:]))
    config = asdict(chain.settings.architecture.ts2vec)
    return {"ts2vec": (chain.models.ts2vec, config, {"contrastive_loss": loss})}


def _walked(chain: TradingChain, paths: Mapping[str, MarketPath]) -> Backtest:
    return backtest(chain.models.policy, paths, cost_rate=chain.settings.cost_rate)


def _features(chain: TradingChain, walked: Backtest) -> NDArray[np.float32]:
    """The 27 technical features on the days and stocks of the states, in standard scores."""
    rows = []
    for day, symbol in zip(walked.state_dates, walked.state_symbols, strict=True):
        market = chain.rows[str(symbol)]
        rows.append(market.inputs[int(np.searchsorted(market.dates, day)), _EMBEDDING_SIZE:])
    return np.asarray(rows, dtype=np.float32)
