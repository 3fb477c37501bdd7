"""Differences of samples of any shape: by ranks and at quantiles."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from modelyard._core.errors import ConfigError
from modelyard.stats.quantile_difference import quantile_contrast
from modelyard.stats.ranks import mann_whitney, rank_contrast
from modelyard.stats.significance import t_test

values = st.lists(st.integers(-5, 5), min_size=2, max_size=30).map(
    lambda found: np.array(found, float)
)


@given(values, values)
def test_probability_is_the_share_of_pairs_won(a, b):
    won = (b[:, None] > a).mean() + 0.5 * (b[:, None] == a).mean()
    assert rank_contrast(a, b).mean_b == pytest.approx(won, abs=1e-12)


@given(values, values)
def test_swapping_the_sides_turns_the_sign(a, b):
    one, other = rank_contrast(a, b), rank_contrast(b, a)
    assert one.difference == pytest.approx(-other.difference, abs=1e-12)
    assert one.variance == pytest.approx(other.variance, rel=1e-9)


@given(values, values, st.floats(0.1, 10), st.floats(-100, 100))
def test_a_rising_change_of_unit_changes_nothing(a, b, scale, shift):
    assert rank_contrast(scale * a + shift, scale * b + shift) == rank_contrast(a, b)


def test_a_few_values_apart_are_no_certainty():
    contrast = rank_contrast(np.arange(3.0), np.arange(3.0) + 10)
    assert contrast.mean_b == 1.0
    assert t_test(contrast).p_value > 0.05
    many = rank_contrast(np.arange(100.0), np.arange(100.0) + 1000)
    assert t_test(many).p_value < 1e-10


def test_mann_whitney_is_scipys_and_1_without_values():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=40), rng.normal(0.5, 1, size=50)
    assert mann_whitney(a, b) == stats.mannwhitneyu(a, b).pvalue
    assert mann_whitney(a, a[:0]) == 1.0
    assert mann_whitney(np.ones(30), np.ones(30)) == 1.0
    assert math.isnan(rank_contrast(a, a[:1]).variance)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_quantiles_are_numpys_and_errors_near_those_of_the_density(level):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=400_000), rng.normal(0.2, 1, size=200_000)
    contrast = quantile_contrast(a, b, level=level)
    assert contrast.mean_a == pytest.approx(np.quantile(a, level), rel=1e-12)
    assert contrast.mean_b == pytest.approx(np.quantile(b, level), rel=1e-12)
    density = stats.norm.pdf(stats.norm.ppf(level))
    expected = level * (1 - level) / density**2 * (1 / 400_000 + 1 / 200_000)
    assert contrast.variance == pytest.approx(expected, rel=0.3)


def test_the_error_of_a_quantile_is_near_that_of_scipys_maritz_and_jarrett():
    a = np.random.default_rng(2).lognormal(size=2000)
    for level in (0.5, 0.9, 0.99):
        expected = float(stats.mstats.mjci(a, [level])[0])
        found = math.sqrt(quantile_contrast(a, a, level=level).variance / 2)
        # scipy rounds the rank.
        assert found == pytest.approx(expected, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("level", "n"), [(0.5, 100), (0.9, 400), (0.99, 1500)])
@pytest.mark.parametrize("shape", ["normal", "t3", "lognormal", "discrete"])
def test_intervals_of_quantiles_cover(level, n, shape):
    rng = np.random.default_rng(3)
    draw = {
        "normal": lambda: rng.normal(size=n),
        "t3": lambda: rng.standard_t(3, size=n),
        "lognormal": lambda: rng.lognormal(size=n),
        "discrete": lambda: rng.poisson(30, size=n).astype(float),
    }[shape]
    inside = 0
    for _ in range(500):
        interval = t_test(quantile_contrast(draw(), draw(), level=level)).interval
        inside += interval.lower <= 0.0 <= interval.upper
    assert inside / 500 >= 0.92


@pytest.mark.parametrize(("n", "level"), [(19, 0.5), (99, 0.9), (999, 0.99), (99, 0.1), (0, 0.5)])
def test_too_few_values_beyond_a_quantile_are_no_evidence(n, level):
    many = np.arange(5000.0)
    assert t_test(quantile_contrast(many, np.arange(float(n)), level=level)).p_value == 1.0
    if n:
        enough = quantile_contrast(many, np.arange(n + 1.0), level=level)
        assert not math.isnan(enough.variance)


@given(st.floats(0.1, 1e3), st.floats(-1e3, 1e3))
def test_quantile_differences_follow_the_unit(scale, shift):
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(2, 100))
    plain = quantile_contrast(a, b, level=0.9)
    scaled = quantile_contrast(scale * a + shift, scale * b + shift, level=0.9)
    assert scaled.difference == pytest.approx(scale * plain.difference, rel=1e-6, abs=1e-9)
    assert scaled.variance == pytest.approx(scale**2 * plain.variance, rel=1e-6)


@pytest.mark.parametrize("level", [0.0, 1.0, 50.0, math.nan])
def test_a_level_that_is_no_share_is_refused(level):
    with pytest.raises(ConfigError, match="between 0 and 1"):
        quantile_contrast(np.ones(100), np.ones(100), level=level)
