"""Traffic weights: what is allowed, and what they mean as shares."""

import math
from collections.abc import Mapping

from modelyard._core.errors import ConfigError


def normalised(weights: Mapping[str, float]) -> dict[str, float]:
    """`weights` as traffic shares that add up to 1, in the same order.

    Raises:
        ConfigError: No weight at all, one that is negative or not finite, or all are zero.
    """
    for name, weight in weights.items():
        if not math.isfinite(weight) or weight < 0.0:
            raise ConfigError(
                f"The weight of {name!r} must be a number of 0 or more, got {weight!r}."
            )
    total = math.fsum(weights.values())
    if total <= 0.0:
        raise ConfigError(
            f"At least one weight must be above 0, got {dict(weights)}: nobody would be served."
        )
    return {name: float(weight) / total for name, weight in weights.items()}


def whole_shares(weights: Mapping[str, float], total: int) -> dict[str, int]:
    """`total` things dealt out by weight in whole numbers (largest remainders, Hamilton's rule).

    Raises:
        ConfigError: As `normalised`.
    """
    exact = {name: share * total for name, share in normalised(weights).items()}
    counts = {name: math.floor(value) for name, value in exact.items()}
    left = total - sum(counts.values())
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    for name in by_remainder[:left]:
        counts[name] += 1
    return counts
