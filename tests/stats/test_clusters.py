"""Errors of estimates whose values belong to users."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.stats.clusters import NOBODY, Products, covariance_of_ratios, variance_inflation
from modelyard.stats.comoments import CoMoments


def totals_of(pairs):
    sums = CoMoments()
    for x, y in pairs:
        sums = sums.with_values(x, y)
    return sums


def test_values_of_nobody_are_independent_and_copies_are_one():
    rng = np.random.default_rng(0)
    x = rng.normal(size=400)
    x -= x.mean()
    few = 400 / 399
    assert variance_inflation([x], [np.full(400, float(NOBODY))]) == pytest.approx(few)
    found = variance_inflation([np.repeat(x, 5)], [np.repeat(np.arange(400.0), 5)])
    assert found == pytest.approx(5.0 * few)
    # The same users again in another period.
    assert variance_inflation([x, x], [np.arange(400.0)] * 2) == pytest.approx(2.0 * few)


def test_users_without_an_effect_of_their_own_inflate_nothing():
    x = np.random.default_rng(1).normal(size=4000)
    units = np.repeat(np.arange(400.0), 10)
    assert variance_inflation([x - x.mean()], [units]) == pytest.approx(1.0, abs=0.15)


@given(st.integers(0, 1000), st.sampled_from([0.0, 50.0]))
def test_covariance_of_two_ratios_is_that_of_their_influences(seed, level):
    rng = np.random.default_rng(seed)
    n_shared, n = 20, 30
    first, second = (
        np.column_stack([level + rng.normal(size=n), rng.integers(1, 5, size=n)]) for _ in range(2)
    )
    first[:, 0] *= first[:, 1]
    second[:, 0] *= second[:, 1]
    products = Products()
    for a, b in zip(first[:n_shared], second[:n_shared], strict=True):
        products = products.plus(tuple(a), tuple(b))
    got = covariance_of_ratios(products, totals_of(first), totals_of(second))
    influences = [
        (side[:, 0] - side[:, 0].sum() / side[:, 1].sum() * side[:, 1]) / side[:, 1].sum()
        for side in (first, second)
    ]
    want = float(influences[0][:n_shared] @ influences[1][:n_shared])
    assert got == pytest.approx(want, rel=1e-6, abs=1e-9)


def test_periods_without_a_denominator_have_no_covariance():
    assert covariance_of_ratios(Products(), CoMoments(), CoMoments()) == 0.0
