"""Autocorrelation and thresholds calibrated from blocks."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.stats.autocorrelation import (
    MAX_LAG,
    Autocorrelation,
    effective_share,
    is_autocorrelated,
    lag1,
)
from modelyard.stats.calibration import leave_one_out, prediction_limit, successive
from modelyard.stats.moments import moments_of


def autoregression(rng, r, n):
    x = np.empty(n)
    x[0] = rng.normal()
    noise = rng.normal(size=n) * math.sqrt(1 - r * r)
    for t in range(1, n):
        x[t] = r * x[t - 1] + noise[t]
    return x


@given(
    st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=600),
    st.lists(st.integers(0, 600), max_size=5),
)
def test_the_stream_and_the_array_give_the_same_autocorrelations(values, reads):
    x = np.array(values) + 1e4
    stream = Autocorrelation()
    for i, value in enumerate(x):
        stream.add(float(value))
        if i in reads:  # looking changes nothing
            stream.correlogram(moments_of(x[: i + 1]))
    got = stream.correlogram(moments_of(x)).values
    assert got[0] == pytest.approx(lag1(x[:, None])[0], abs=1e-6)
    centred = x - x.mean()
    squares = float((centred * centred).sum())
    for k in (1, 2, 7, MAX_LAG):
        if squares > 1e-6:
            want = float(centred[k:] @ centred[:-k]) / squares
            assert got[k - 1] == pytest.approx(want, abs=1e-6)


def test_accounts_that_take_turns_show_at_the_lag_of_their_number():
    rng = np.random.default_rng(0)
    accounts = np.array([autoregression(rng, 0.9, 400) for _ in range(7)])
    x = accounts.T.ravel()
    stream = Autocorrelation()
    for value in x:
        stream.add(float(value))
    found = stream.correlogram(moments_of(x)).values
    assert int(found.argmax()) + 1 == 7
    assert found[6] == pytest.approx(0.9, abs=0.05)
    assert abs(found[0]) < 0.1


def test_an_autoregression_is_recognised_and_noise_is_not():
    rng = np.random.default_rng(0)
    assert lag1(autoregression(rng, 0.9, 5000)[:, None])[0] == pytest.approx(0.9, abs=0.03)
    assert not is_autocorrelated(float(lag1(rng.normal(size=(5000, 1)))[0]), 5000)
    assert lag1(np.ones((10, 1)))[0] == 0.0


def test_effective_share_gives_the_variance_of_an_autoregressions_mean():
    rng = np.random.default_rng(1)
    means = [autoregression(rng, 0.8, 500).mean() for _ in range(300)]
    assert 500 * np.var(means) == pytest.approx(1 / effective_share(0.8), rel=0.25)
    assert effective_share(-0.5) == 1.0
    assert 0 < effective_share(1.0) < 1e-3


def test_the_next_score_exceeds_the_limit_as_often_as_stated():
    rng = np.random.default_rng(2)
    scores = rng.normal(1.0, 0.2, size=(4000, 11))
    above = [row[-1] > prediction_limit(row[:-1]) for row in scores]
    assert np.mean(above) == pytest.approx(0.05, abs=0.012)


def test_a_limit_needs_two_scores():
    assert math.isnan(prediction_limit([0.1]))


def test_one_change_of_level_touches_one_successive_score():
    windows = [0.0] * 5 + [1.0] * 5
    scores = successive(windows, lambda a, b: abs(a - b))
    assert sorted(scores) == [0.0] * 8 + [1.0]


def test_each_block_is_scored_against_the_rest():
    scores = leave_one_out([0.0, 3.0, 6.0], lambda rest, block: block - float(np.mean(rest)))
    assert scores == pytest.approx([-4.5, 0.0, 4.5])
