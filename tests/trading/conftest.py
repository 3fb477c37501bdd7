"""Synthetic stocks and a chain trained on them in seconds."""

from datetime import date

import numpy as np
import pytest

from modelyard.trading import Architecture, ChainSettings, MarketPath, Stock
from modelyard.trading.settings import PolicySize, PolicyTraining, TransformerSize, TS2VecSize
from modelyard.trading.transformer_training import TransformerTraining
from modelyard.trading.ts2vec_training import TS2VecTraining


def make_stock(n_bars, *, seed=0, symbol="SYN", first_day="2001-01-01"):
    """A random walk with possible bars."""
    rng = np.random.default_rng(seed)
    close = 20 * np.exp(np.cumsum(rng.normal(0.0003, 0.015, n_bars)))
    opening = close * np.exp(rng.normal(0, 0.005, n_bars))
    reach = np.exp(np.abs(rng.normal(0, 0.005, (2, n_bars))))
    return Stock(
        symbol=symbol,
        dates=np.datetime64(first_day) + np.arange(n_bars),
        open=opening,
        high=np.maximum(opening, close) * reach[0],
        low=np.minimum(opening, close) / reach[1],
        close=close,
        volume=rng.integers(1_000, 9_000, n_bars).astype(float),
    )


def make_path(n_days, *, seed=0, symbol="SYN", first_day="2001-01-01"):
    """Random market states and returns."""
    rng = np.random.default_rng(seed)
    dates = np.datetime64(first_day) + np.arange(n_days + 1)
    return MarketPath(
        symbol=symbol,
        dates=dates[:-1],
        next_dates=dates[1:],
        states=rng.uniform(-1, 1, (n_days, 256)).astype(np.float32),
        next_returns=rng.normal(0.0005, 0.02, n_days),
    )


@pytest.fixture(scope="session")
def new_stock():
    return make_stock


@pytest.fixture(scope="session")
def new_path():
    return make_path


@pytest.fixture(scope="session")
def tiny_settings():
    return ChainSettings(
        architecture=Architecture(
            ts2vec=TS2VecSize(hidden_size=4, depth=1),
            transformer=TransformerSize(model_size=8, n_layers=1, n_heads=2, feedforward_size=8),
            policy=PolicySize(hidden_sizes=(8,)),
        ),
        ts2vec_training=TS2VecTraining(n_iterations=3, batch_size=2, crop_grid=64),
        transformer_training=TransformerTraining(n_iterations=3, batch_size=8),
        policy_training=PolicyTraining(
            n_steps=64, n_envs=2, n_steps_per_rollout=32, batch_size=32, episode_days=20
        ),
        # 420 of the 480 bars.
        train_end=date(2002, 2, 24),
    )


@pytest.fixture(scope="session")
def tiny_stocks():
    return {name: make_stock(480, seed=i, symbol=name) for i, name in enumerate(("ONE", "TWO"))}


@pytest.fixture(scope="session")
def tiny_chain(tiny_settings, tiny_stocks):
    from modelyard.trading import train_chain

    return train_chain(tiny_settings, seed=7, stocks=tiny_stocks)
