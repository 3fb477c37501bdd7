"""Training of the whole chain, the same for the same seed."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from modelyard._core.extras import require
from modelyard.trading.chain import TradingChain, TrainingCurves
from modelyard.trading.data import Stock, bar_inputs, load_stocks
from modelyard.trading.paths import MarketPath, market_path
from modelyard.trading.randomness import isolated
from modelyard.trading.rows import WINDOW_BARS, MarketRows, market_rows, training_rows
from modelyard.trading.scaling import Scaler
from modelyard.trading.settings import ChainSettings, Models, build_models
from modelyard.trading.transformer_training import train_transformer
from modelyard.trading.ts2vec_training import train_ts2vec

STAGES = ("ts2vec", "rows", "transformer", "states", "policy")
"""What `progress` is told about, in this order."""

Progress = Callable[[str, float], None]


def train_chain(
    settings: ChainSettings,
    *,
    seed: int,
    stocks: Mapping[str, Stock] | None = None,
    progress: Progress | None = None,
) -> TradingChain:
    """Train TS2Vec, then the Transformer on its vectors, then PPO on the Transformer's states.

    The same seed, settings and data give the same weights, bit for bit, on one machine. Global
    generators and torch's thread count are as before afterwards; do not train in two threads of
    one process at once.

    Args:
        settings: Sizes and training of each model; `presets.small()`.
        seed: Of every draw.
        stocks: Bars per ticker; the five of `load_stocks` by default.
        progress: Told a stage of `STAGES` and the share of it done, 0 to 1.

    Raises:
        MissingDependencyError: The extra `trading` is not installed.
        InputError: The training part is too short for one sequence or one episode.
    """
    # Asked for first: a missing package should not be found out after minutes of training.
    policy_training = require("modelyard.trading.policy_training", extra="trading")
    stocks = load_stocks() if stocks is None else stocks
    tell = progress or _tell_nobody
    seeds = np.random.SeedSequence(seed).generate_state(4)
    rng = np.random.default_rng(seeds[0])
    with isolated(seed=int(seeds[1]), n_threads=settings.n_threads):
        models = build_models(settings.architecture, seed=int(seeds[2]))
        bar_scaler, ts2vec_loss = _train_ts2vec(models, stocks, settings, rng, tell)
        raw = _all_rows(models, stocks, bar_scaler, tell)
        rows, input_scaler, target_scaler = _scaled_rows(raw, settings)
        transformer_loss = _train_transformer(models, rows, settings, rng, tell)
        paths = _all_paths(models, rows, tell)
        trained = policy_training.train_policy(
            [path.between(end=settings.train_end) for path in paths.values()],
            size=settings.architecture.policy,
            training=settings.policy_training,
            cost_rate=settings.cost_rate,
            seed=int(seeds[3]),
            progress=lambda share: tell("policy", share),
        )
    return TradingChain(
        settings=settings,
        seed=seed,
        models=Models(
            ts2vec=models.ts2vec,
            transformer=models.transformer,
            head=models.head,
            policy=trained.network,
        ),
        bar_scaler=bar_scaler,
        input_scaler=input_scaler,
        target_scaler=target_scaler,
        curves=TrainingCurves(
            ts2vec_loss=ts2vec_loss,
            transformer_loss=transformer_loss,
            policy_episode_return=trained.episode_returns,
        ),
        policy_hyper_parameters=trained.hyper_parameters,
        rows=rows,
        paths=paths,
    )


def _train_ts2vec(
    models: Models,
    stocks: Mapping[str, Stock],
    settings: ChainSettings,
    rng: np.random.Generator,
    tell: Progress,
) -> tuple[Scaler, NDArray[np.float64]]:
    parts = [bar_inputs(stock.until(settings.train_end)) for stock in stocks.values()]
    scaler = Scaler.fit(np.concatenate(parts))
    losses = train_ts2vec(
        models.ts2vec,
        [scaler.apply(part) for part in parts],
        window=WINDOW_BARS,
        training=settings.ts2vec_training,
        rng=rng,
        progress=lambda share: tell("ts2vec", share),
    )
    return scaler, losses


def _all_rows(
    models: Models, stocks: Mapping[str, Stock], bar_scaler: Scaler, tell: Progress
) -> dict[str, MarketRows]:
    rows = {}
    for symbol, stock in stocks.items():
        rows[symbol] = market_rows(models.ts2vec, stock, bar_scaler)
        tell("rows", len(rows) / len(stocks))
    return rows


def _scaled_rows(
    rows: Mapping[str, MarketRows], settings: ChainSettings
) -> tuple[dict[str, MarketRows], Scaler, Scaler]:
    inputs, targets = [], []
    for table in rows.values():
        last = np.datetime64(settings.train_end, "D")
        inputs.append(table.inputs[table.dates <= last])
        targets.append(table.targets[training_rows(table, train_end=settings.train_end)])
    input_scaler = Scaler.fit(np.concatenate(inputs))
    target_scaler = Scaler.fit(np.concatenate(targets))
    scaled = {symbol: table.scaled(input_scaler, target_scaler) for symbol, table in rows.items()}
    return scaled, input_scaler, target_scaler


def _train_transformer(
    models: Models,
    rows: Mapping[str, MarketRows],
    settings: ChainSettings,
    rng: np.random.Generator,
    tell: Progress,
) -> NDArray[np.float64]:
    tables = list(rows.values())
    return train_transformer(
        models.transformer,
        models.head,
        tables,
        [training_rows(table, train_end=settings.train_end) for table in tables],
        training=settings.transformer_training,
        rng=rng,
        progress=lambda share: tell("transformer", share),
    )


def _all_paths(
    models: Models, rows: Mapping[str, MarketRows], tell: Progress
) -> dict[str, MarketPath]:
    paths = {}
    for i, (symbol, table) in enumerate(rows.items()):
        path = market_path(models.transformer, table)
        if path is not None:
            paths[symbol] = path
        tell("states", (i + 1) / len(rows))
    return paths


def _tell_nobody(stage: str, share: float) -> None:
    """Progress when nobody asked for it."""
