"""What a bandit says of itself: plain, JSON-serialisable, NaN and infinity as None."""

import math
from typing import TypedDict

from modelyard._core.plain import finite_or_none
from modelyard.ab_testing.bandits.learner import Learner
from modelyard.ab_testing.bandits.sums import Sums
from modelyard.stats.intervals import Interval
from modelyard.stats.moments import Moments
from modelyard.stats.sequential import always_valid
from modelyard.stats.significance import paired

CONFIDENCE_LEVEL = 0.95
# Rewards of a variant at which its bounds are closest; any number is valid.
_N_TUNED = 1000


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
    one looks and however the traffic was directed (None where the rewards had no spread yet).
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
    bounds = [_bounds(record, index) for index in range(len(names))]
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


def _bounds(sums: Sums, index: int) -> Interval:
    """Always-valid: a variant's rewards are a fair sample of its own however many there are."""
    moments = Moments(int(sums.counts[index]), sums.means[index], sums.m2[index])
    if moments.m2 <= 0.0:
        return Interval(-math.inf, math.inf)
    contrast = paired(moments, mean_a=0.0, mean_b=moments.mean)
    valid = always_valid(contrast, n_tuned=2.0 * _N_TUNED, confidence_level=CONFIDENCE_LEVEL)
    return valid.interval


def _regret(learner: Learner, bounds: list[Interval]) -> Regret:
    record = learner.record
    uses = record.uses()
    worths = [worth for worth, n in zip(record.worths, uses, strict=True) if n]
    best = max(worths, default=0.0)
    gone = [(one.uses()[0], one.worths[0], _bounds(one, 0)) for one in learner.removed.values()]
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
