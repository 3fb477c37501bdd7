"""The money side of one step: exposure, costs, and the seven account features a policy sees.

The training environment steps one account, the backtest one per stock; both use this rule.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelyard.trading.data import Floats

ACCOUNT_FEATURES = (
    "exposure",
    "position_return",
    "drawdown",
    "days_since_trade",
    "last_return",
    "volatility",
    "turnover",
)
"""What they are: `account_features`."""

TARGET_EXPOSURES = (0.0, 1 / 3, 2 / 3, 1.0)
"""Share of equity held in the stock after each of the four actions; the rest is cash at 0 %."""

DEFAULT_COST_RATE = 0.001
"""10 basis points of the traded amount."""

_DECAY = 0.94  # RiskMetrics' daily decay (J.P. Morgan, 1996): a memory of about 17 days
_TRADED = 1e-9
_LONGEST_DAYS = 63.0
_POSITION_SCALE, _RETURN_SCALE = 2.0, 20.0  # 50 % since entry, 5 % in a day: one


@dataclass(frozen=True, kw_only=True, eq=False)
class Accounts:
    """State of `n` separate accounts, each with one stock and cash; arrays of shape (n,).

    Attributes:
        equity: Money, 1 at the start.
        peak: Highest equity so far.
        exposure: Share of equity in the stock now, after prices moved.
        position_return: Log price change since the position was opened; 0 without one.
        days_since_trade: Days since the last action that traded.
        last_return: Net simple return of the last day.
        variance: Exponentially weighted mean of squared net returns.
        turnover: Exponentially weighted mean of the share of equity traded per day.
    """

    equity: Floats
    peak: Floats
    exposure: Floats
    position_return: Floats
    days_since_trade: Floats
    last_return: Floats
    variance: Floats
    turnover: Floats


def new_accounts(n: int) -> Accounts:
    """`n` accounts that hold 1 in cash and nothing else."""
    zero, one = np.zeros(n), np.ones(n)
    return Accounts(
        equity=one,
        peak=one,
        exposure=zero,
        position_return=zero,
        days_since_trade=zero,
        last_return=zero,
        variance=zero,
        turnover=zero,
    )


def step_accounts(
    accounts: Accounts, target_exposure: Floats, stock_return: Floats, *, cost_rate: float
) -> Accounts:
    """Trade to the target at the close, then live through the next day.

    Args:
        accounts: State at the close, before trading.
        target_exposure: Share of equity to hold, 0 to 1, shape (n,).
        stock_return: Simple return of each stock until the next close, shape (n,).
        cost_rate: Cost per unit of money traded; 0.001 is 10 basis points.

    Returns:
        State at the next close. `last_return` is net: (1 - cost)(1 + exposure x return) - 1.
    """
    traded = np.abs(target_exposure - accounts.exposure)
    gross_growth = 1.0 + target_exposure * stock_return
    net_return = (1.0 - cost_rate * traded) * gross_growth - 1.0
    equity = accounts.equity * (1.0 + net_return)
    held = np.where(accounts.exposure > 0, accounts.position_return, 0.0) + np.log1p(stock_return)
    return Accounts(
        equity=equity,
        peak=np.maximum(accounts.peak, equity),
        exposure=target_exposure * (1.0 + stock_return) / gross_growth,
        position_return=np.where(target_exposure > 0, held, 0.0),
        days_since_trade=np.where(traded > _TRADED, 0.0, accounts.days_since_trade + 1.0),
        last_return=net_return,
        variance=_DECAY * accounts.variance + (1.0 - _DECAY) * net_return**2,
        turnover=_DECAY * accounts.turnover + (1.0 - _DECAY) * traded,
    )


def account_features(accounts: Accounts) -> NDArray[np.float32]:
    """What a policy sees of its account, shape (n, 7), columns as `ACCOUNT_FEATURES`.

    All lie in [-1, 1]: exposure 0 to 1; log price change since entry times 2; drawdown 0 to 1;
    days since the last trade over 63; last net return times 20; daily volatility (decay 0.94)
    times 20; turnover (decay 0.94) 0 to 1. Values past the ends are cut.
    """
    columns = [
        accounts.exposure,
        _POSITION_SCALE * accounts.position_return,
        1.0 - accounts.equity / accounts.peak,
        accounts.days_since_trade / _LONGEST_DAYS,
        _RETURN_SCALE * accounts.last_return,
        _RETURN_SCALE * np.sqrt(accounts.variance),
        accounts.turnover,
    ]
    return np.clip(np.stack(columns, axis=1), -1.0, 1.0).astype(np.float32)
