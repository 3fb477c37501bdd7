"""The Sharpe ratio's standard error against known formulas and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import lfilter

from modelyard.stats.sharpe import long_run_covariance, sharpe_ratio


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_independent_normal_returns_have_the_known_standard_error(rng):
    returns = rng.normal(0.1, 1.0, size=200_000)
    found = sharpe_ratio(returns)
    expected = math.sqrt((1 + found.value**2 / 2) / len(returns))  # Lo (2002)
    assert found.standard_error == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("r", [0.0, 0.5])
@pytest.mark.parametrize("tail", [3, 1000])
def test_intervals_hold_the_true_ratio(rng, r, tail):
    n, n_runs = 1000, 400
    noise = rng.standard_t(tail, size=(n_runs, n + 100)) / math.sqrt(tail / max(tail - 2, 1e-9))
    paths = lfilter([math.sqrt(1 - r * r)], [1, -r], noise, axis=1)[:, 100:] + 0.1
    inside = 0
    for path in paths:
        interval = sharpe_ratio(path).interval()
        inside += interval.lower <= 0.1 <= interval.upper
    assert 0.88 <= inside / n_runs <= 0.99


@given(scale=st.floats(1e-6, 1e6), periods=st.sampled_from([1.0, 252.0]))
def test_ratio_does_not_depend_on_the_unit(scale, periods):
    returns = np.random.default_rng(0).normal(0.05, 1, size=300)
    a = sharpe_ratio(returns, periods_per_year=periods)
    b = sharpe_ratio(returns * scale, periods_per_year=periods)
    assert a.value == pytest.approx(b.value, rel=1e-9)
    assert a.standard_error == pytest.approx(b.standard_error, rel=1e-9)
    assert a.value == pytest.approx(returns.mean() / returns.std() * math.sqrt(periods), rel=1e-12)


def test_too_few_or_constant_returns_have_no_ratio():
    for returns in (np.ones(100), np.arange(9.0), np.array([np.nan] * 20), np.empty(0)):
        found = sharpe_ratio(returns)
        assert math.isnan(found.value)
        assert math.isnan(found.interval().lower)


def test_what_is_not_finite_is_left_out(rng):
    returns = rng.normal(size=50)
    with_gaps = np.insert(returns, [3, 20], [np.nan, np.inf])
    assert sharpe_ratio(with_gaps) == sharpe_ratio(returns)


def test_long_run_variance_of_an_autoregression_is_the_known_one(rng):
    r = 0.7
    x = lfilter([1.0], [1, -r], rng.normal(size=200_000))
    found = long_run_covariance((x - x.mean())[:, None])[0, 0]
    assert found == pytest.approx(1 / (1 - r) ** 2, rel=0.1)
