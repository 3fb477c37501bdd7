"""Evidence that a rate is over its limit: against an integral, and in simulation."""

import math

import numpy as np
import pytest
from scipy.integrate import quad

from modelyard._core.errors import ConfigError
from modelyard.stats.exceedance import exceedance_evidence
from modelyard.update_strategy.guard import ENOUGH_EVIDENCE

N_RUNS = 2_000
HORIZON = 1_000


@pytest.mark.parametrize(
    ("n_events", "n_trials", "limit"),
    [
        *[(0, 0, 0.1), (0, 10, 0.1), (1, 1, 0.1), (5, 20, 0.1), (12, 55, 0.1), (3, 40, 0.5)],
        *[(40, 200, 0.1), (9, 10, 0.9), (30, 1000, 0.02), (0, 200, 0.01)],
    ],
)
def test_it_is_the_likelihood_ratio_averaged_over_the_rates_above(n_events, n_trials, limit):
    def ratio(rate):
        n_fine = n_trials - n_events
        fine = n_fine * (math.log1p(-rate) - math.log1p(-limit)) if n_fine else 0.0
        return weight(rate) * math.exp(n_events * math.log(rate / limit) + fine)

    def weight(rate):
        return (1.0 - rate) ** (max(0.5 / limit, 1.0) - 1.0)

    peak = min(max(n_events / n_trials if n_trials else limit, limit), 1.0)
    integral, _ = quad(ratio, limit, 1.0, points=[peak], epsabs=0, epsrel=1e-11, limit=200)
    expected = integral / quad(weight, limit, 1.0, epsabs=0, epsrel=1e-12)[0]
    assert exceedance_evidence(n_events, n_trials, limit) == pytest.approx(expected, rel=1e-7)


def test_more_events_are_more_evidence_and_no_number_is_too_large():
    evidence = [exceedance_evidence(k, 100, 0.1) for k in range(101)]
    assert evidence == sorted(evidence)
    assert math.isfinite(exceedance_evidence(10_000_000, 10_000_000, 0.01))
    assert exceedance_evidence(0, 10_000_000, 0.5) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("n_events", "n_trials", "limit"), [(1, 2, 0.0), (1, 2, 1.0), (3, 2, 0.1)]
)
def test_counts_and_limits_that_cannot_be_are_refused(n_events, n_trials, limit):
    with pytest.raises(ConfigError):
        exceedance_evidence(n_events, n_trials, limit)


def fewest_events(limit):
    """For each number of trials, the fewest events with enough evidence."""
    found, k = np.empty(HORIZON, dtype=int), 1
    for n in range(1, HORIZON + 1):
        while k <= n and exceedance_evidence(k, n, limit) < ENOUGH_EVIDENCE:
            k += 1
        found[n - 1] = k
    return found


def first_catches(rate, limit):
    """In each of 2,000 seeded runs, the trial at which the evidence is first enough."""
    failures = np.random.default_rng(12).random((N_RUNS, HORIZON)) < rate
    is_over = np.cumsum(failures, axis=1) >= fewest_events(limit)
    return np.where(is_over.any(axis=1), is_over.argmax(axis=1) + 1, HORIZON + 1)


@pytest.mark.parametrize("limit", [0.02, 0.1, 0.3])
def test_a_model_at_its_limit_is_hardly_ever_blamed_however_often_one_looks(limit):
    assert np.mean(first_catches(limit, limit) <= HORIZON) <= 0.05


def test_a_good_model_is_left_alone_and_a_bad_one_caught_always_and_soon():
    assert np.mean(first_catches(0.05, 0.1) <= HORIZON) <= 0.001
    caught = first_catches(0.2, 0.1)
    assert caught.max() <= HORIZON
    assert np.median(caught) < 70
