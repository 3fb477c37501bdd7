"""Boundaries of planned looks: published tables, simulation, laws."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from modelyard._core.errors import ConfigError
from modelyard.stats.group_sequential import boundaries, crossing_probability

FIVE = [0.2, 0.4, 0.6, 0.8, 1.0]


@pytest.mark.parametrize(
    ("spending", "published"),
    [
        # Reboussin, DeMets, Kim and Lan (2000), Controlled Clinical Trials 21, 190-207, by a
        # coarser integral: the second is 3.35701.
        ("obrien_fleming", [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]),
        ("pocock", [2.4380, 2.4268, 2.4101, 2.3966, 2.3859]),
    ],
)
def test_five_looks_are_the_published_ones(spending, published):
    assert boundaries(FIVE, spending=spending) == pytest.approx(published, abs=1.5e-4)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.2])
@pytest.mark.parametrize("spending", ["obrien_fleming", "pocock"])
def test_one_look_at_the_end_is_the_plain_test(alpha, spending):
    expected = stats.norm.isf(alpha / 2)
    assert boundaries([1.0], alpha=alpha, spending=spending) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("first", [0.1, 0.5, 0.99, 0.9995])
def test_two_looks_agree_with_the_bivariate_normal(first):
    criticals = boundaries([first, 1.0], spending="pocock")
    r = math.sqrt(first)
    joint = stats.multivariate_normal(cov=[[1, r], [r, 1]], abseps=1e-9, releps=1e-9)
    inside = joint.cdf(criticals, lower_limit=-criticals)
    assert 1.0 - inside == pytest.approx(0.05, abs=1e-7)


def test_a_look_right_after_another_agrees_with_simulation():
    # The step into a third look is long, the one before short: each needs nodes of its own.
    rng = np.random.default_rng(5)
    fractions = np.array([0.4, 0.401, 0.7, 1.0])
    criticals = boundaries(fractions, spending="pocock")
    steps = rng.normal(size=(1_000_000, 4)) * np.sqrt(np.diff(fractions, prepend=0.0))
    crossed = np.abs(np.cumsum(steps, axis=1) / np.sqrt(fractions)) > criticals
    first = crossed.argmax(axis=1)[crossed.any(axis=1)]
    spent = 0.05 * np.log1p((math.e - 1) * fractions)
    found = np.bincount(first, minlength=4) / len(steps)
    assert found == pytest.approx(np.diff(spent, prepend=0.0), abs=7e-4)


@settings(max_examples=30)
@given(
    st.lists(st.floats(0.01, 1.0), min_size=1, max_size=8, unique=True),
    st.floats(0.001, 0.3),
    st.sampled_from(["obrien_fleming", "pocock"]),
)
def test_all_of_alpha_is_spent_at_the_end_and_no_more(gaps, alpha, spending):
    fractions = np.cumsum(gaps) / np.sum(gaps)
    fractions[-1] = 1.0
    criticals = boundaries(fractions, alpha=alpha, spending=spending)
    assert crossing_probability(fractions, criticals) == pytest.approx(alpha, abs=1e-9)


def test_simulated_paths_cross_as_often_as_stated():
    rng = np.random.default_rng(9)
    fractions = np.array([0.1, 0.3, 0.35, 1.0])
    criticals = boundaries(fractions)
    steps = rng.normal(size=(200_000, 4)) * np.sqrt(np.diff(fractions, prepend=0.0))
    for drift in (0.0, 2.0):
        z = (np.cumsum(steps, axis=1) + drift * fractions) / np.sqrt(fractions)
        crossed = (np.abs(z) > criticals).any(axis=1).mean()
        expected = crossing_probability(fractions, criticals, drift=drift)
        assert crossed == pytest.approx(expected, abs=0.004)


def test_looks_far_apart_in_likelihood_keep_their_digits():
    many = np.arange(1, 101) / 100
    criticals = boundaries(many)
    assert np.all(np.diff(criticals) < 0.0)
    assert crossing_probability(many, criticals) == pytest.approx(0.05, abs=1e-10)
    assert boundaries([1e-3, 1.0])[0] == math.inf


@pytest.mark.parametrize(
    "fractions",
    [[], [0.0, 1.0], [0.5, 0.5], [0.5, 0.4], [0.5, 1.1], [math.nan], [0.5, 0.50001]],
)
def test_fractions_that_do_not_rise_to_one_are_refused(fractions):
    with pytest.raises(ConfigError, match="must rise"):
        boundaries(fractions)


def test_an_unknown_spending_is_refused():
    with pytest.raises(ConfigError, match="obrien_fleming or pocock"):
        boundaries([1.0], spending="evenly")
