"""KL-UCB: how good a variant can be without making its rewards too unlikely."""

import math
from dataclasses import dataclass

from modelyard.ab_testing.bandits.optimism import Optimistic
from modelyard.ab_testing.bandits.sums import Sums

_N_STEPS = 50
_PRECISION = 1e-12


@dataclass(frozen=True, slots=True)
class KullbackLeibler(Optimistic):
    """The largest mean q with n KL(mean, q) <= ln(t / n).

    KL is that of 0/1 rewards where rewards are won or lost, or lie in a known range; else that
    of normal rewards with the pooled variance s^2, which gives mean + s sqrt(2 ln(t / n) / n).

    Attributes:
        reward_range: Least and largest possible reward, where they are known.

    Source:
        Garivier and Cappé (2011), COLT 2011, PMLR 19, 359-376; with ln(t / n) in place of ln t
        it is their KL-UCB+, shown to be asymptotically optimal by Honda (2019),
        arXiv:1903.07839.
    """

    reward_range: tuple[float, float] | None = None

    def bounds(self, sums: Sums, scale: float) -> list[float]:
        """As `Optimistic.bounds`."""
        levels = [math.log(sums.n_pulls / n) / n for n in sums.pulls]
        if self.reward_range is None and sums.wins() is None:
            return [
                worth + scale * math.sqrt(2.0 * level)
                for worth, level in zip(sums.worths, levels, strict=True)
            ]
        least, span = sums.least, sums.most - sums.least
        shares = [(worth - least) / span for worth in sums.worths]
        return _bernoulli_bounds(shares, levels)


def _bernoulli_bounds(shares: list[float], levels: list[float]) -> list[float]:
    """Upper bounds of shares of wins; the largest is exact, others are only known to be less."""
    bounds, largest = [0.0] * len(shares), -1.0
    # From the best mean on: one look then tells that most of the others cannot be the largest.
    for index in sorted(range(len(shares)), key=lambda i: -shares[i]):
        share, level = shares[index], levels[index]
        if share >= largest or divergence(share, largest) < level:
            bounds[index] = largest = max(largest, upper_share(share, level))
    return bounds


def divergence(p: float, q: float) -> float:
    """Kullback-Leibler divergence of wins with chance `p` from wins with chance `q`."""
    if p == q:
        return 0.0
    won = p * math.log(p / q) if p > 0.0 and q > 0.0 else (math.inf if p > 0.0 else 0.0)
    lost = math.inf if p < 1.0 and q >= 1.0 else 0.0
    if p < 1.0 and q < 1.0:
        lost = (1.0 - p) * math.log((1.0 - p) / (1.0 - q))
    return won + lost


def upper_share(p: float, level: float) -> float:
    """The largest q in [p, 1] with a divergence of at most `level`, to about 1e-10.

    Newton's method from above: the divergence is convex in q, so it never steps past the root.
    """
    if p >= 1.0 or level <= 0.0:
        return min(p, 1.0)
    surprise = level - (p * math.log(p) if p > 0.0 else 0.0)
    # Two bounds from above: the divergence without what is won, and Pinsker's inequality.
    q = min(1.0 - (1.0 - p) * math.exp(-surprise / (1.0 - p)), p + math.sqrt(level / 2.0))
    for _ in range(_N_STEPS):
        if not p < q < 1.0:
            break
        step = (divergence(p, q) - level) * q * (1.0 - q) / (q - p)
        if step < _PRECISION:
            break
        q -= step
    return min(max(q, p), 1.0)
