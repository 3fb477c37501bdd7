"""Which way a metric is better, by its name."""

import pytest

from modelyard.stats.direction import is_lower_better


@pytest.mark.parametrize(
    "name", ["max_dd", "loss", "val_loss", "forecast_error", "latency_p99_ms", "RMSE", "vol_20d"]
)
def test_less_of_these_is_better(name: str) -> None:
    assert is_lower_better(name)


@pytest.mark.parametrize("name", ["sharpe", "sharpe_ratio", "cagr", "win_rate", "volume", ""])
def test_more_of_these_is_better(name: str) -> None:
    assert not is_lower_better(name)
