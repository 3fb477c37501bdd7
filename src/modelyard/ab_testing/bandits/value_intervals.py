"""Intervals for a policy's value: for many choices, for few, and for any number of them."""

import math
from collections.abc import Callable

import numpy as np
from scipy import special

from modelyard.ab_testing.bandits.estimators import Array, Estimate, Sample
from modelyard.stats.intervals import Interval

_N_RESAMPLES = 1000
_LARGEST_BET = 0.75
_ROUNDING = 1e-9


def normal_interval(estimate: Estimate, *, alpha: float) -> Interval:
    """Value plus and minus some standard errors: for large samples without extreme weights."""
    half = -float(special.ndtri(alpha / 2.0)) * estimate.standard_error
    return Interval(estimate.value - half, estimate.value + half)


def bootstrap_interval(
    sample: Sample,
    estimator: Callable[[Sample], Estimate],
    *,
    alpha: float,
    rng: np.random.Generator,
) -> Interval:
    """Quantiles of the estimate over resampled choices: for skewed weights.

    Source:
        Efron (1979), Annals of Statistics 7, 1-26 (percentile form).
    """
    n = len(sample.rewards)
    # Sorted, so that what came before a choice did so in the resample.
    places = (np.sort(rng.integers(0, n, n)) for _ in range(_N_RESAMPLES))
    resamples = (sample.at(one) for one in places)
    # One without any choice of the policy has no value.
    values = [estimator(one).value for one in resamples if one.weights.any()]
    lower, upper = np.quantile(values, [alpha / 2.0, 1.0 - alpha / 2.0])
    return Interval(float(lower), float(upper))


def cautious_interval(
    sample: Sample,
    estimator: Callable[[Sample], Estimate],
    *,
    alpha: float,
    rng: np.random.Generator,
) -> Interval:
    """At each end the wider of a t interval and the bootstrap's: for few choices.

    The first knows that the standard error is itself uncertain, the second that the weights are
    skewed; with 10 to 30 choices' worth of evidence each of them alone is too narrow. The degrees
    of freedom are the effective number of choices less one; without ends where that is none.

    Source:
        As `bootstrap_interval`; checked by `tests/ab_testing/test_bandit_off_policy.py`.
    """
    estimate = estimator(sample)
    df = sample.effective_n - 1.0
    if df <= _ROUNDING or not 0.0 < estimate.standard_error < math.inf:
        return Interval(-math.inf, math.inf)
    half = -float(special.stdtrit(df, alpha / 2.0)) * estimate.standard_error
    drawn = bootstrap_interval(sample, estimator, alpha=alpha, rng=rng)
    return Interval(
        min(estimate.value - half, drawn.lower), max(estimate.value + half, drawn.upper)
    )


def bernstein_interval(
    sample: Sample, *, alpha: float, reward_range: tuple[float, float]
) -> Interval:
    """Holds at any sample size, also in logs whose chances follow the rewards.

    It asks only for the rewards' range: the weights may be as large as they like, because each
    end is a lower bound of a mean of terms that are 0 or more (the upper end of the value is the
    lower one of what is missing to the largest reward). It belongs to IPS, and is wide.

    Args:
        sample: In the order in which the choices were made.
        alpha: 1 - the confidence level.
        reward_range: Least and largest possible reward.

    Source:
        Waudby-Smith, Wu, Ramdas, Karampatziakis and Mineiro (2024), ACM/IMS Journal of Data
        Science 1 (3) (an empirical-Bernstein bound for importance weights).
    """
    least, most = reward_range
    shares = (sample.rewards - least) / (most - least)
    lower = _lower_bound(sample.weights * shares, alpha / 2.0)
    upper = 1.0 - _lower_bound(sample.weights * (1.0 - shares), alpha / 2.0)
    return Interval(least + (most - least) * lower, least + (most - least) * upper)


def _lower_bound(terms: Array, alpha: float) -> float:
    """Lower bound of the mean, in [0, 1], of terms of 0 or more that may be large.

    For a bet b in [0, 1) and a guess g in [0, 1] made before the term x, exp(b (x - mean) -
    (x - g)^2 (-ln(1 - b) - b)) has a mean of at most 1 (Fan, Grama and Liu, 2015), and so has the
    product of all of them.
    """
    n = np.arange(1, len(terms) + 1)
    clipped = np.minimum(terms, 1.0)
    # Guesses and bets from what came before only, as if one term of 1/2 had come first.
    before = np.concatenate([[0.0], np.cumsum(clipped)[:-1]])
    guesses = np.minimum((0.5 + before) / n, 1.0)
    squares = np.square(terms - guesses)
    spread = (0.25 + np.concatenate([[0.0], np.cumsum(squares)[:-1]])) / n
    bets = np.sqrt(2.0 * math.log(1.0 / alpha) / (np.maximum(spread, 1e-12) * len(terms)))
    bets = np.minimum(bets, _LARGEST_BET)
    cost = squares * (-np.log1p(-bets) - bets)
    bound = float((bets @ terms - math.log(1.0 / alpha) - cost.sum()) / bets.sum())
    return min(max(bound, 0.0), 1.0)
