"""Policies that use the variant that could be best: its mean plus a bonus for being little known.

A choice whose reward is still to come counts as a use in the bonus (not in the mean). Ten choices
in a row without any reward are therefore spread over the variants: each makes its variant's bonus
smaller, as its reward will.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import inf, log, sqrt  # by their own names: every choice takes some

import numpy as np

from modelyard.ab_testing.bandits.policy import choice_without_spread
from modelyard.ab_testing.bandits.sums import Sums


class Optimistic(ABC):
    """Chooses the largest of some upper bounds; its choice is certain."""

    __slots__ = ()

    def choose(self, sums: Sums, rng: np.random.Generator) -> tuple[int, None]:  # noqa: ARG002 - protocol
        """As `Policy.choose`; each variant twice before the rewards' spread is trusted."""
        scale = 0.0 if sums.n_untried else sums.scale
        if scale == 0.0:
            return choice_without_spread(sums), None
        bounds = self.bounds(sums, scale)
        return bounds.index(max(bounds)), None

    def posterior(self, sums: Sums) -> None:  # noqa: ARG002 - protocol
        """As `Policy.posterior`."""
        return

    @abstractmethod
    def bounds(self, sums: Sums, scale: float) -> list[float]:
        """Upper bound of each variant, in the rewards' unit.

        Args:
            sums: Of variants that were all used.
            scale: Pooled standard deviation of rewards within the variants, above 0.
        """


@dataclass(frozen=True, slots=True)
class UpperConfidenceBound:
    """Mean + s sqrt(2 ln t / n), s the pooled spread within the variants.

    With s the bonus has the rewards' own unit. UCB1 takes rewards of 0 to 1 for granted: returns
    of a hundredth vanish beside its bonus, and it plays at random.

    Source:
        Auer, Cesa-Bianchi and Fischer (2002), Machine Learning 47, 235-256 (UCB1, for s = 1).
    """

    def choose(self, sums: Sums, rng: np.random.Generator) -> tuple[int, None]:  # noqa: ARG002 - protocol
        """As `Policy.choose`; in one loop, which takes a third of the time."""
        scale = 0.0 if sums.n_untried else sums.scale
        if scale == 0.0:
            return choice_without_spread(sums), None
        bonus = scale * sqrt(2.0 * log(sums.n_pulls))
        roots = sums.roots
        best, index, largest = 0, 0, -inf
        for worth in sums.worths:
            bound = worth + bonus * roots[index]
            if bound > largest:
                best, largest = index, bound
            index += 1  # noqa: SIM113 - enumerate() takes longer
        return best, None

    def posterior(self, sums: Sums) -> None:  # noqa: ARG002 - protocol
        """As `Policy.posterior`."""
        return


@dataclass(frozen=True, slots=True)
class Tuned(Optimistic):
    """The bonus goes by each variant's own variance, or rather by what that could be.

    Mean + sqrt(V ln t / n) with V = variance + r^2 sqrt(2 ln t / n), at most r^2 / 4, r the range
    of the rewards. Where no range is known the pooled variance takes the place of r^2 and there
    is no limit: for normal rewards the standard error of a variance is s^2 sqrt(2 / n).

    Attributes:
        reward_range: Least and largest possible reward, where they are known.

    Source:
        Auer, Cesa-Bianchi and Fischer (2002), Machine Learning 47, 235-256, section 4
        (UCB1-TUNED).
    """

    reward_range: tuple[float, float] | None = None

    def bounds(self, sums: Sums, scale: float) -> list[float]:
        """As `Optimistic.bounds`."""
        log_t = log(sums.n_pulls)
        unit, limit = scale * scale, inf
        if self.reward_range is not None or sums.wins() is not None:
            unit = (sums.most - sums.least) ** 2
            limit = unit / 4.0
        bounds = []
        for worth, n, count, m2 in zip(sums.worths, sums.pulls, sums.counts, sums.m2, strict=True):
            variance = (m2 / count if count else 0.0) + unit * sqrt(2.0 * log_t / n)
            bounds.append(worth + sqrt(min(variance, limit) * log_t / n))
        return bounds


@dataclass(frozen=True, slots=True)
class Adaptive(Optimistic):
    """Mean + s sqrt(2 ln(t / H) / n): confident sooner where the others are well known.

    H = sum over the variants j of min(n, sqrt(n n_j)) lies between n and n times the number of
    variants. `ucb` spends exploration as if every variant might still be best; here a variant's
    bonus falls as it has had its part of it. The source knows the number of choices to come and
    has it for t; without it t is the number so far.

    Source:
        Lattimore (2018), Journal of Machine Learning Research 19(20), 1-32 (AdaUCB).
    """

    def bounds(self, sums: Sums, scale: float) -> list[float]:
        """As `Optimistic.bounds`."""
        worths, pulls = sums.worths, sums.pulls
        bounds, below, n_left = [0.0] * len(pulls), 0.0, len(pulls)
        same, root, bonus = -1.0, 0.0, 0.0
        # From the least used on, so that the sum of min(n, sqrt(n n_j)) grows along.
        for index in sorted(range(len(pulls)), key=pulls.__getitem__):
            n = pulls[index]
            if n != same:  # else to the last bit the same: ties must be ties in every unit
                same, root = n, sqrt(n)
                effort = root * (below + root * n_left)
                bonus = 2.0 * log(sums.n_pulls / effort) if sums.n_pulls > effort else 0.0
            below, n_left = below + root, n_left - 1
            bounds[index] = worths[index] + scale * sqrt(bonus) / root
        return bounds
