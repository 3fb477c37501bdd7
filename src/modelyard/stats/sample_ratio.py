"""Whether variants get the traffic they should: if not, something loses units selectively."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from modelyard._core.errors import ConfigError

# Total of the Dirichlet mixture's parameters: deviations of about 1/sqrt of it are found soonest.
# An average of tests by betting is one too, so all sizes are tried at once.
_CONCENTRATIONS = (100.0, 10_000.0, 1_000_000.0)

Stratum = tuple[Sequence[int], Sequence[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRatio:
    """How well counts of units agree with the intended shares.

    Attributes:
        p_value: Chi-square test, right when looked at once; 1.0 without units.
        p_value_always_valid: May be looked at after every unit: at most alpha with chance at most
            alpha over all looks together.
    """

    p_value: float
    p_value_always_valid: float


def sample_ratio(strata: Sequence[Stratum]) -> SampleRatio:
    """Whether units were split as intended, over periods with fixed shares.

    Args:
        strata: Counts of units by variant and their intended shares (any positive total) in each
            weight epoch. Each unit is counted once, where it was first assigned.

    Returns:
        Both 0.0 where a variant with a share of 0 has units.

    Raises:
        ConfigError: Unequal lengths, negative counts or shares, or shares that are all 0.

    Source:
        Pearson (1900), Philosophical Magazine 50, 157-175; Lindon and Malek (2022), NeurIPS 35,
        with the average over three concentrations.
    """
    parts = [_checked(counts, shares) for counts, shares in strata]
    if any(counts[shares == 0.0].any() for counts, shares in parts):
        return SampleRatio(p_value=0.0, p_value_always_valid=0.0)
    used = [
        (counts[shares > 0.0], shares[shares > 0.0]) for counts, shares in parts if counts.any()
    ]
    return SampleRatio(p_value=_chi_square(used), p_value_always_valid=_always_valid(used))


_Part = tuple[NDArray[np.float64], NDArray[np.float64]]


def _chi_square(parts: Sequence[_Part]) -> float:
    statistic, df = 0.0, 0
    for counts, shares in parts:
        expected = counts.sum() * shares
        statistic += float((np.square(counts - expected) / expected).sum())
        df += len(counts) - 1
    return float(special.chdtrc(df, statistic)) if df > 0 else 1.0


def _always_valid(parts: Sequence[_Part]) -> float:
    """One over the average wealth of those who bet on other shares."""
    wealth = [
        sum(_log_bayes_factor(counts, shares, total) for counts, shares in parts)
        for total in _CONCENTRATIONS
    ]
    log_average = float(special.logsumexp(wealth)) - math.log(len(wealth))
    return math.exp(-max(log_average, 0.0))


def _log_bayes_factor(
    counts: NDArray[np.float64], shares: NDArray[np.float64], total: float
) -> float:
    """Log likelihood of the counts under the Dirichlet mixture, over that under the shares."""
    prior = total * shares
    rising = special.gammaln(prior + counts) - special.gammaln(prior) - counts * np.log(shares)
    whole = special.gammaln(total + counts.sum()) - special.gammaln(total)
    return float(rising.sum() - whole)


def _checked(counts: Sequence[int], shares: Sequence[float]) -> _Part:
    n, share = np.asarray(counts, np.float64), np.asarray(shares, np.float64)
    if n.shape != share.shape or n.ndim != 1:
        raise ConfigError(f"{n.size} counts need as many shares, got {share.size}.")
    if (n < 0.0).any() or (share < 0.0).any() or not share.sum() > 0.0:
        raise ConfigError(
            f"Counts and shares must not be negative, nor all shares 0; got {list(counts)} and "
            f"{list(shares)}."
        )
    return n, share / share.sum()
