import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.stats.moments import Moments, merge, merge_all, moments_of

VALUES = st.lists(st.floats(-1e6, 1e6), max_size=30)


def of(values: list[float]) -> Moments:
    moments = Moments()
    for value in values:
        moments = moments.with_value(value)
    return moments


@given(VALUES, VALUES)
def test_merging_equals_taking_all_values_at_once(a, b):
    merged, whole = merge(of(a), of(b)), moments_of(np.array(a + b))
    assert merged.n == whole.n
    assert merged.mean == pytest.approx(whole.mean, rel=1e-9, abs=1e-6)
    assert merged.m2 == pytest.approx(whole.m2, rel=1e-7, abs=1e-3)


@given(VALUES, VALUES)
def test_merging_in_either_order_gives_the_same_moments(a, b):
    assert merge(of(a), of(b)).m2 == pytest.approx(merge(of(b), of(a)).m2, rel=1e-9, abs=1e-9)


def test_a_large_offset_does_not_cancel_the_variance():
    x = 1e9 + np.random.default_rng(0).normal(size=1000)
    assert of(list(x)).variance == pytest.approx(np.var(x, ddof=1), rel=1e-6)


def test_values_that_are_not_finite_are_left_out():
    assert moments_of(np.array([1.0, np.nan, 3.0, np.inf])) == Moments(2, 2.0, 2.0)


def test_spread_is_unknown_below_two_values():
    assert np.isnan(Moments(1, 5.0, 0.0).std)
    assert merge_all([]) == Moments()
