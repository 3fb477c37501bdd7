"""Which way a metric is better, by its name."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.stats.direction import direction_of_name, is_lower_better, is_sign_turned

LESS = """
    max_dd loss val_loss forecast_error latency_p99_ms RMSE vol_20d MaxDrawdown maxDD maxdd
    maxdrawdown valLoss logloss brier_score perplexity slippage_bps var_95 VaR_95 CVaR cvar95
    mape cost_bps cost_per_trade error_over_time error_ratio HTTPErrorRate log_loss MSELoss
    draw_down MaxDrawDown drawdown_duration avg_drawdown_pct max_drawdown_ratio ulcer_index
    pain_index value_at_risk conditional_value_at_risk expected_shortfall downside_deviation
    return_volatility pnl_vol realized_vol return_std pnl_variance tracking_error
    implementation_shortfall market_impact_bps turnover turnover_ratio net_costs fees_paid
    fees_and_slippage cost_income_ratio cost_of_capital expense_ratio commission_total
    losing_streak lost_trades largest_loss avg_loss loss_ratio loss_given_default
    probability_of_loss days_in_drawdown share_of_errors number_of_timeouts margin_of_error
    error_rate errors_per_hour error_after_warmup loss_after_1000_steps latency_to_first_token
    post_training_loss per_trade_cost accuracy_loss sharpe_error volatility_target_error
    error_detection_latency accuracy_drop sharpe_decay drop_in_accuracy profit_reduction
    neg_sharpe false_positive_rate falseNegatives negative_log_likelihood cross_entropy
    class_weighted_loss loss_weighted mean_absolute_scaled_error seasonally_adjusted_mae
    cost_net_of_rebates slippage_vs_arrival distance_to_target recovery_time
    time_to_recovery response_time_ms churn bounce_rate limit_breaches VaRBreaches regret
    generalization_gap downtime ex_ante_vol val/loss metrics.max_dd stop_loss_hits
    vol_of_vol std_return prediction_drift kl_divergence order_reject_rate loss_making_trades risk
    ERROR_RATE inference_ms p99_ms latency_us elapsed_s duration_ms runtime_s memory_mb size_mb
    liquidations margin_calls stop_outs spread_paid funding_paid capital_at_risk time_under_water
    es_95 psi kl bce fdr p50_us p99_seconds compute_time fill_time training_seconds wall_time_s
    inference_us inference_us_p99 response_s model_size file_size_bytes peak_memory mean_duration
    earnings_at_risk value_at_risk
"""
MORE = """
    sharpe sharpe_ratio cagr win_rate volume variance_explained profit_loss_ratio ProfitLossRatio
    return_over_error ReturnOverMaxDD return_per_drawdown error_reduction loss_improvement
    drawdownReduction information_gain cost_savings neg_mean_squared_error explained_var
    pnl_after_costs PnLAfterCosts pnlAfterCosts sharpe_after_fees return_net_of_fees
    returnNetOfFees pnl_net_of_slippage pnl_less_costs profit_and_loss profit_loss
    total_profit_loss ProfitAndLoss P&L p_and_l gains_losses win_loss_ratio error_free_rate
    errorFreeRate loss_free_days drawdown_free_days no_loss_days zero_error_rate
    non_failure_rate volatility_target_hit_rate VolatilityTargetHitRate return_minus_costs
    reward_minus_risk return_net_fees net_of_fees_return after_cost_return AfterCostSharpe
    post_cost_pnl pre_fee_return net_cost_return net_return return_before_costs
    return_ex_costs return_excluding_fees pnl_without_slippage pnl_with_costs pnl_incl_costs
    risk_adjusted_return volatility_adjusted_return vol_adj_sharpe return_volatility_adjusted
    score_vol_adjusted slippage_adjusted_pnl cost_weighted_accuracy vol_scaled_return
    vol_targeted_return turnover_constrained_sharpe cost_aware_reward risk_parity_return
    low_vol_return low_risk_return short_vol_pnl return_vs_max_dd return_to_drawdown
    return_drawdown_ratio return_drawdown reward_risk_ratio risk_reward_ratio
    return_during_drawdown win_rate_under_high_vol sharpe_in_drawdown return_at_target_vol
    drawdown_recovery error_detection_rate failure_prediction_accuracy volatility_forecast_r2
    volatility_forecast_accuracy accuracy_of_vol_forecast var_coverage cost_efficiency
    error_budget fault_tolerance latency_slo_compliance loss_avoided losses_prevented
    slippage_saved fees_earned fee_income volatility_risk_premium latency_improvement
    error_drop drop_in_error loss_decrease reduction_in_error noise_reduction inverse_vol
    neg_log_loss true_negative_rate one_minus_error profit_factor gain_to_pain calmar alpha
    ulcer_performance_index hit_rate uptime time_in_market days_without_loss information_ratio
    rate_of_return momentum log_likelihood fill_rate
"""


@pytest.mark.parametrize("name", LESS.split())
def test_less_of_these_is_better(name: str) -> None:
    assert is_lower_better(name)


@pytest.mark.parametrize("name", [*MORE.split(), "", "_", "p99"])
def test_more_of_these_is_better(name: str) -> None:
    assert not is_lower_better(name)


SNAKE = [name for name in [*LESS.split(), *MORE.split()] if re.fullmatch(r"[a-z0-9_]+", name)]


@pytest.mark.parametrize("name", SNAKE)
def test_a_name_means_the_same_however_its_words_are_parted(name: str) -> None:
    pascal = "".join(word.capitalize() for word in name.split("_"))
    for way in (name.upper(), name.replace("_", "-"), pascal, pascal[0].lower() + pascal[1:]):
        assert is_lower_better(way) is is_lower_better(name), way


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("max_dd", "less"),
        ("sharpe", "more"),
        ("loss_avoided", "more"),
        ("bananas", None),
        ("", None),
        # Units tell only where nothing else does, and what they are of may be wanted.
        ("sharpe_us", "more"),
        ("pnl_500ms", "more"),
        ("throughput_mb_s", "more"),
        ("uptime_seconds", "more"),
        ("memory_saved_mb", "more"),
        ("holding_seconds", None),
        ("volume_500ms", None),
        ("orders_s", None),
        ("mb_per_s", None),
        ("req/s", None),
        ("tok/s", None),
        ("samples/sec", None),
        ("errors/hour", "less"),
        ("ms/token", "less"),
        ("eval/order_error", "less"),
        ("trades_us", None),
        ("tok_s", None),
        ("tokens_sec", None),
        ("volume_us", None),
        ("p99_us", "less"),
        ("step_sec", "less"),
        ("session_duration", None),
        ("avg_trade_duration_s", None),
        ("watch_time_s", None),
        ("bytes_processed", "more"),
        ("memory_bandwidth_gb", "more"),
        ("quality_cost_ratio", None),
        ("upside_downside_ratio", "more"),
        ("val_loss_ratio", "less"),
        ("p95", None),
        ("exposure", None),
    ],
)
def test_a_name_that_says_nothing_is_told_from_one_that_does(name, direction):
    assert direction_of_name(name) == direction


@pytest.mark.parametrize(
    ("name", "values", "is_turned"),
    [
        ("max_dd", [-0.05, -0.5], True),
        ("max_dd", [-0.05, 0.0, None], True),
        ("cvar_95", [-0.02], True),
        ("max_dd", [0.05, 0.5], False),
        ("max_dd", [-0.05, 0.1], False),
        ("max_dd", [0.0, None], False),
        ("max_dd", [], False),
        ("nll", [-1.0, -2.0], False),  # a density's may be
        ("sharpe", [-1.0], False),
        ("drawdown_reduction", [-0.1], False),
    ],
)
def test_a_drawdown_below_zero_is_one_whose_sign_was_turned(name, values, is_turned):
    assert is_sign_turned(name, values) is is_turned
    assert is_lower_better(name, values) is (is_lower_better(name) and not is_turned)


CERTAIN = [
    "max_dd",
    "val_loss",
    "rmse",
    "error_rate",
    "inference_ms",
    "p99_ms",
    "memory_mb",
    "elapsed_s",
    "liquidations",
    "margin_calls",
    "spread_paid",
    "capital_at_risk",
    "cvar_95",
    "psi",
    "kl",
    "sharpe_ratio",
    "cagr",
    "accuracy",
    "win_rate",
    "loss_avoided",
    "throughput_mb_s",
    "pnl_after_costs",
    "bananas",
]
BEFORE = [
    "val",
    "test",
    "train",
    "mean",
    "avg",
    "daily",
    "rolling",
    "oos",
    "live",
    "worst",
    "total",
]
AFTER = ["20d", "mean", "total", "avg", "p95", "oos", "v2", "test", "daily"]


@given(st.sampled_from(CERTAIN), st.sampled_from(BEFORE))
def test_a_word_before_a_name_keeps_its_direction(name, word):
    assert direction_of_name(f"{word}_{name}") == direction_of_name(name)


@given(st.sampled_from(CERTAIN), st.sampled_from(AFTER))
def test_a_word_after_a_name_keeps_its_direction(name, word):
    assert direction_of_name(f"{name}_{word}") == direction_of_name(name)
