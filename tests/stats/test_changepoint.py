"""When a mean changed, and how rarely one is said to have."""

import numpy as np
import pytest

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
