"""When a mean changed, and how rarely one is said to have."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.stats.changepoint import page_hinkley, sum_threshold, without_step


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.mark.parametrize(("shift", "direction"), [(2.0, 1), (-2.0, -1)])
def test_change_is_found_and_dated(rng, shift, direction):
    values = rng.normal(size=(200, 50))
    values[120:] += shift
    threshold = sum_threshold(allowance=0.5, run_length=1e5)
    found = page_hinkley(values, allowance=0.5, threshold=threshold)
    assert (found.direction == direction).all()
    assert (found.detected >= 120).all()
    assert (found.detected <= 140).all()
    assert abs(np.median(found.began) - 120) <= 1
    assert (found.began <= found.detected).all()


def test_nothing_is_said_of_streams_that_do_not_change(rng):
    threshold = sum_threshold(allowance=0.5, run_length=1e7)
    found = page_hinkley(rng.normal(size=(1000, 200)), allowance=0.5, threshold=threshold)
    assert (found.detected < 0).mean() >= 0.99
    quiet = found.detected < 0
    assert (found.began[quiet] == -1).all()
    assert (found.direction[quiet] == 0).all()


@pytest.mark.slow
@pytest.mark.parametrize("allowance", [0.3, 0.5, 1.0])
def test_false_changes_come_as_rarely_as_was_asked(rng, allowance):
    run_length = 200.0
    threshold = sum_threshold(allowance=allowance, run_length=run_length)
    found = page_hinkley(rng.normal(size=(3000, 2000)), allowance=allowance, threshold=threshold)
    assert (found.detected >= 0).all()
    assert (found.detected + 1).mean() == pytest.approx(run_length, rel=0.1)


def test_missing_values_are_no_news(rng):
    values = rng.normal(size=(50, 1))
    values[10:40] = np.nan
    with_gap = page_hinkley(values, allowance=0.5, threshold=5.0)
    without = page_hinkley(np.delete(values, range(10, 40), axis=0), allowance=0.5, threshold=5.0)
    assert (with_gap.detected < 0) == (without.detected < 0)


def test_no_values_no_change():
    found = page_hinkley(np.empty((0, 2)), allowance=0.5, threshold=5.0)
    assert found.detected.tolist() == [-1, -1]


def test_a_step_is_taken_out_and_nothing_else(rng):
    noise = rng.normal(size=(1000, 4))
    rows = noise + np.array([0.0, 3.0, -5.0, 100.0]) * (np.arange(1000) >= 400)[:, None]
    left = without_step(rows)
    parts = [noise[:400] - noise[:400].mean(axis=0), noise[400:] - noise[400:].mean(axis=0)]
    assert left[:, 1:] == pytest.approx(np.concatenate(parts)[:, 1:], abs=0.2)
    assert left.mean(axis=0) == pytest.approx(0.0, abs=1e-9)
    assert (left.std(axis=0) <= rows.std(axis=0) + 1e-12).all()


@pytest.mark.parametrize("rows", [np.ones((2, 1)), np.ones((50, 2)), np.array([[0.0], [1.0]])])
def test_without_variance_nothing_is_left(rows):
    assert without_step(rows) == pytest.approx(0.0)


@given(
    st.lists(
        st.floats(-4, 4) | st.sampled_from([math.nan, math.inf, -math.inf, 1e300, -1e300, 1e20]),
        max_size=80,
    ),
    st.sampled_from([0.25, 0.5, 1.0]),
    st.sampled_from([3.0, 8.0]),
)
def test_sums_are_pages_own(values, allowance, threshold):
    """As the recursion in Page's paper has them, one value after another."""
    want = []
    for sign in (1.0, -1.0):
        total, since, found = 0.0, 0, (-1, -1)
        for i, value in enumerate(values):
            total += sign * value - allowance if math.isfinite(value) else 0.0
            if total > threshold:
                found = (i, since)
                break
            if total <= 0.0:
                total, since = 0.0, i + 1
        want.append(found)
    up, down = want
    is_up = up[0] >= 0 and (down[0] < 0 or up[0] <= down[0])
    found = page_hinkley(
        np.array(values, np.float64)[:, None], allowance=allowance, threshold=threshold
    )
    assert (found.detected[0], found.began[0]) == (up if is_up else down)
    assert found.direction[0] == (1 if is_up else -1 if down[0] >= 0 else 0)
