"""The algorithms by name, and what they have in common.

A policy sees the variants' sums and a generator and keeps no state of its own. Multiplying every
reward by a constant, or adding one, changes no choice of any of them.
"""

from dataclasses import dataclass
from numbers import Real
from typing import Any

from modelyard._core.errors import ConfigError
from modelyard.ab_testing.bandits.greedy import Greedy
from modelyard.ab_testing.bandits.kl import KullbackLeibler
from modelyard.ab_testing.bandits.optimism import Adaptive, Tuned, UpperConfidenceBound
from modelyard.ab_testing.bandits.policy import Policy
from modelyard.ab_testing.bandits.recent import DiscountedSums, WindowSums
from modelyard.ab_testing.bandits.sums import LARGEST_REWARD, Sums
from modelyard.ab_testing.bandits.thompson import ThompsonSampling

ALGORITHMS = (
    "epsilon_greedy",
    "ucb",
    "thompson_sampling",
    "ucb_tuned",
    "kl_ucb",
    "ada_ucb",
)


@dataclass(frozen=True, kw_only=True)
class PolicyRules:
    """How a bandit chooses.

    Attributes:
        algorithm: One of `ALGORITHMS`.
        epsilon: Chance of a random choice, for `epsilon_greedy`.
        epsilon_decay: After n uses of the variants there are, forgotten ones too, the chance is
            epsilon / (1 + epsilon_decay n).
        min_probability: Least chance of every variant at every choice.
        window: How many of the last rewards count; None for all.
        discount: What a reward still counts when the next one has come; None for all of it.
        reward_range: Least and largest possible reward, where they are known.

    Source:
        Auer, Cesa-Bianchi and Fischer (2002), Machine Learning 47, 235-256, theorem 3: exploration
        that falls as 1/n finds the best variant, one that falls faster may stop too soon.
    """

    algorithm: str = "ucb"
    epsilon: float = 0.1
    epsilon_decay: float = 0.0
    min_probability: float = 0.0
    window: int | None = None
    discount: float | None = None
    reward_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise ConfigError(
                f"algorithm must be one of {', '.join(ALGORITHMS)}; got {self.algorithm!r}."
            )
        numbers = (self.epsilon, self.epsilon_decay, self.min_probability, self.discount or 0.0)
        _check(
            all(isinstance(number, Real) for number in numbers),
            "epsilon, epsilon_decay, min_probability and discount",
            "numbers",
            numbers,
        )
        _check(0.0 <= self.epsilon <= 1.0, "epsilon", "in [0, 1]; 0.1 means 10 %", self.epsilon)
        _check(self.epsilon_decay >= 0.0, "epsilon_decay", "0 or more", self.epsilon_decay)
        _check(
            self.window is None or (type(self.window) is int and self.window >= 2),  # noqa: PLR2004
            "window",
            "a number of rewards, 2 or more, or None",
            self.window,
        )
        _check(
            self.discount is None or 0.0 < self.discount < 1.0,
            "discount",
            "strictly between 0 and 1, or None; 0.99 remembers about 100 rewards",
            self.discount,
        )
        _check(
            self.window is None or self.discount is None,
            "window and discount",
            "one of both: each is a way to forget",
            (self.window, self.discount),
        )
        _check(
            self.reward_range is None or _is_range(self.reward_range),
            "reward_range",
            "(least, largest), finite, the largest above the least, or None",
            self.reward_range,
        )

    def check_number(self, n_variants: int) -> None:
        """Check that so many variants can each have their least chance.

        Raises:
            ConfigError: They cannot.
        """
        _check(
            0.0 <= self.min_probability * n_variants <= 1.0,
            "min_probability",
            f"between 0 and 1 / {n_variants} for {n_variants} variants",
            self.min_probability,
        )

    def exploration(self, n_uses: float, n_variants: int) -> float:
        """Chance that a choice is made at random, 0 to 1."""
        floor = min(1.0, self.min_probability * n_variants)
        if self.algorithm != "epsilon_greedy":
            return floor
        return max(floor, self.epsilon / (1.0 + self.epsilon_decay * n_uses))

    def policy(self) -> Policy:
        """What chooses where the choice is not made at random."""
        policies: dict[str, Policy] = {
            "epsilon_greedy": Greedy(),
            "ucb": UpperConfidenceBound(),
            "thompson_sampling": ThompsonSampling(),
            "ucb_tuned": Tuned(self.reward_range),
            "kl_ucb": KullbackLeibler(self.reward_range),
            "ada_ucb": Adaptive(),
        }
        return policies[self.algorithm]

    @property
    def forgets(self) -> bool:
        """Whether older rewards count less than new ones."""
        return self.window is not None or self.discount is not None

    def sums(self, n_variants: int) -> Sums:
        """Empty sums, of the kind that choices are made on."""
        if self.window is not None:
            return WindowSums(n_variants, self.reward_range, self.window)
        if self.discount is not None:
            return DiscountedSums(n_variants, self.reward_range, self.discount)
        return Sums(n_variants, self.reward_range)


def _is_range(reward_range: Any) -> bool:
    try:
        least, most = reward_range
        return bool(-LARGEST_REWARD < least < most < LARGEST_REWARD)
    except (TypeError, ValueError):
        return False


def _check(holds: bool, name: str, rule: str, given: Any) -> None:  # noqa: FBT001 - a condition
    if not holds:
        raise ConfigError(f"{name} must be {rule}; got {given!r}.")
