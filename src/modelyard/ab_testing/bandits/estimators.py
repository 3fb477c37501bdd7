"""Estimators of a policy's value from weighted rewards: pure functions.

A log of a bandit is no sample of independent choices: each chance depends on the rewards before.
Given the past, though, a weighted reward has the policy's value for its mean, so the sums below
have martingale differences for terms, and their standard errors hold as they do for independent
ones unless the propensities run down to nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Logged choices that say something about a policy, in the order in which they were made.

    Attributes:
        rewards: What each gave, shape (n,), finite.
        weights: Chance of the choice under the policy over that in the log, shape (n,).
        variants: Index of the chosen variant, shape (n,).
        policy: Chance of each variant under the policy, shape (variants,).
    """

    rewards: Array
    weights: Array
    variants: NDArray[np.intp]
    policy: Array

    @property
    def effective_n(self) -> float:
        """How many choices of the policy itself would say as much (Kish, 1965)."""
        return float(self.weights.sum() ** 2 / np.square(self.weights).sum())

    def at(self, places: NDArray[np.intp]) -> "Sample":
        """The choices at these places."""
        return Sample(
            rewards=self.rewards[places],
            weights=self.weights[places],
            variants=self.variants[places],
            policy=self.policy,
        )


@dataclass(frozen=True)
class Estimate:
    """A value and how sure it is.

    Attributes:
        value: In the rewards' unit.
        standard_error: Of the value, in the rewards' unit.
    """

    value: float
    standard_error: float


def importance_sampling(sample: Sample) -> Estimate:
    """IPS: the mean of the weighted rewards; unbiased.

    Source:
        Horvitz and Thompson (1952), Journal of the American Statistical Association 47, 663-685.
    """
    return _mean(sample.weights * sample.rewards)


def self_normalised(sample: Sample) -> Estimate:
    """SNIPS: weighted rewards over the sum of the weights.

    Slightly biased, and usually much more precise: an unlucky sum of the weights cancels, and a
    constant added to all rewards is added to the value. The standard error is that of a ratio of
    means.

    Source:
        Swaminathan and Joachims (2015), NeurIPS 28.
    """
    weights, rewards = sample.weights, sample.rewards
    total = float(weights.sum())
    value = float(weights @ rewards) / total
    n = len(rewards)
    spread = np.square(weights * (rewards - value)).sum() * n / max(1, n - 1)
    return Estimate(value, float(np.sqrt(spread)) / total)


def doubly_robust(sample: Sample) -> Estimate:
    """DR: what the variants' means predict, plus the weighted error of the prediction.

    Unbiased, and less noisy than IPS by what the means explain. The means before each choice are
    used for it, never its own reward or a later one, which keeps it unbiased in a log whose
    chances follow the rewards.

    Source:
        Dudík, Langford and Li (2011), ICML 28; means of the past as in Hadad et al. (2021), PNAS
        118 (15), e2014602118.
    """
    before = _means_before(sample)
    predicted = before @ sample.policy
    chosen = before[np.arange(len(sample.rewards)), sample.variants]
    return _mean(predicted + sample.weights * (sample.rewards - chosen))


METHODS: dict[str, Callable[[Sample], Estimate]] = {
    "ips": importance_sampling,
    "snips": self_normalised,
    "dr": doubly_robust,
}


def _mean(terms: Array) -> Estimate:
    n = len(terms)
    error = float(terms.std(ddof=1)) / np.sqrt(n) if n > 1 else np.inf
    return Estimate(float(terms.mean()), float(error))


def _means_before(sample: Sample) -> Array:
    """Mean reward of each variant before each choice, shape (n, variants).

    Of a variant without any yet, the mean of all rewards before; 0 at the first choice.
    """
    is_chosen = sample.variants[:, None] == np.arange(len(sample.policy))
    n_before = np.cumsum(is_chosen, axis=0) - is_chosen
    values = is_chosen * sample.rewards[:, None]
    sum_before = np.cumsum(values, axis=0) - values
    place = np.arange(len(sample.rewards))
    overall = (np.cumsum(sample.rewards) - sample.rewards) / np.maximum(1, place)
    means: Array = np.where(n_before > 0, sum_before / np.maximum(1, n_before), overall[:, None])
    return means
