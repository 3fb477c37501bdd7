"""Which way a metric is better, by its name."""

import pytest

from modelyard.stats.direction import is_lower_better

LESS = """
    max_dd loss val_loss forecast_error latency_p99_ms RMSE vol_20d MaxDrawdown maxDD maxdd
    maxdrawdown valLoss logloss brier_score perplexity slippage_bps var_95 VaR_95 CVaR cvar95
    mape cost_bps cost_per_trade error_over_time error_ratio HTTPErrorRate
"""
MORE = """
    sharpe sharpe_ratio cagr win_rate volume variance_explained profit_loss_ratio ProfitLossRatio
    return_over_error ReturnOverMaxDD return_per_drawdown error_reduction loss_improvement
    drawdownReduction information_gain cost_savings neg_mean_squared_error explained_var
"""


@pytest.mark.parametrize("name", LESS.split())
def test_less_of_these_is_better(name: str) -> None:
    assert is_lower_better(name)


@pytest.mark.parametrize("name", [*MORE.split(), ""])
def test_more_of_these_is_better(name: str) -> None:
    assert not is_lower_better(name)
