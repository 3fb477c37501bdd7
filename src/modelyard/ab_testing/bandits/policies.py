"""How a bandit chooses: one class for each algorithm.

A policy sees the arms' sums and a generator, and keeps no state of its own. Multiplying every
reward by a constant, or adding one, changes no choice of any of them (Thompson sampling leaves
its special case for 0/1 rewards when they no longer are).

A reward that is not finite is a use like any other, so a variant that gives nothing else is not
tried for ever. For choosing it is worth the smallest reward that any arm has given so far, which
keeps the choices free of the rewards' scale; among equals the arm with fewer of them is chosen.
"""

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from modelyard._core.errors import ConfigError


@dataclass(slots=True)
class Arms:
    """Sums of the rewards of each arm. Not thread-safe: the bandit that owns them locks.

    Attributes:
        counts: Rewards of each arm.
        means: Their means; 0.0 while there are none.
        m2: Their sums of squares about the mean.
        within_m2: Sum of `m2` over the arms.
        total: Sum of `counts`.
        least: Smallest reward of any arm.
        most: Largest reward of any arm.
        is_binary: Whether every reward was 0 or 1.
        non_finite: Rewards of each arm that were not finite; none of the above holds them.
    """

    counts: list[int]
    means: list[float] = field(default_factory=list)
    m2: list[float] = field(default_factory=list)
    non_finite: list[int] = field(default_factory=list)
    within_m2: float = 0.0
    total: int = 0
    least: float = math.inf
    most: float = -math.inf
    is_binary: bool = True

    @classmethod
    def empty(cls, n_arms: int) -> "Arms":
        """Arms without any reward."""
        return cls([0] * n_arms, [0.0] * n_arms, [0.0] * n_arms, [0] * n_arms)

    def add(self, index: int, reward: float) -> None:
        """Take one reward of one arm (Welford, 1962)."""
        if not math.isfinite(reward):
            self.non_finite[index] += 1
            return
        self.counts[index] = n = self.counts[index] + 1
        delta = reward - self.means[index]
        self.means[index] = mean = self.means[index] + delta / n
        growth = delta * (reward - mean)
        self.m2[index] += growth
        self.within_m2 += growth
        self.total += 1
        self.least = min(self.least, reward)
        self.most = max(self.most, reward)
        if reward not in (0.0, 1.0):
            self.is_binary = False

    @property
    def uses(self) -> list[int]:
        """How often each arm gave a reward, finite or not."""
        return [n + bad for n, bad in zip(self.counts, self.non_finite, strict=True)]

    @property
    def worths(self) -> list[float]:
        """Mean of each arm, where every reward that was not finite counts as `least`."""
        if not self.total or not any(self.non_finite):
            return self.means
        return [
            (n * mean + bad * self.least) / (n + bad) if bad else mean
            for n, mean, bad in zip(self.counts, self.means, self.non_finite, strict=True)
        ]

    def best(self) -> int:
        """Index of the arm of most worth.

        Among equals: fewest rewards that were not finite, then fewest uses, then the first.
        """
        uses, worths = self.uses, self.worths
        return max(range(len(uses)), key=lambda i: (worths[i], -self.non_finite[i], -uses[i]))

    @property
    def scale(self) -> float:
        """Pooled standard deviation within the arms; half the range while there is none."""
        df = self.total - len(self.counts)
        if df > 0 and self.within_m2 > 0.0:
            return math.sqrt(self.within_m2 / df)
        return (self.most - self.least) / 2.0 if self.total else 0.0


class Policy(Protocol):
    """A way to choose an arm."""

    def choose(self, arms: Arms, rng: np.random.Generator) -> int:
        """Index of the arm to use now."""
        ...

    def probabilities(self, arms: Arms, rng: np.random.Generator) -> list[float]:
        """Chance of each arm to be chosen now."""
        ...


@dataclass(frozen=True)
class EpsilonGreedy:
    """The best arm so far, or with chance `epsilon` any of them.

    Attributes:
        epsilon: Chance of a random choice, 0 to 1.

    Source:
        Sutton and Barto (2018), Reinforcement Learning, section 2.2.
    """

    epsilon: float = 0.1

    def __post_init__(self) -> None:
        if not 0.0 <= self.epsilon <= 1.0:
            raise ConfigError(f"epsilon must be in [0, 1], got {self.epsilon}. 0.1 means 10 %.")

    def choose(self, arms: Arms, rng: np.random.Generator) -> int:
        """As `Policy.choose`; each arm once before any is preferred."""
        if rng.random() < self.epsilon:
            return int(rng.random() * len(arms.counts))
        return _greedy(arms)

    def probabilities(self, arms: Arms, rng: np.random.Generator) -> list[float]:  # noqa: ARG002 - protocol
        """As `Policy.probabilities`, exact."""
        n = len(arms.counts)
        shares = [self.epsilon / n] * n
        shares[_greedy(arms)] += 1.0 - self.epsilon
        return shares


@dataclass(frozen=True)
class UpperConfidenceBound:
    """The arm that could be best: mean + s sqrt(2 ln t / n), s the pooled spread within the arms.

    With s the bonus has the rewards' own unit. UCB1 takes rewards of 0 to 1 for granted: returns
    of a hundredth vanish beside its bonus, and it plays at random.

    Source:
        Auer, Cesa-Bianchi and Fischer (2002), Machine Learning 47, 235-256 (UCB1, for s = 1).
    """

    def choose(self, arms: Arms, rng: np.random.Generator) -> int:  # noqa: ARG002 - protocol
        """As `Policy.choose`; each arm twice before their spread is trusted."""
        uses = arms.uses
        fewest = min(uses)
        if fewest < _MIN_PULLS:
            return uses.index(fewest)
        bonus = arms.scale * math.sqrt(2.0 * math.log(sum(uses)))
        if bonus == 0.0:
            return arms.best()
        best, best_bound = 0, -math.inf
        for index, worth in enumerate(arms.worths):
            bound = worth + bonus / math.sqrt(uses[index])
            if bound > best_bound:
                best, best_bound = index, bound
        return best

    def probabilities(self, arms: Arms, rng: np.random.Generator) -> list[float]:
        """As `Policy.probabilities`: the choice is certain."""
        chosen = self.choose(arms, rng)
        return [float(index == chosen) for index in range(len(arms.counts))]


@dataclass(frozen=True)
class ThompsonSampling:
    """Each arm is chosen with the chance that it is best.

    Rewards of 0 and 1: Beta posteriors with a uniform prior. Other rewards: normal posteriors of
    the means, with the pooled spread within the arms.

    Source:
        Thompson (1933), Biometrika 25, 285-294; Agrawal and Goyal (2013), AISTATS (normal form).
    """

    def choose(self, arms: Arms, rng: np.random.Generator) -> int:
        """As `Policy.choose`."""
        forced = _forced(arms)
        if forced is not None:
            return forced
        return int(np.argmax(_posterior_draws(arms, rng, 1)[0]))

    def probabilities(self, arms: Arms, rng: np.random.Generator) -> list[float]:
        """As `Policy.probabilities`, from 2,000 draws."""
        n = len(arms.counts)
        forced = _forced(arms)
        if forced is not None:
            return [float(index == forced) for index in range(n)]
        best = np.argmax(_posterior_draws(arms, rng, _N_DRAWS), axis=1)
        return [float(share) for share in np.bincount(best, minlength=n) / _N_DRAWS]


_MIN_PULLS = 2
_N_DRAWS = 2000

ALGORITHMS = ("epsilon_greedy", "ucb", "thompson_sampling")


def policy_named(algorithm: str, *, epsilon: float) -> Policy:
    """The policy of this name.

    Raises:
        ConfigError: No such algorithm, or an epsilon outside [0, 1].
    """
    greedy = EpsilonGreedy(epsilon)
    policies: dict[str, Policy] = {
        "epsilon_greedy": greedy,
        "ucb": UpperConfidenceBound(),
        "thompson_sampling": ThompsonSampling(),
    }
    if algorithm not in policies:
        raise ConfigError(f"algorithm must be one of {', '.join(ALGORITHMS)}; got {algorithm!r}.")
    return policies[algorithm]


def _greedy(arms: Arms) -> int:
    uses = arms.uses
    return uses.index(0) if 0 in uses else arms.best()


def _forced(arms: Arms) -> int | None:
    """The arm that Thompson sampling chooses without a draw, or None where it draws."""
    if arms.is_binary:
        return None
    uses = arms.uses
    fewest = min(uses)
    if fewest < _MIN_PULLS:
        return uses.index(fewest)
    return arms.best() if arms.scale == 0.0 else None


def _posterior_draws(
    arms: Arms, rng: np.random.Generator, n_draws: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Draws of the arms' means, shape (n_draws, arms)."""
    size = (n_draws, len(arms.counts))
    uses = np.array(arms.uses, dtype=np.float64)
    if arms.is_binary:
        # A reward that is not finite is no win: 0 is the worst there can be.
        wins = np.rint(np.array(arms.counts) * np.array(arms.means))
        return rng.beta(1.0 + wins, 1.0 + uses - wins, size=size)
    return np.array(arms.worths) + rng.standard_normal(size) * (arms.scale / np.sqrt(uses))
