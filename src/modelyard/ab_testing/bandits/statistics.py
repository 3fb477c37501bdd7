"""What a bandit says of itself: plain, JSON-serialisable, NaN and infinity as None."""

import math
from typing import TypedDict

from modelyard._core.plain import finite_or_none
from modelyard.ab_testing.bandits.learner import Learner
from modelyard.ab_testing.bandits.mean_bounds import bounded_mean, large_sample_mean
from modelyard.ab_testing.bandits.sums import Sums
from modelyard.stats.intervals import Interval
from modelyard.stats.moments import Moments

_ALPHA = 0.05
_WON_OR_LOST = (0.0, 1.0)


class Regret(TypedDict):
    """Reward lost so far by not using the best variant at every choice, in the rewards' unit.

    `estimate` takes the mean rewards for the true ones; `lower` and `upper` follow from the
    bounds of the means, and are None where some bound is not known.
    """

    estimate: float
    lower: float | None
    upper: float | None


class Recent(TypedDict):
    """What choices are made on where a bandit forgets: weights and means of the rewards."""

    counts: dict[str, float]
    values: dict[str, float]


class RemovedVariant(TypedDict):
    """What is known of a variant that was removed."""

    count: int
    value: float
    std: float | None
    non_finite: int


class BanditStatistics(TypedDict):
    """What a bandit has learnt.

    `values` are mean rewards (0.0 for a variant without any), `std` their spread (None below
    two), `probabilities` the chance of each variant to be chosen next. `counts`, `values` and
    `std` leave out the rewards that were not finite: `non_finite` of them, by variant in
    `non_finite_counts`.

    `lower_bounds` and `upper_bounds` hold the true means with 95 % confidence each, however often
    one looks and however the traffic was directed. For rewards of 0 and 1 and for those of a known
    `reward_range` they hold at any number of rewards. Others need large samples: None below 400
    rewards and while one of them makes up much of the spread; losses too rare to have been seen
    are not in them.
    `pending` counts choices whose reward is still to come, `expired` those whose reward was
    waited for in vain, `duplicates` rewards of requests that had theirs.

    `recent` is None unless the bandit has a window or a discount; `best_variant` and
    `probabilities` then go by it, all else by all rewards.
    """

    algorithm: str
    total: int
    counts: dict[str, int]
    values: dict[str, float]
    std: dict[str, float | None]
    best_variant: str | None
    probabilities: dict[str, float]
    non_finite: int
    non_finite_counts: dict[str, int]
    lower_bounds: dict[str, float | None]
    upper_bounds: dict[str, float | None]
    pending: dict[str, int]
    expired: int
    duplicates: int
    regret: Regret
    recent: Recent | None
    removed: dict[str, RemovedVariant]


def statistics_of(learner: Learner) -> BanditStatistics:
    """What a bandit has learnt; changes nothing."""
    names, record, sums = learner.names, learner.record, learner.sums
    counts = [int(n) for n in record.counts]
    failures = [int(n) for n in record.failures]
    reward_range = learner.rules.reward_range
    bounds = [_bounds(record, index, reward_range) for index in range(len(names))]
    return {
        "algorithm": learner.rules.algorithm,
        "total": sum(counts),
        "counts": dict(zip(names, counts, strict=True)),
        "values": dict(zip(names, record.means, strict=True)),
        "std": {name: _std(record, index) for index, name in enumerate(names)},
        "best_variant": _best(learner),
        "probabilities": dict(zip(names, learner.probabilities(), strict=True)),
        "non_finite": sum(failures),
        "non_finite_counts": dict(zip(names, failures, strict=True)),
        "lower_bounds": {
            name: finite_or_none(bound.lower) for name, bound in zip(names, bounds, strict=True)
        },
        "upper_bounds": {
            name: finite_or_none(bound.upper) for name, bound in zip(names, bounds, strict=True)
        },
        "pending": dict(zip(names, sums.pending, strict=True)),
        "expired": learner.choices.n_expired,
        "duplicates": learner.n_duplicates,
        "regret": _regret(learner, bounds),
        "recent": _recent(learner),
        "removed": {name: _removed(one) for name, one in learner.removed.items()},
    }


def _best(learner: Learner) -> str | None:
    sums = learner.sums
    tried = [index for index, n in enumerate(sums.counts) if n]
    best = max(tried, key=lambda i: (sums.worths[i], -sums.failures[i]), default=None)
    return None if best is None else learner.names[best]


def _std(sums: Sums, index: int) -> float | None:
    n = sums.counts[index]
    return math.sqrt(sums.m2[index] / (n - 1)) if n > 1 else None


def _bounds(sums: Sums, index: int, reward_range: tuple[float, float] | None) -> Interval:
    """Always-valid: a variant's rewards are a fair sample of its own however many there are."""
    n, mean = int(sums.counts[index]), sums.means[index]
    if reward_range is None and sums.is_two_valued and {sums.least, sums.most} <= {*_WON_OR_LOST}:
        reward_range = _WON_OR_LOST
    if reward_range is not None and n:
        least, most = reward_range
        return bounded_mean(n, mean, least=least, most=most, alpha=_ALPHA)
    return large_sample_mean(
        Moments(n, mean, sums.m2[index]),
        smallest=sums.smallest[index],
        largest=sums.largest[index],
        alpha=_ALPHA,
    )


def _regret(learner: Learner, bounds: list[Interval]) -> Regret:
    record = learner.record
    uses = record.uses()
    worths = [worth for worth, n in zip(record.worths, uses, strict=True) if n]
    best = max(worths, default=0.0)
    reward_range = learner.rules.reward_range
    gone = [
        (one.uses()[0], one.worths[0], _bounds(one, 0, reward_range))
        for one in learner.removed.values()
    ]
    known = [*zip(uses, record.worths, bounds, strict=True), *gone]
    best_lower = max(bound.lower for bound in bounds)
    best_upper = max(bound.upper for bound in bounds)
    return {
        "estimate": sum(n * max(0.0, best - worth) for n, worth, _ in known if n),
        "lower": finite_or_none(
            sum(n * max(0.0, best_lower - bound.upper) for n, _, bound in known if n)
        ),
        "upper": finite_or_none(
            sum(n * max(0.0, best_upper - bound.lower) for n, _, bound in known if n)
        ),
    }


def _recent(learner: Learner) -> Recent | None:
    if learner.record is learner.sums:
        return None
    return {
        "counts": dict(zip(learner.names, learner.sums.counts, strict=True)),
        "values": dict(zip(learner.names, learner.sums.means, strict=True)),
    }


def _removed(one: Sums) -> RemovedVariant:
    return {
        "count": int(one.counts[0]),
        "value": one.means[0],
        "std": _std(one, 0),
        "non_finite": int(one.failures[0]),
    }
