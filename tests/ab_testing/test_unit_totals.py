"""Sums by user, kept up while users come back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.ab_testing.recording.units import UnitTotals
from modelyard.ab_testing.recording.values import Values
from modelyard.stats.moments import moments_of

values = st.floats(-1e3, 1e3, allow_nan=False)
outcomes = st.lists(st.tuples(st.sampled_from(["u", "v", "w", None]), values, values), max_size=40)


@given(outcomes)
def test_the_sums_are_those_of_the_users_totals(given_outcomes):
    kept = UnitTotals()
    totals: dict[object, list[float]] = {}
    for i, (unit, x, y) in enumerate(given_outcomes):
        kept.add(unit, x, y)
        both = totals.setdefault(unit or i, [0.0, 0.0])
        both[0] += x
        both[1] += y
    table = np.array(list(totals.values())).reshape(-1, 2)
    assert kept.totals.n == len(table)
    if len(table) > 1:
        covariance = np.cov(table.T, ddof=0) * len(table)
        found = [kept.totals.m2_x, kept.totals.m2_y, kept.totals.c_xy]
        expected = [covariance[0, 0], covariance[1, 1], covariance[0, 1]]
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-6)
        assert kept.totals.mean_x == pytest.approx(table[:, 0].mean(), abs=1e-9)


def test_what_came_of_nobody_before_stays_in_the_sums():
    kept = UnitTotals(moments_of(np.array([1.0, 2.0, 6.0])))
    kept.add("u", 3.0)
    kept.add("u", 5.0)
    assert (kept.totals.n, kept.totals.mean_x, kept.totals.mean_y) == (4, 4.25, 1.25)


@given(st.lists(values, max_size=300), st.integers(0, 300))
def test_a_view_of_values_stays_as_it_was(numbers, at):
    kept, seen = Values(), None
    for i, number in enumerate(numbers):
        if i == at:
            seen = kept.view()
        kept.add(number)
    assert kept.view().tolist() == numbers
    if seen is not None:
        assert seen.tolist() == numbers[:at]
        with pytest.raises(ValueError, match="read-only"):
            seen[:1] = 0.0
