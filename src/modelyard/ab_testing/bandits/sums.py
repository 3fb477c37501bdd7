"""What the rewards of each variant add up to: all that a choice is made on.

Nothing here knows the variants' names, and nothing locks: the bandit that owns the sums does.
"""

import math
from collections.abc import Mapping, Sequence
from math import sqrt  # by its own name: every choice takes some
from typing import Any, ClassVar, Self

from modelyard._core.plain import finite_or_none

# Beyond it squares would overflow; it counts as not finite.
LARGEST_REWARD = 1e150

_SUMS = ("counts", "means", "m2", "failures", "highs")
_EXTREMES = ("smallest", "largest")
_LISTS = (*_SUMS, *_EXTREMES)


class Sums:
    """Counts, means and spreads of the rewards of each variant.

    A reward that is not finite (a *failure*) is in no mean, but it is a use. For choosing it is
    worth the smallest reward that any variant has given, which keeps choices free of the
    rewards' scale.

    While only two values have been seen (won or lost, whatever their size) the larger one is
    counted, and means follow from the counts: the same rewards in another unit then give
    exactly the same ties.

    Attributes:
        counts: Finite rewards of each variant.
        means: Their means; 0.0 while there are none.
        m2: Their sums of squares about the mean.
        failures: Rewards of each variant that were not finite.
        highs: Rewards of each variant that were the larger of the two values.
        smallest: Smallest reward of each variant; plus infinity while there are none.
        largest: Largest reward of each variant; minus infinity while there are none.
        pending: Choices of each variant whose reward is still to come.
        pulls: Uses of each variant: rewards, failures and pending choices.
        worths: What each variant is worth: its mean, failures counted as `least`; minus infinity
            for a variant without any reward once another has one.
        total: Sum of `counts`.
        within_m2: Sum of `m2`.
        n_pulls: Sum of `pulls`.
        n_failures: Sum of `failures`.
        roots: 1 / sqrt(pulls) of each variant that has any.
        n_untried: Variants with fewer than `n_first` pulls.
        n_unknown: Variants that have neither reward nor failure.
        least: Smallest reward; plus infinity while there are none.
        most: Largest reward; minus infinity while there are none.
        is_two_valued: Whether there were at most two values.
    """

    # How often a variant is tried before its mean is trusted: twice gives a first spread.
    n_first: ClassVar[int] = 2

    __slots__ = (
        "counts",
        "failures",
        "highs",
        "is_two_valued",
        "largest",
        "least",
        "m2",
        "means",
        "most",
        "n_failures",
        "n_pulls",
        "n_unknown",
        "n_untried",
        "pending",
        "pulls",
        "roots",
        "smallest",
        "total",
        "within_m2",
        "worths",
    )

    def __init__(self, n_variants: int, reward_range: tuple[float, float] | None = None) -> None:
        self.counts: list[float] = [0] * n_variants
        self.means = [0.0] * n_variants
        self.m2 = [0.0] * n_variants
        self.failures: list[float] = [0] * n_variants
        self.highs: list[float] = [0] * n_variants
        self.smallest = [math.inf] * n_variants
        self.largest = [-math.inf] * n_variants
        self.pending = [0] * n_variants
        self.pulls: list[float] = [0] * n_variants
        self.worths = [0.0] * n_variants
        self.total: float = 0
        self.within_m2 = 0.0
        self.n_pulls: float = 0
        self.n_failures: float = 0
        self.n_unknown = self.n_untried = n_variants
        self.roots = [0.0] * n_variants
        self.least, self.most = reward_range or (math.inf, -math.inf)
        self.is_two_valued = True

    def pull(self, index: int) -> None:
        """Count a choice whose reward is still to come."""
        self.pending[index] += 1
        self.pulls[index] = n = self.pulls[index] + 1
        self.roots[index] = 1.0 / sqrt(n)
        self.n_pulls += 1
        if self.n_untried:
            self._count_pulls()

    def give_up(self, index: int) -> None:
        """Count a choice no longer whose reward has not come."""
        self.pending[index] -= 1
        self._count_pulls()

    def add(self, index: int, reward: float) -> None:
        """Take a reward of a choice that was not counted before."""
        self.pull(index)
        self.settle(index, reward)

    def settle(self, index: int, reward: float) -> None:
        """Take the reward of a choice that `pull` counted."""
        self.pending[index] -= 1
        if not -LARGEST_REWARD < reward < LARGEST_REWARD:  # NaN too
            self.failures[index] += 1
            self.n_failures += 1
        elif self.is_two_valued and self._is_level(reward):
            self._count(index, reward)
            self._stretch(index, reward)
        else:
            self._stretch(index, reward)
            self.counts[index] = n = self.counts[index] + 1
            mean = self.means[index]
            delta = reward - mean
            mean += delta / n  # Welford (1962)
            self.means[index] = self.worths[index] = mean
            growth = delta * (reward - mean)
            self.m2[index] += growth
            self.within_m2 += growth
            self.total += 1
            if reward < self.least:  # noqa: PLR1730 - min() takes twice as long
                self.least = reward
            if reward > self.most:  # noqa: PLR1730
                self.most = reward
        if self.n_failures or self.n_unknown:
            self._value()

    @property
    def scale(self) -> float:
        """Pooled standard deviation within the variants; half the range while there is none."""
        if self.within_m2 > 0.0:
            total = self.total
            df = total - len(self.counts)
            # Of a window or of discounted rewards there may be fewer than two for each variant.
            return sqrt(self.within_m2 / (df if 2.0 * df > total else total / 2.0))
        return (self.most - self.least) / 2.0 if self.total else 0.0

    def uses(self) -> list[float]:
        """Rewards of each variant, finite or not."""
        return [n + bad for n, bad in zip(self.counts, self.failures, strict=True)]

    def best(self) -> int:
        """Index of the variant of most worth.

        Among equals: fewest failures, then fewest pulls, then the first.
        """
        failures, pulls, worths = self.failures, self.pulls, self.worths
        return max(range(len(pulls)), key=lambda i: (worths[i], -failures[i], -pulls[i]))

    def wins(self) -> tuple[list[float], list[float]] | None:
        """Wins and losses of each variant, or None where rewards are not just won or lost.

        A failure is a loss. Nothing can be said either while all rewards were the same, unless
        there were failures, which are worse.
        """
        if not self.is_two_valued:
            return None
        if self.least < self.most:
            wins = self.highs
        elif self.n_failures and self.total:
            wins = self.counts
        else:
            return None
        uses = zip(wins, self.counts, self.failures, strict=True)
        return list(wins), [n + failed - won for won, n, failed in uses]

    def insert(self, one: "Sums | None" = None) -> None:
        """Append a variant: a new one, or `one` that was taken out."""
        one = Sums(1) if one is None else one
        if one.total:
            self._merge_levels(one)
        for name in _LISTS:
            getattr(self, name).append(getattr(one, name)[0])
        self.pending.append(0)
        self._add_up()

    def take_out(self, index: int) -> "Sums":
        """Remove a variant; its sums, as those of a single one, without its pending choices."""
        one = Sums(1)
        for name in _LISTS:
            getattr(one, name)[0] = getattr(self, name).pop(index)
        self.pending.pop(index)
        one.least, one.most, one.is_two_valued = self.least, self.most, self.is_two_valued
        one._add_up()
        self._add_up()
        return one

    def to_plain(self) -> dict[str, Any]:
        """The sums as plain values; choices that are pending are not among them."""
        return {
            **{name: list(getattr(self, name)) for name in _SUMS},
            **{name: [finite_or_none(x) for x in getattr(self, name)] for name in _EXTREMES},
            "within_m2": self.within_m2,
            "least": finite_or_none(self.least),
            "most": finite_or_none(self.most),
            "is_two_valued": self.is_two_valued,
        }

    def restore(self, plain: Mapping[str, Any], pending: Sequence[int] = ()) -> Self:
        """Take the place of the sums that `to_plain` described, with these pending choices."""
        for name in _SUMS:
            setattr(self, name, list(plain[name]))
        self.pending = list(pending) or [0] * len(self.counts)
        self.least = math.inf if plain["least"] is None else plain["least"]
        self.most = -math.inf if plain["most"] is None else plain["most"]
        self.is_two_valued = plain["is_two_valued"]
        # An earlier release knew those of all variants together only.
        smallest = plain.get("smallest", [plain["least"]] * len(self.counts))
        largest = plain.get("largest", [plain["most"]] * len(self.counts))
        self.smallest = [math.inf if one is None else one for one in smallest]
        self.largest = [-math.inf if one is None else one for one in largest]
        self._add_up()
        # As it was added up, not as it adds up now: the last bit decides ties.
        self.within_m2 = plain["within_m2"]
        return self

    def _is_level(self, reward: float) -> bool:
        """Whether there are still two values with this one, which may become the second."""
        if reward in (self.least, self.most):
            return True
        if self.least < self.most:
            self.is_two_valued = False
        elif self.least == self.most:
            if reward > self.most:
                # What was the only value so far is the smaller one.
                self.highs = [0] * len(self.highs)
            self.least, self.most = min(self.least, reward), max(self.most, reward)
        else:
            self.least = self.most = reward
        return self.is_two_valued

    def _stretch(self, index: int, reward: float) -> None:
        if reward < self.smallest[index]:  # noqa: PLR1730 - min() takes twice as long
            self.smallest[index] = reward
        if reward > self.largest[index]:  # noqa: PLR1730
            self.largest[index] = reward

    def _count(self, index: int, reward: float) -> None:
        self.counts[index] += 1
        self.total += 1
        if reward == self.most:
            self.highs[index] += 1
        self._derive(index)

    def _derive(self, index: int) -> None:
        """Mean and spread of a variant from how often it gave the larger value."""
        n, high, span = self.counts[index], self.highs[index], self.most - self.least
        share = high / n if n else 0.0
        self.means[index] = self.worths[index] = self.least + span * share if n else 0.0
        before = self.m2[index]
        self.m2[index] = now = span * span * (n - high) * share
        self.within_m2 += now - before

    def _value(self) -> None:
        """Set `worths` anew: they differ from the means where one failed or has no reward yet."""
        uses = self.uses()
        self.n_unknown = uses.count(0)
        if not self.total or not (self.n_failures or self.n_unknown):
            self.worths = list(self.means)
            return
        least = self.least
        self.worths = [
            (n * mean + bad * least) / use if use else -math.inf
            for n, mean, bad, use in zip(self.counts, self.means, self.failures, uses, strict=True)
        ]

    def _merge_levels(self, one: "Sums") -> None:
        seen = {x for x in (self.least, self.most, one.least, one.most) if math.isfinite(x)}
        is_two_valued = self.is_two_valued and one.is_two_valued and len(seen) <= 2  # noqa: PLR2004
        for side in (self, one):
            if side.least == side.most < max(seen):
                side.highs = [0] * len(side.highs)
        self.is_two_valued, self.least, self.most = is_two_valued, min(seen), max(seen)

    def _add_up(self) -> None:
        self.total = sum(self.counts)
        self.within_m2 = math.fsum(self.m2)
        self.n_failures = sum(self.failures)
        self._count_pulls()
        self._value()

    def _count_pulls(self) -> None:
        # In one go, never step by step: the same sums must be the same to the last bit.
        pulls = [n + waiting for n, waiting in zip(self.uses(), self.pending, strict=True)]
        self.pulls = pulls
        self.roots = [1.0 / sqrt(n) if n else 0.0 for n in pulls]
        self.n_pulls = sum(pulls)
        self.n_untried = sum(n < self.n_first for n in pulls)
