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
from modelyard.stats.sequential import always_valid
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


TIED = {
    "whole_numbers": lambda rng, n: rng.choice(6, n, p=[0.1, 0.15, 0.25, 0.25, 0.15, 0.1]) + 2.0,
    "zeros_and_ones": lambda rng, n: 1.0 * (rng.random(n) < 0.5),
    "almost_even_ones": lambda rng, n: 1.0 * (rng.random(n) < 0.52),
    "rare_value_between": lambda rng, n: rng.choice([0.0, 1.0, 2.0], n, p=[0.495, 0.01, 0.495]),
    "rounded_latencies": lambda rng, n: np.round(rng.lognormal(3.0, 0.5, n)),
    "half_zeros": lambda rng, n: np.where(rng.random(n) < 0.5, 0.0, 1.0 + rng.exponential(size=n)),
    "two_heaps": lambda rng, n: 5.0 * (rng.random(n) < 0.5) + 0.1 * rng.normal(size=n),
}


def looks_with_a_winner(draw_a, draw_b, *, level=0.5, n_most=1000, runs=100):
    """Share of experiments in which one of a hundred looks finds a difference."""
    n_found = 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        a, b = draw_a(rng, n_most), draw_b(rng, n_most)
        n_found += any(
            always_valid(quantile_contrast(a[:n], b[:n], level=level), n_tuned=2000).p_value
            <= 0.05
            for n in np.linspace(n_most / 10, n_most, 100).astype(int)
        )
    return n_found / runs


@pytest.mark.slow
@pytest.mark.parametrize("shape", TIED)
@pytest.mark.parametrize("level", [0.5, 0.9])
def test_a_hundred_looks_at_tied_values_find_few_false_winners(shape, level):
    # With errors that fall to 0 among ties: 15 % of whole numbers, 17 % of zeros and ones.
    assert looks_with_a_winner(TIED[shape], TIED[shape], level=level) <= 0.05


@pytest.mark.slow
def test_true_differences_of_tied_values_are_still_found():
    def ones(share):
        return lambda rng, n: 1.0 * (rng.random(n) < share)

    def later(rng, n):
        return TIED["rounded_latencies"](rng, n) + 4.0

    assert looks_with_a_winner(ones(0.4), ones(0.6), runs=40) >= 0.95
    assert looks_with_a_winner(TIED["rounded_latencies"], later, runs=40) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("shape", TIED)
def test_one_look_at_tied_values_finds_few_false_winners(shape):
    rng = np.random.default_rng(5)
    n_found = 0
    for _ in range(400):
        a, b = TIED[shape](rng, 300), TIED[shape](rng, 300)
        n_found += t_test(quantile_contrast(a, b, level=0.5)).p_value < 0.05
    assert n_found / 400 <= 0.06


@pytest.mark.parametrize("n_ones", [440, 450, 460, 470, 480])
def test_a_median_of_ties_is_no_surer_than_scipys_test_of_its_shares(n_ones):
    a = np.repeat([0.0, 1.0], [1000 - n_ones, n_ones])
    b = np.ones(1000)
    found = t_test(quantile_contrast(a, b, level=0.5)).p_value
    # Of whether the median can be what the other side surely has.
    exact = stats.quantile_test(a, q=1.0 - 1e-9, p=0.5, alternative="two-sided").pvalue
    assert found >= 0.9 * exact


def test_values_without_ties_have_the_error_of_maritz_and_jarrett_to_the_last_digit():
    rng = np.random.default_rng(6)
    for values in (rng.normal(size=1001), rng.lognormal(size=501), rng.standard_t(3, size=5001)):
        n, rank = len(values), 0.5 * (len(values) - 1) + 1.0
        chances = np.diff(stats.beta.cdf(np.arange(n + 1) / n, rank, n + 1 - rank))
        ordered = np.sort(values)
        expected = chances @ ordered**2 - (chances @ ordered) ** 2
        found = quantile_contrast(values, values, level=0.5).variance / 2.0
        assert found == pytest.approx(expected, rel=1e-9)


def test_sides_that_are_all_one_value_are_told_apart_with_an_error():
    contrast = quantile_contrast(np.full(100, 4.0), np.full(100, 5.0), level=0.5)
    assert 0.0 < contrast.variance < 0.1
    same = quantile_contrast(np.full(100, 4.0), np.full(100, 4.0), level=0.5)
    assert same.difference == 0.0
    assert same.variance < 1e-20
