"""The four performance figures against two libraries, laws and edges."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard._core.errors import InputError
from modelyard.trading import cagr, equity_curve, max_dd, performance, sharpe, win_rate

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "reference" / "trading_metrics.json").read_text("utf-8")
)
returns_lists = st.lists(st.floats(-0.5, 0.5), min_size=2, max_size=60)


@pytest.mark.parametrize("library", ["empyrical", "quantstats"])
@pytest.mark.parametrize("case", REFERENCE["cases"], ids=lambda case: case["name"])
def test_figures_agree_with_another_library(case, library):
    mine = performance(case["returns"])
    for name, value in case[library].items():
        assert mine[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name


@given(returns_lists)
def test_drawdown_is_a_share_and_zero_only_without_a_loss(returns):
    assert 0.0 <= max_dd(returns) <= 1.0
    if min(returns) < -1e-12:
        assert max_dd(returns) > 0.0


@given(returns_lists, st.floats(0.1, 2.0))
def test_sharpe_does_not_depend_on_the_size_of_the_position(returns, factor):
    if np.ptp(returns) > 1e-6:
        scaled = factor * np.array(returns)
        assert sharpe(scaled) == pytest.approx(sharpe(returns), rel=1e-6, abs=1e-9)


@given(returns_lists)
def test_growth_and_win_rate_do_not_depend_on_the_order_of_days(returns):
    assert cagr(returns[::-1]) == pytest.approx(cagr(returns), rel=1e-6, abs=1e-12)
    assert win_rate(returns[::-1]) == pytest.approx(win_rate(returns), nan_ok=True)


def test_a_year_of_the_same_daily_growth_compounds_to_its_annual_rate():
    assert cagr([1.25 ** (1 / 252) - 1] * 252) == pytest.approx(0.25)


def test_win_rate_leaves_out_days_without_a_position():
    assert win_rate([0.01, 0.0, 0.0, -0.01, 0.02]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("figure", [sharpe, cagr, max_dd, win_rate])
def test_an_empty_series_and_one_with_an_unknown_day_have_no_figures(figure):
    assert math.isnan(figure([]))
    assert math.isnan(figure([0.01, float("nan"), 0.02]))


def test_constant_returns_have_no_sharpe_ratio():
    assert math.isnan(sharpe([0.001] * 100))
    assert math.isnan(sharpe([0.01]))
    assert math.isnan(win_rate([0.0, 0.0]))


def test_a_total_loss_is_a_full_drawdown():
    assert max_dd([0.1, -1.0, 0.5]) == 1.0
    assert cagr([0.1, -1.0, 0.5]) == -1.0


def test_the_equity_curve_compounds():
    assert equity_curve([0.1, -0.5]).tolist() == pytest.approx([1.1, 0.55])


def test_percentages_taken_for_returns_are_refused():
    with pytest.raises(InputError, match="loses more than everything"):
        sharpe([1.5, -2.0])
    with pytest.raises(InputError, match="series"):
        sharpe([[0.1, 0.2]])
