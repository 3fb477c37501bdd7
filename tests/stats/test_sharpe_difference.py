"""Differences of Sharpe ratios: size, known variances, and the edges."""

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import lfilter

from modelyard._core.errors import ConfigError
from modelyard.stats.sharpe_difference import (
    bootstrap_p_value,
    paired_sharpe_contrast,
    sharpe_contrast,
)
from modelyard.stats.significance import t_test


@pytest.fixture
def rng():
    return np.random.default_rng(8)


def correlated(rng, n, r):
    z = rng.normal(size=(2, n))
    return z[0], r * z[0] + math.sqrt(1 - r * r) * z[1]


def test_pairs_of_normal_returns_have_memmels_variance(rng):
    n, r = 400_000, 0.9
    a, b = correlated(rng, n, r)
    a, b = a + 0.3, b + 0.5
    expected = (2 - 2 * r + 0.5 * (0.3**2 + 0.5**2 - 2 * 0.3 * 0.5 * r * r)) / n
    contrast = paired_sharpe_contrast(a, b)
    assert contrast.variance == pytest.approx(expected, rel=0.03)
    assert contrast.n == 2 * n
    assert contrast.difference == pytest.approx(0.2, abs=5 * math.sqrt(expected))


def test_independent_streams_add_their_variances(rng):
    a, b = rng.normal(0.3, 1, 100_000), rng.normal(0.5, 2, 50_000)
    expected = (1 + 0.3**2 / 2) / 100_000 + (1 + 0.25**2 / 2) / 50_000
    assert sharpe_contrast(a, b).variance == pytest.approx(expected, rel=0.05)


def test_annualising_scales_both(rng):
    a, b = correlated(rng, 500, 0.5)
    for contrast in (sharpe_contrast, paired_sharpe_contrast):
        daily, annual = contrast(a, b), contrast(a, b, periods_per_year=252.0)
        assert annual.difference == pytest.approx(math.sqrt(252) * daily.difference)
        assert annual.variance == pytest.approx(252 * daily.variance)
        assert t_test(annual).p_value == pytest.approx(t_test(daily).p_value)


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_neither_unit_matters(scale_a, scale_b):
    a, b = correlated(np.random.default_rng(0), 100, 0.5)
    plain, scaled = paired_sharpe_contrast(a, b), paired_sharpe_contrast(scale_a * a, scale_b * b)
    assert scaled.difference == pytest.approx(plain.difference, rel=1e-6)
    assert scaled.variance == pytest.approx(plain.variance, rel=1e-6)


@pytest.mark.parametrize("factor", [1.0, 3.0, 0.1])
def test_the_same_stream_at_another_leverage_is_no_difference(rng, factor):
    a = rng.normal(size=100)
    assert t_test(paired_sharpe_contrast(a, factor * a)).p_value > 0.99
    assert bootstrap_p_value(a, factor * a, is_paired=True, rng=rng) > 0.99


@pytest.mark.parametrize("is_paired", [True, False])
def test_too_few_or_constant_returns_are_no_evidence(rng, is_paired):
    contrast = paired_sharpe_contrast if is_paired else sharpe_contrast
    full = rng.normal(size=9 if is_paired else 50)
    for short in (rng.normal(size=9), np.ones(len(full)), np.full(len(full), np.nan)):
        assert math.isnan(contrast(full, short).variance)
        assert bootstrap_p_value(full, short, is_paired=is_paired, rng=rng) == 1.0


def test_pairs_with_a_gap_are_left_out(rng):
    a, b = correlated(rng, 60, 0.5)
    gaps_a, gaps_b = np.insert(a, 5, np.nan), np.insert(b, 5, 3.0)
    gaps_a, gaps_b = np.insert(gaps_a, 30, 1.0), np.insert(gaps_b, 30, np.inf)
    assert paired_sharpe_contrast(gaps_a, gaps_b) == paired_sharpe_contrast(a, b)


def test_bootstrap_agrees_with_the_large_sample_test_where_samples_are_large(rng):
    a, b = correlated(rng, 2000, 0.5)
    for shift in (0.02, 0.04, 0.06):
        p_value = t_test(paired_sharpe_contrast(a, b + shift)).p_value
        found = bootstrap_p_value(a, b + shift, is_paired=True, rng=rng, n_resamples=2000)
        assert found == pytest.approx(p_value, abs=0.03)


def test_bootstrap_of_streams_apart_agrees_too(rng):
    a, b = rng.normal(size=2000), rng.normal(0.05, 1, size=1500)
    p_value = t_test(sharpe_contrast(a, b)).p_value
    found = bootstrap_p_value(a, b, is_paired=False, rng=rng, n_resamples=2000)
    assert found == pytest.approx(p_value, abs=0.03)


def test_bootstrap_is_quick_and_repeats_itself(rng):
    a, b = rng.normal(size=250), rng.normal(size=250)
    began = time.perf_counter()
    found = [
        bootstrap_p_value(a, b, is_paired=True, rng=np.random.default_rng(1)) for _ in range(2)
    ]
    assert time.perf_counter() - began < 2.0
    assert found[0] == found[1]


@pytest.mark.parametrize("options", [{"block": 0}, {"block": 101}, {"n_resamples": 0}])
def test_impossible_resamples_are_refused(rng, options):
    a, b = rng.normal(size=(2, 100))
    with pytest.raises(ConfigError, match="block must be"):
        bootstrap_p_value(a, b, is_paired=True, rng=rng, **options)


def returns(rng, kind, n, r):
    z = rng.standard_t(3, size=(2, n + 50)) if kind == "t3" else rng.normal(size=(2, n + 50))
    z[1] = r * z[0] + math.sqrt(1 - r * r) * z[1]
    if kind == "autoregression":
        z = lfilter([1.0], [1, -0.3], z, axis=1)
    return (z / z.std(axis=1, keepdims=True))[:, 50:] + 0.1


@pytest.mark.slow
@pytest.mark.parametrize("is_paired", [True, False])
@pytest.mark.parametrize("kind", ["normal", "t3", "autoregression"])
@pytest.mark.parametrize("n", [100, 500])
def test_equal_ratios_are_called_different_about_as_often_as_stated(rng, kind, n, is_paired):
    n_runs, found, found_by_bootstrap = 1000, 0, 0
    contrast = paired_sharpe_contrast if is_paired else sharpe_contrast
    for _ in range(n_runs):
        a, b = returns(rng, kind, n, 0.8 if is_paired else 0.0)
        found += t_test(contrast(a, b)).p_value < 0.05
        if n == 100:
            p_value = bootstrap_p_value(a, b, is_paired=is_paired, rng=rng, n_resamples=199)
            found_by_bootstrap += p_value <= 0.05
    assert found / n_runs <= 0.09
    assert found_by_bootstrap / n_runs <= 0.075
