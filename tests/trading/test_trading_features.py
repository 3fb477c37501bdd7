"""The technical features see the past alone, and ratios alone."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.trading import FEATURE_NAMES, Stock, technical_features
from modelyard.trading.features import WARM_UP_BARS

PRICES = ("open", "high", "low", "close")


def with_bar_changed(stock, index, factor):
    changed = {name: getattr(stock, name).copy() for name in (*PRICES, "volume")}
    for name in PRICES:
        changed[name][index:] *= factor
    changed["volume"][index:] *= factor**2
    return replace(stock, **changed)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 50),
    index=st.integers(WARM_UP_BARS + 1, 299),
    factor=st.floats(0.2, 5.0),
)
def test_changing_any_future_bar_changes_no_past_feature(new_stock, seed, index, factor):
    stock = new_stock(300, seed=seed)
    before = technical_features(stock)[:index]
    after = technical_features(with_bar_changed(stock, index, factor))[:index]
    assert np.array_equal(before, after, equal_nan=True)


def test_features_of_a_prefix_are_the_prefix_of_the_features(new_stock):
    stock = new_stock(300)
    part = stock.until(stock.dates[249].astype(object))
    assert technical_features(part) == pytest.approx(
        technical_features(stock)[:250], rel=1e-9, abs=1e-12, nan_ok=True
    )


def test_the_bar_itself_does_change_its_features(new_stock):
    stock = new_stock(300)
    changed = technical_features(with_bar_changed(stock, 250, 1.5))[250]
    same = np.isclose(technical_features(stock)[250], changed, rtol=1e-6)
    # The test moves the bar as a whole, so what is measured inside it stays.
    within_the_bar = {"intraday_return", "range", "close_in_range", "parkinson_volatility_21d"}
    assert {name for name, is_same in zip(FEATURE_NAMES, same, strict=True) if is_same} <= (
        within_the_bar | {"drawdown_63d", "rise_63d", "stochastic_14d"}
    )


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(factor=st.floats(0.01, 100.0))
def test_the_level_of_prices_does_not_matter(new_stock, factor):
    stock = new_stock(260)
    scaled = replace(stock, **{name: getattr(stock, name) * factor for name in PRICES})
    assert technical_features(scaled) == pytest.approx(
        technical_features(stock), rel=1e-6, abs=1e-9, nan_ok=True
    )


def test_there_are_27_names_and_the_warm_up_is_marked(new_stock):
    assert len(set(FEATURE_NAMES)) == 27
    features = technical_features(new_stock(260))
    assert features.shape == (260, 27)
    assert np.isnan(features[:WARM_UP_BARS]).all()
    assert np.isfinite(features[WARM_UP_BARS:]).all()


def test_too_short_a_history_has_no_features(new_stock):
    assert np.isnan(technical_features(new_stock(50))).all()


def test_a_stock_that_does_not_move_has_finite_features():
    flat = np.full(230, 5.0)
    stock = Stock(
        symbol="FLAT",
        dates=np.datetime64("2001-01-01") + np.arange(230),
        open=flat,
        high=flat.copy(),
        low=flat.copy(),
        close=flat.copy(),
        volume=np.zeros(230),
    )
    assert np.isfinite(technical_features(stock)[WARM_UP_BARS:]).all()


def test_known_values_of_a_rising_stock():
    close = 10 * 1.01 ** np.arange(260)
    stock = Stock(
        symbol="UP",
        dates=np.datetime64("2001-01-01") + np.arange(260),
        open=close / 1.01,
        high=close.copy(),
        low=close / 1.01,
        close=close,
        volume=np.full(260, 100.0),
    )
    last = dict(zip(FEATURE_NAMES, technical_features(stock)[-1], strict=True))
    assert last["return_5d"] == pytest.approx(5 * np.log(1.01))
    assert last["relative_strength_14d"] == 1.0
    assert last["close_in_range"] == 1.0
    assert last["drawdown_63d"] == 0.0
    assert last["rise_63d"] == pytest.approx(62 * np.log(1.01))
    assert last["volatility_21d"] == pytest.approx(0.0, abs=1e-12)
    assert last["volume_ratio_21d"] == pytest.approx(0.0, abs=1e-12)
