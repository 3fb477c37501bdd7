"""What another way to choose would have earned, from the log of a bandit's choices.

Each reward is weighted by the chance of its choice under the other policy over that in the log.
Where the log's choices were certain nothing is known of the variants not chosen, and no weight
can mend that.

    >>> log = [
    ...     {"variant": name, "among": ["a", "b"], "propensity": 0.5, "has_reward": True,
    ...      "reward": reward}
    ...     for name, reward in [("a", 0.0), ("b", 1.0)] * 50
    ... ]
    >>> evaluate(log, "b")["value"]
    1.0
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

import numpy as np

from modelyard._core.errors import ConfigError, InputError
from modelyard._core.plain import finite_or_none
from modelyard.ab_testing.bandits.estimators import METHODS, Sample
from modelyard.ab_testing.bandits.inputs import checked_generator
from modelyard.ab_testing.bandits.value_intervals import (
    bernstein_interval,
    bootstrap_interval,
    cautious_interval,
    normal_interval,
)
from modelyard.stats.intervals import Interval, alpha_of

TargetPolicy = str | Mapping[str, float]

INTERVALS = ("auto", "normal", "cautious", "bootstrap", "bernstein")

_RESAMPLING = {"cautious": cautious_interval, "bootstrap": bootstrap_interval}

_FEW_EFFECTIVE = 100.0
# Standard errors by which the mean weight may miss 1 before the propensities are in doubt.
_DOUBTFUL = 4.0


class PolicyValue(TypedDict):
    """What a policy would have earned for each choice, in the rewards' unit.

    `n` logged choices say something of it: as much as `effective_n` choices of its own.
    `mean_weight` is about 1 where the propensities are right. `logged_value` is what the same
    choices earned as they were made. Left out were `n_without_reward` (pending or lost),
    `n_certain` (nothing else could be chosen) and `n_other_variants` (some variant that the
    policy uses was not there). `n_non_finite` rewards were taken as the least one.
    """

    policy: dict[str, float]
    method: str
    value: float
    standard_error: float | None
    interval: list[float | None]
    interval_method: str
    confidence_level: float
    n: int
    effective_n: float
    mean_weight: float
    largest_weight: float
    logged_value: float
    n_without_reward: int
    n_certain: int
    n_other_variants: int
    n_non_finite: int
    warnings: list[str]


class Options(TypedDict, total=False):
    """What `evaluate` may be told besides, all of it by name."""

    interval: str
    confidence_level: float
    reward_range: tuple[float, float] | None
    seed: int


def check_options(options: Mapping[str, Any]) -> None:
    """Check that there are options of these names.

    Raises:
        ConfigError: One is not.
    """
    known = Options.__annotations__
    for name in options:
        if name not in known:
            raise ConfigError(f"There is no option {name}; there are {', '.join(known)}.")


def evaluate(
    log: Iterable[Mapping[str, Any]],
    policy: TargetPolicy,
    method: str = "snips",
    *,
    interval: str = "auto",
    confidence_level: float = 0.95,
    reward_range: tuple[float, float] | None = None,
    seed: int = 0,
) -> PolicyValue:
    """What a policy would have earned.

    Args:
        log: Choices as `MultiArmedBandit.choices`, `export_choices` or `read_log` give them:
            `variant`, `among`, `propensity`, `has_reward`, `reward`; oldest first.
        policy: A variant's name (always that one), or a chance for each variant.
        method: `ips` (unbiased), `snips` (usually more precise) or `dr` (doubly robust).
        interval: `normal`, for many choices; `cautious`, for few or skewed weights; `auto`, the
            second where `effective_n` is below 100 and else the first; `bootstrap`; `bernstein`,
            which holds for any number of choices, with method `ips` and a `reward_range`.
        confidence_level: Of the interval.
        reward_range: Least and largest possible reward.
        seed: Of the resamples.

    Raises:
        ConfigError: An argument breaks its rule.
        InputError: The log says nothing of the policy, or has impossible propensities.

    Source:
        See `estimators` and `value_intervals`.
    """
    alpha = alpha_of(confidence_level)
    _check_names(method, interval)
    chances = _checked_policy(policy)
    usable, left_out = _usable(log, chances)
    sample = _sample(usable, chances, left_out, reward_range)
    estimate = METHODS[method](sample)
    if interval == "auto":
        interval = "cautious" if sample.effective_n < _FEW_EFFECTIVE else "normal"
    ends = _interval(sample, method, interval, alpha=alpha, reward_range=reward_range, seed=seed)
    weights = sample.weights
    return {
        "policy": chances,
        "method": method,
        "value": estimate.value,
        "standard_error": finite_or_none(estimate.standard_error),
        "interval": [finite_or_none(ends.lower), finite_or_none(ends.upper)],
        "interval_method": interval,
        "confidence_level": confidence_level,
        "n": len(weights),
        "effective_n": sample.effective_n,
        "mean_weight": float(weights.mean()),
        "largest_weight": float(weights.max()),
        "logged_value": float(sample.rewards.mean()),
        "n_without_reward": left_out["reward"],
        "n_certain": left_out["certain"],
        "n_other_variants": left_out["variants"],
        "n_non_finite": sum(_is_lost(entry["reward"]) for entry in usable),
        "warnings": _warnings(sample),
    }


def _interval(
    sample: Sample,
    method: str,
    interval: str,
    *,
    alpha: float,
    reward_range: tuple[float, float] | None,
    seed: int,
) -> Interval:
    if interval == "normal":
        return normal_interval(METHODS[method](sample), alpha=alpha)
    if interval in _RESAMPLING:
        rng = checked_generator(seed)
        return _RESAMPLING[interval](sample, METHODS[method], alpha=alpha, rng=rng)
    if reward_range is None or method != "ips":
        raise ConfigError(
            "interval 'bernstein' needs method='ips' and reward_range=(least, largest); got "
            f"method {method!r} and reward_range {reward_range!r}."
        )
    return bernstein_interval(sample, alpha=alpha, reward_range=reward_range)


def _check_names(method: str, interval: str) -> None:
    if method not in METHODS:
        raise ConfigError(f"method must be one of {', '.join(METHODS)}; got {method!r}.")
    if interval not in INTERVALS:
        raise ConfigError(f"interval must be one of {', '.join(INTERVALS)}; got {interval!r}.")


def _checked_policy(policy: TargetPolicy) -> dict[str, float]:
    if isinstance(policy, str):
        return {policy: 1.0}
    chances = {str(name): float(chance) for name, chance in policy.items()}
    total = sum(chances.values())
    if any(not chance >= 0.0 for chance in chances.values()) or not math.isclose(
        total, 1.0, abs_tol=1e-6
    ):
        raise ConfigError(
            f"A policy gives every variant a chance of 0 or more, 1 together; got {chances}, "
            f"together {total}."
        )
    return {name: chance / total for name, chance in chances.items()}


def _usable(
    log: Iterable[Mapping[str, Any]], chances: Mapping[str, float]
) -> tuple[list[Mapping[str, Any]], Counter[str]]:
    """Choices that say something of the policy, and why others do not."""
    used = {name for name, chance in chances.items() if chance > 0.0}
    usable: list[Mapping[str, Any]] = []
    left_out: Counter[str] = Counter()
    for place, entry in enumerate(log):
        propensity = entry["propensity"]
        if not isinstance(propensity, int | float) or not 0.0 < propensity <= 1.0:
            raise InputError(
                f"Choice {place} of the log has propensity {propensity!r}. What was chosen had a "
                "chance above 0 and of at most 1; without it the log cannot be weighted."
            )
        if not entry["has_reward"]:
            left_out["reward"] += 1
        elif not used.issubset(entry["among"]):
            left_out["variants"] += 1
        elif propensity == 1.0 and len(entry["among"]) > 1:
            # Not even of its own variant: how many such choices there are depends on its luck.
            left_out["certain"] += 1
        else:
            usable.append(entry)
    return usable, left_out


def _sample(
    usable: list[Mapping[str, Any]],
    chances: Mapping[str, float],
    left_out: Counter[str],
    reward_range: tuple[float, float] | None,
) -> Sample:
    names = list(dict.fromkeys([*chances, *(entry["variant"] for entry in usable)]))
    place = {name: index for index, name in enumerate(names)}
    variants = np.array([place[entry["variant"]] for entry in usable], dtype=np.intp)
    policy = np.array([chances.get(name, 0.0) for name in names])
    seen = {entry["variant"] for entry in usable}
    unseen = [name for name, chance in chances.items() if chance > 0.0 and name not in seen]
    if unseen:
        raise InputError(_nothing_known(unseen, len(usable), left_out))
    propensities = np.array([entry["propensity"] for entry in usable], dtype=np.float64)
    return Sample(
        rewards=_rewards(usable, reward_range),
        weights=policy[variants] / propensities,
        variants=variants,
        policy=policy,
    )


def _rewards(
    usable: list[Mapping[str, Any]], reward_range: tuple[float, float] | None
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
    rewards = np.array(
        [math.nan if _is_lost(entry["reward"]) else entry["reward"] for entry in usable],
        dtype=np.float64,
    )
    is_lost = np.isnan(rewards)
    if is_lost.all():
        raise InputError(f"None of the {len(usable)} rewards is finite: they say nothing.")
    if reward_range is not None and not (
        reward_range[0] <= np.nanmin(rewards) and np.nanmax(rewards) <= reward_range[1]
    ):
        raise InputError(
            f"The rewards lie in {float(np.nanmin(rewards))} to {float(np.nanmax(rewards))}, "
            f"which reward_range {reward_range} does not hold."
        )
    # As the bandit takes them.
    rewards[is_lost] = np.nanmin(rewards) if reward_range is None else reward_range[0]
    return rewards


def _is_lost(reward: float | None) -> bool:
    return reward is None or not math.isfinite(reward)


def _nothing_known(unseen: list[str], n_usable: int, left_out: Counter[str]) -> str:
    message = (
        f"The log does not say what {', '.join(unseen)} would have earned: none of the "
        f"{n_usable} choices that can be weighted is one of it. Left out: "
        f"{left_out['reward']} without a reward, {left_out['variants']} made while it was not "
        f"there, {left_out['certain']} that were certain (propensity 1)."
    )
    if left_out["certain"]:
        message += (
            " A certain choice says nothing of the others: make the bandit with "
            "min_probability above 0, or with an algorithm that draws."
        )
    return message


def _warnings(sample: Sample) -> list[str]:
    found = []
    if sample.effective_n < _FEW_EFFECTIVE:
        found.append(
            f"The log says as much as {sample.effective_n:.0f} choices of the policy itself: few, "
            "so the interval may be too narrow. Log more choices, with a min_probability of 0.05 "
            "or more; interval='bernstein' holds for any number of them."
        )
    weights = sample.weights
    error = float(weights.std()) / math.sqrt(len(weights))
    miss = float(weights.mean()) - 1.0
    if abs(miss) > _DOUBTFUL * error + 1e-9:
        found.append(
            f"The weights have a mean of {1.0 + miss:.3f}, which should be 1: some propensities "
            "are not those of the choices, or some variants could not be chosen at times."
        )
    return found
