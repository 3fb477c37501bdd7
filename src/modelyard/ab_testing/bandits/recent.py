"""Sums that forget, for variants that change: a sliding window, and discounting."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from math import sqrt
from typing import Any, ClassVar, Self

from modelyard.ab_testing.bandits.sums import LARGEST_REWARD, Sums


class WindowSums(Sums):
    """Sums over the last rewards of all variants together.

    Attributes:
        window: How many rewards they are.

    Source:
        Garivier and Moulines (2011), ALT 2011, LNCS 6925, 174-188 (SW-UCB).
    """

    n_first: ClassVar[int] = 1

    __slots__ = ("_n_since_exact", "_recent", "window")

    def __init__(
        self, n_variants: int, reward_range: tuple[float, float] | None, window: int
    ) -> None:
        super().__init__(n_variants, reward_range)
        self.window = window
        self._recent: deque[tuple[int, float]] = deque()
        self._n_since_exact = 0

    def settle(self, index: int, reward: float) -> None:
        """As `Sums.settle`; the oldest reward goes when there are too many."""
        super().settle(index, reward)
        self._recent.append((index, reward))
        if len(self._recent) > self.window:
            self._forget(*self._recent.popleft())

    def insert(self, one: Sums | None = None) -> None:  # noqa: ARG002 - what is old stays forgotten
        """Append a variant, new to the window."""
        super().insert()

    def take_out(self, index: int) -> Sums:
        """As `Sums.take_out`; its rewards leave the window."""
        one = super().take_out(index)
        self._recent = deque((i - (i > index), r) for i, r in self._recent if i != index)
        return one

    def to_plain(self) -> dict[str, Any]:
        """As `Sums.to_plain`, with the window; None stands for a failure."""
        recent = [[i, r if abs(r) < LARGEST_REWARD else None] for i, r in self._recent]
        return {**super().to_plain(), "recent": recent, "n_since_exact": self._n_since_exact}

    def restore(self, plain: Mapping[str, Any], pending: Sequence[int] = ()) -> Self:
        """As `Sums.restore`."""
        super().restore(plain, pending)
        self._recent = deque((i, math.nan if r is None else r) for i, r in plain["recent"])
        self._n_since_exact = plain["n_since_exact"]
        return self

    def _forget(self, index: int, reward: float) -> None:
        self.pulls[index] = n = self.pulls[index] - 1
        self.roots[index] = 1.0 / sqrt(n) if n else 0.0
        self.n_pulls -= 1
        is_failure = not -LARGEST_REWARD < reward < LARGEST_REWARD
        if is_failure:
            self.failures[index] -= 1
            self.n_failures -= 1
        else:
            self.counts[index] -= 1
            self.total -= 1
            if self.is_two_valued:
                self.highs[index] -= reward == self.most
                self._derive(index)
            else:
                self._subtract(index, reward)
        if n < self.n_first:
            self._count_pulls()
        if is_failure or self.n_failures or not self.counts[index]:
            self._value()

    def _subtract(self, index: int, reward: float) -> None:
        # Taking away leaves rounding errors behind; adding up anew once in a window removes them.
        self._n_since_exact += 1
        if self._n_since_exact >= self.window:
            self._add_up_anew()
            return
        n, mean, m2 = self.counts[index], self.means[index], self.m2[index]
        self.means[index] = self.worths[index] = after = mean + (mean - reward) / n if n else 0.0
        self.m2[index] = less = max(0.0, m2 - (reward - mean) * (reward - after)) if n > 1 else 0.0
        self.within_m2 = max(0.0, self.within_m2 + less - m2)

    def _add_up_anew(self) -> None:
        exact = Sums(len(self.counts))
        exact.is_two_valued = False
        for index, reward in self._recent:
            exact.add(index, reward)
        self.means, self.m2, self.within_m2 = exact.means, exact.m2, exact.within_m2
        self._n_since_exact = 0
        self._value()


class DiscountedSums(Sums):
    """Sums in which every new reward of any variant makes the earlier ones count less.

    Attributes:
        discount: What a reward still counts when the next one has come, 0 to 1.

    Source:
        Garivier and Moulines (2011), ALT 2011, LNCS 6925, 174-188 (D-UCB); Raj and Kalyani
        (2017), arXiv:1707.09727 (discounted Thompson sampling).
    """

    n_first: ClassVar[int] = 1

    __slots__ = ("discount",)

    def __init__(
        self, n_variants: int, reward_range: tuple[float, float] | None, discount: float
    ) -> None:
        super().__init__(n_variants, reward_range)
        self.discount = discount

    def pull(self, index: int) -> None:
        """As `Sums.pull`."""
        super().pull(index)
        self._count_pulls()

    def settle(self, index: int, reward: float) -> None:
        """As `Sums.settle`, after all that came before has lost some of its weight."""
        discount = self.discount
        for name in ("counts", "m2", "failures", "highs"):
            setattr(self, name, [discount * value for value in getattr(self, name)])
        self.total *= discount
        super().settle(index, reward)
        self._add_up()

    def insert(self, one: Sums | None = None) -> None:  # noqa: ARG002 - what is old stays forgotten
        """Append a variant, new to the sums."""
        super().insert()
