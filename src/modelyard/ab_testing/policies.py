"""How a bandit chooses: one class for each algorithm.

A policy sees the arms' sums and a generator, and keeps no state of its own. Multiplying every
reward by a constant, or adding one, changes no choice of any of them (Thompson sampling leaves
its special case for 0/1 rewards when they no longer are).
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
    """

    counts: list[int]
    means: list[float] = field(default_factory=list)
    m2: list[float] = field(default_factory=list)
    within_m2: float = 0.0
    total: int = 0
    least: float = math.inf
    most: float = -math.inf
    is_binary: bool = True

    @classmethod
    def empty(cls, n_arms: int) -> "Arms":
        """Arms without any reward."""
        return cls([0] * n_arms, [0.0] * n_arms, [0.0] * n_arms)

    def add(self, index: int, reward: float) -> None:
        """Take one reward of one arm (Welford, 1962)."""
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
        counts = arms.counts
        fewest = min(counts)
        if fewest < _MIN_PULLS:
            return counts.index(fewest)
        bonus = arms.scale * math.sqrt(2.0 * math.log(arms.total))
        if bonus == 0.0:
            return counts.index(fewest)
        best, best_bound = 0, -math.inf
        for index, mean in enumerate(arms.means):
            bound = mean + bonus / math.sqrt(counts[index])
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
        if not arms.is_binary:
            fewest = min(arms.counts)
            if fewest < _MIN_PULLS:
                return arms.counts.index(fewest)
        return int(np.argmax(_posterior_draws(arms, rng, 1)[0]))

    def probabilities(self, arms: Arms, rng: np.random.Generator) -> list[float]:
        """As `Policy.probabilities`, from 2,000 draws."""
        n = len(arms.counts)
        if not arms.is_binary and min(arms.counts) < _MIN_PULLS:
            chosen = self.choose(arms, rng)
            return [float(index == chosen) for index in range(n)]
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
    fewest = min(arms.counts)
    if fewest == 0:
        return arms.counts.index(0)
    return arms.means.index(max(arms.means))


def _posterior_draws(
    arms: Arms, rng: np.random.Generator, n_draws: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Draws of the arms' means, shape (n_draws, arms)."""
    size = (n_draws, len(arms.counts))
    counts = np.array(arms.counts, dtype=np.float64)
    means = np.array(arms.means)
    if arms.is_binary:
        wins = np.rint(counts * means)
        return rng.beta(1.0 + wins, 1.0 + counts - wins, size=size)
    return means + rng.standard_normal(size) * (arms.scale / np.sqrt(counts))
