"""The five stocks: complete, adjusted, and refused when impossible."""

from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from modelyard._core.errors import InputError, MissingDependencyError
from modelyard.trading import BAR_INPUTS, SYMBOLS, Scaler, load_stocks
from modelyard.trading.data import bar_inputs


@pytest.fixture(scope="module")
def stocks():
    return load_stocks()


def test_all_bars_of_the_five_stocks_are_there(stocks):
    assert tuple(stocks) == SYMBOLS
    assert sum(len(stock) for stock in stocks.values()) == 12_154


def test_a_split_is_not_a_crash(stocks):
    apple = stocks["AAPL"]
    day = int(np.searchsorted(apple.dates, np.datetime64("2005-02-28")))
    assert abs(apple.close[day] / apple.close[day - 1] - 1) < 0.05


def test_the_training_part_ends_where_it_should(stocks):
    part = stocks["IBM"].until(date(2006, 12, 31))
    assert str(part.dates[-1]) == "2006-12-29"
    assert len(part) < len(stocks["IBM"])


def test_bar_inputs_are_relative_to_the_close_before(new_stock):
    stock = new_stock(10)
    inputs = bar_inputs(stock)
    assert inputs.shape == (10, len(BAR_INPUTS))
    assert not inputs[0].any()
    assert inputs[4, 1] == pytest.approx(np.log(stock.high[4] / stock.close[3]))


def test_bars_cannot_be_written_to(new_stock):
    with pytest.raises(ValueError, match="read-only"):
        new_stock(5).close[0] = 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": np.zeros(5)}, "impossible"),
        ({"volume": np.full(5, -1.0)}, "impossible"),
        ({"close": np.full(5, np.nan)}, "impossible"),
        ({"open": np.ones(4)}, "shape"),
        ({"dates": np.array(["2001-01-01"] * 5, dtype="datetime64[D]")}, "rise"),
    ],
)
def test_an_impossible_series_is_refused(new_stock, change, message):
    with pytest.raises(InputError, match=message):
        replace(new_stock(5), **change)


def test_without_the_extra_the_error_names_the_cure(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bokeh_sampledata.stocks", None)
    with pytest.raises(MissingDependencyError, match=r"modelyard\[trading\]"):
        load_stocks()


def test_a_scaler_gives_standard_scores_within_its_limit():
    values = np.array([[1.0, 5.0], [3.0, 5.0], [2.0, 5.0]])
    scaler = Scaler.fit(values, limit=1.0)
    scores = scaler.apply(values)
    assert scores[:, 0] == pytest.approx([-1.0, 1.0, 0.0])
    assert not scores[:, 1].any()
    assert scaler.apply([[100.0, 5.0]])[0, 0] == 1.0


def test_a_scaler_survives_json():
    scaler = Scaler.fit(np.arange(12.0).reshape(4, 3))
    again = Scaler.from_dict(scaler.to_dict())
    assert np.array_equal(again.mean, scaler.mean)
    assert np.array_equal(again.std, scaler.std)
    assert again.limit == scaler.limit


@pytest.mark.parametrize("values", [np.empty((0, 2)), np.array([[1.0, np.nan]])])
def test_a_scaler_cannot_be_fitted_to_nothing_or_to_gaps(values):
    with pytest.raises(InputError, match="finite"):
        Scaler.fit(values)
