"""A policy over a stretch of days, stock by stock, beside buy-and-hold and chance.

Nothing is claimed for the strategy: its figures stand beside those two and mean little alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modelyard._core.errors import InputError
from modelyard.trading.account import (
    DEFAULT_COST_RATE,
    TARGET_EXPOSURES,
    account_features,
    new_accounts,
    step_accounts,
)
from modelyard.trading.data import Dates, Floats
from modelyard.trading.metrics import PerformanceMetrics, equity_curve, performance
from modelyard.trading.paths import MarketPath

Policy = Callable[[Tensor], Tensor]
"""States, shape (n, 263), to logits, shape (n, 4); the largest logit is the action."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Backtest:
    """What one policy did.

    A day is the day on which the return was earned; the trade was made at the close before.

    Attributes:
        symbols: Tickers, in the order of the columns below.
        dates: Days, shape (n_days,).
        stock_returns: Net simple return per day and stock, shape (n_days, n_symbols); NaN where
            the stock was not there. Two policies over the same paths compare day by day.
        actions: Index of `TARGET_EXPOSURES`, same shape; -1 where the stock was not there.
        returns: Net return of the portfolio that splits its money evenly over the stocks present
            (rebalanced daily, between the stocks without cost), shape (n_days,).
        equity: Value of 1 invested before the first day, shape (n_days,).
        metrics: Figures of `returns`.
        states: Every state visited, shape (n_states, 263), float32, in order of time.
        state_dates: Day at whose close each state was seen, shape (n_states,).
        state_symbols: Ticker of each state, shape (n_states,).
    """

    symbols: tuple[str, ...]
    dates: Dates
    stock_returns: Floats
    actions: NDArray[np.int64]
    returns: Floats
    equity: Floats
    metrics: PerformanceMetrics
    states: NDArray[np.float32]
    state_dates: Dates
    state_symbols: NDArray[np.str_]


def backtest(
    policy: Policy,
    paths: Mapping[str, MarketPath],
    *,
    cost_rate: float = DEFAULT_COST_RATE,
) -> Backtest:
    """Run `policy` over all days of `paths`, each stock with an account of its own.

    Days follow one another because a state contains what earlier actions did to the account;
    the stocks of a day go through the policy as one batch.

    Args:
        policy: A module, or any callable from states to logits.
        paths: Per ticker; `MarketPath.between` cuts a period.
        cost_rate: Cost per unit of money traded; 0.001 is 10 basis points.

    Raises:
        InputError: No path has a day.
    """
    grid = _Grid.of(paths)
    accounts = new_accounts(len(grid.symbols))
    stock_returns = np.full(grid.present.shape, np.nan)
    actions = np.full(grid.present.shape, -1, dtype=np.int64)
    visited = []
    for day in range(len(grid.dates)):
        present = grid.present[day]
        states = np.concatenate([grid.states[day], account_features(accounts)], axis=1)[present]
        visited.append(states)
        actions[day, present] = _choose(policy, states)
        exposure = np.where(present, _EXPOSURES[actions[day]], 0.0)
        accounts = step_accounts(accounts, exposure, grid.next_returns[day], cost_rate=cost_rate)
        stock_returns[day, present] = accounts.last_return[present]
    return _result(grid, stock_returns, actions, np.concatenate(visited))


def compare_with_baselines(
    policy: Policy,
    paths: Mapping[str, MarketPath],
    *,
    rng: np.random.Generator,
    cost_rate: float = DEFAULT_COST_RATE,
) -> dict[str, Backtest]:
    """The policy (`strategy`), `buy_and_hold` and a `random` policy, over the same days and costs.

    Args:
        policy: As for `backtest`.
        paths: As for `backtest`.
        rng: Draws the random policy's actions.
        cost_rate: As for `backtest`.
    """
    policies = {
        "strategy": policy,
        "buy_and_hold": buy_and_hold,
        "random": random_policy(rng),
    }
    return {name: backtest(each, paths, cost_rate=cost_rate) for name, each in policies.items()}


def buy_and_hold(states: Tensor) -> Tensor:
    """Logits of the policy that is always fully invested; shape (n, 4)."""
    logits = torch.zeros(len(states), len(TARGET_EXPOSURES))
    logits[:, -1] = 1.0
    return logits


def random_policy(rng: np.random.Generator) -> Policy:
    """A policy that draws each action with equal chance."""

    def draw(states: Tensor) -> Tensor:
        return torch.from_numpy(rng.random((len(states), len(TARGET_EXPOSURES))))

    return draw


_EXPOSURES = np.array(TARGET_EXPOSURES)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Grid:
    """Paths of different lengths side by side: one row a day, one column a stock."""

    symbols: tuple[str, ...]
    dates: Dates
    next_dates: Dates
    present: NDArray[np.bool_]
    states: NDArray[np.float32]
    next_returns: Floats

    @classmethod
    def of(cls, paths: Mapping[str, MarketPath]) -> "_Grid":
        used = {symbol: path for symbol, path in paths.items() if len(path)}
        if not used:
            raise InputError("No path has a day to trade on. Widen the period.")
        dates = np.unique(np.concatenate([path.dates for path in used.values()]))
        shape = (len(dates), len(used))
        n_states = next(iter(used.values())).states.shape[1]
        present = np.zeros(shape, dtype=bool)
        states = np.zeros((*shape, n_states), dtype=np.float32)
        next_returns = np.zeros(shape)
        next_dates = np.empty_like(dates)
        for column, path in enumerate(used.values()):
            days = np.searchsorted(dates, path.dates)
            present[days, column] = True
            states[days, column] = path.states
            next_returns[days, column] = path.next_returns
            next_dates[days] = path.next_dates
        return cls(
            symbols=tuple(used),
            dates=dates,
            next_dates=next_dates,
            present=present,
            states=states,
            next_returns=next_returns,
        )


def _choose(policy: Policy, states: NDArray[np.float32]) -> NDArray[np.int64]:
    with torch.inference_mode():
        logits = policy(torch.from_numpy(states))
    chosen: NDArray[np.int64] = logits.argmax(dim=1).numpy()
    return chosen


def _result(
    grid: _Grid,
    stock_returns: Floats,
    actions: NDArray[np.int64],
    states: NDArray[np.float32],
) -> Backtest:
    returns = np.nanmean(stock_returns, axis=1)
    days, columns = np.nonzero(grid.present)
    return Backtest(
        symbols=grid.symbols,
        dates=grid.next_dates,
        stock_returns=stock_returns,
        actions=actions,
        returns=returns,
        equity=equity_curve(returns),
        metrics=performance(returns),
        states=states,
        state_dates=grid.dates[days],
        state_symbols=np.array(grid.symbols)[columns],
    )
