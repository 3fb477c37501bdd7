"""The reference chain on real data: TS2Vec, a market Transformer and a PPO policy.

    stock bars (256, 4)  ->  TS2Vec       ->  128
    128 + 27 features    ->  155 a day
    64 days (64, 155)    ->  Transformer  ->  256
    256 + 7 of account   ->  263
    state (263)          ->  policy       ->  4 logits

It exists so that versions, compression, export and rollouts are shown on models somebody could
own; nothing is claimed for the strategy. The extra `trading` brings data and training; names that
need it are loaded on first use.
"""

from typing import TYPE_CHECKING, Any

from modelyard._core.extras import require
from modelyard.trading import presets
from modelyard.trading.account import ACCOUNT_FEATURES, DEFAULT_COST_RATE, TARGET_EXPOSURES
from modelyard.trading.backtesting import (
    Backtest,
    Policy,
    backtest,
    buy_and_hold,
    compare_with_baselines,
    random_policy,
)
from modelyard.trading.chain import (
    TradingChain,
    TrainingCurves,
    calibration_states,
    held_out_sequences,
    market_states,
    training_sequences,
)
from modelyard.trading.chain_training import STAGES, train_chain
from modelyard.trading.data import BAR_INPUTS, SYMBOLS, TRAIN_END, Stock, load_stocks
from modelyard.trading.features import FEATURE_NAMES, technical_features
from modelyard.trading.metrics import (
    PerformanceMetrics,
    cagr,
    equity_curve,
    max_dd,
    performance,
    sharpe,
    win_rate,
)
from modelyard.trading.paths import MarketPath
from modelyard.trading.policy import PolicyNetwork
from modelyard.trading.rows import MarketRows
from modelyard.trading.scaling import Scaler
from modelyard.trading.settings import Architecture, ChainSettings, Models, build_models
from modelyard.trading.transformer import FORECAST_TARGETS, ForecastHead, MarketTransformer
from modelyard.trading.transformer_training import transformer_task_error
from modelyard.trading.ts2vec import TS2Vec

if TYPE_CHECKING:
    from modelyard.trading.environment import TradingEnvironment
    from modelyard.trading.policy_training import train_policy

_NEEDS_EXTRA = {
    "TradingEnvironment": "modelyard.trading.environment",
    "train_policy": "modelyard.trading.policy_training",
}

__all__ = [
    "ACCOUNT_FEATURES",
    "BAR_INPUTS",
    "DEFAULT_COST_RATE",
    "FEATURE_NAMES",
    "FORECAST_TARGETS",
    "STAGES",
    "SYMBOLS",
    "TARGET_EXPOSURES",
    "TRAIN_END",
    "Architecture",
    "Backtest",
    "ChainSettings",
    "ForecastHead",
    "MarketPath",
    "MarketRows",
    "MarketTransformer",
    "Models",
    "PerformanceMetrics",
    "Policy",
    "PolicyNetwork",
    "Scaler",
    "Stock",
    "TS2Vec",
    "TradingChain",
    "TradingEnvironment",
    "TrainingCurves",
    "backtest",
    "build_models",
    "buy_and_hold",
    "cagr",
    "calibration_states",
    "compare_with_baselines",
    "equity_curve",
    "held_out_sequences",
    "load_stocks",
    "market_states",
    "max_dd",
    "performance",
    "presets",
    "random_policy",
    "sharpe",
    "technical_features",
    "train_chain",
    "train_policy",
    "training_sequences",
    "transformer_task_error",
    "win_rate",
]


def __getattr__(name: str) -> Any:
    home = _NEEDS_EXTRA.get(name)
    if home is None:
        raise AttributeError(f"module 'modelyard.trading' has no attribute {name!r}")
    value = getattr(require(home, extra="trading"), name)
    globals()[name] = value
    return value
