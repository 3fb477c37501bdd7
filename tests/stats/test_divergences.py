"""Divergences of histograms against scipy and their laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.spatial.distance import jensenshannon

from modelyard.stats.divergences import (
    hellinger,
    homogeneity_p,
    jensen_shannon,
    population_stability,
)

counts = arrays(np.float64, 6, elements=st.integers(0, 500).map(float)).filter(np.any)


@pytest.mark.parametrize("seed", range(5))
def test_values_are_those_of_scipy(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.integers(1, 200, size=(2, 8)).astype(float)
    p, q = a / a.sum(), b / b.sum()
    assert jensen_shannon(a, b) == pytest.approx(jensenshannon(p, q, base=2), abs=1e-12)
    assert hellinger(a, b) == pytest.approx(
        np.linalg.norm(np.sqrt(p) - np.sqrt(q)) / np.sqrt(2), abs=1e-12
    )
    symmetric = stats.entropy(p, q) + stats.entropy(q, p)
    assert population_stability(a, b) == pytest.approx(symmetric, abs=1e-12)
    expected = stats.chi2_contingency(np.stack([a, b]), correction=False).pvalue
    assert homogeneity_p(a, b) == pytest.approx(expected, abs=1e-12)


@given(a=counts, b=counts)
def test_divergences_are_symmetric_and_bounded(a, b):
    for divergence in (jensen_shannon, hellinger):
        assert divergence(a, b) == pytest.approx(divergence(b, a), abs=1e-9)
        assert -1e-9 <= divergence(a, b) <= 1 + 1e-9
    assert population_stability(a, b) >= -1e-12
    p = homogeneity_p(a, b)
    assert np.isnan(p) or 0 <= p <= 1


@given(a=counts)
def test_equal_histograms_are_not_apart(a):
    assert jensen_shannon(a, a) == pytest.approx(0, abs=1e-7)
    assert hellinger(a, a) == pytest.approx(0, abs=1e-7)
    assert population_stability(a, 3 * a) == pytest.approx(0, abs=1e-9)


def test_histograms_that_never_meet_are_furthest_apart():
    a, b = np.array([5.0, 0.0]), np.array([0.0, 7.0])
    assert jensen_shannon(a, b) == pytest.approx(1)
    assert hellinger(a, b) == pytest.approx(1)
    assert np.isfinite(population_stability(a, b))


def test_bins_empty_in_both_do_not_count():
    a, b = np.array([10.0, 20.0]), np.array([15.0, 5.0])
    wide = [np.array([one[0], 0.0, one[1], 0.0]) for one in (a, b)]
    for divergence in (jensen_shannon, hellinger, population_stability, homogeneity_p):
        assert divergence(*wide) == pytest.approx(divergence(a, b))


def test_nothing_known_is_nan():
    for divergence in (jensen_shannon, hellinger, population_stability, homogeneity_p):
        assert np.isnan(divergence(np.zeros(3), np.ones(3)))
    assert np.isnan(homogeneity_p([5.0, 0.0], [7.0, 0.0]))


def test_mean_of_an_unchanged_index_is_that_of_its_distribution():
    rng = np.random.default_rng(0)
    n, m, bins = 1000, 500, 10
    values = [
        population_stability(rng.multinomial(n, [0.1] * bins), rng.multinomial(m, [0.1] * bins))
        for _ in range(2000)
    ]
    assert np.mean(values) == pytest.approx((bins - 1) * (1 / n + 1 / m), rel=0.05)
