"""Bounds of a mean reward that hold however often one looks.

Where the rewards' range is known they hold at any number of rewards. Where it is not, nothing can:
a loss that comes once in a thousand times is not seen in a hundred rewards. Those bounds are for
large samples, and there are none while a single reward still makes up much of the spread.
"""

import math
from collections.abc import Callable

from scipy import optimize, special

from modelyard.stats.intervals import Interval
from modelyard.stats.moments import Moments
from modelyard.stats.sequential import always_valid
from modelyard.stats.significance import paired

# Rewards at which the bounds without a range are closest; any number is valid.
_N_TUNED = 1000
# Rewards below which they say nothing. What comes once in a hundred times has then come, in 98 of
# 100 cases.
_N_FIRST = 400
# Share of the sum of squares above which one reward decides too much for a normal mean. The
# largest of 400 normal rewards makes up 2 to 4 %.
_LARGEST_SHARE = 0.05
_UNKNOWN = Interval(-math.inf, math.inf)


def bounded_mean(n: int, mean: float, *, least: float, most: float, alpha: float) -> Interval:
    """Bounds of the mean of rewards that lie in a range: at any number of rewards, at all looks.

    With s the sum of the rewards as shares of the range, the likelihood of wins and losses at a
    share q, beta-distributed, over that at the true mean p is at most 1 on average, for 0 and 1
    and for all that lies between. So it exceeds 1 / alpha at some look with chance alpha at most.

    Args:
        n: Number of rewards.
        mean: Of them.
        least: Smallest possible reward.
        most: Largest possible reward, above `least`.
        alpha: 1 - the confidence level.

    Source:
        Robbins (1970), Annals of Mathematical Statistics 41, 1397-1409 (mixtures); Howard, Ramdas,
        McAuliffe and Sekhon (2021), Annals of Statistics 49, 1055-1080 (beta-binomial mixture);
        Hoeffding (1963), J. American Statistical Association 58, 13-30 (values between).
    """
    if n == 0:
        return Interval(least, most)
    won = min(max(n * (mean - least) / (most - least), 0.0), float(n))
    mixture = special.betaln(won + 0.5, n - won + 0.5) - special.betaln(0.5, 0.5)

    def excess(p: float) -> float:
        likelihood = special.xlogy(won, p) + special.xlog1py(n - won, -p)
        return float(mixture - likelihood + math.log(alpha))

    share = won / n
    lower, upper = _root(excess, 0.0, share), _root(excess, 1.0, share)
    ends = (least + (most - least) * lower, least + (most - least) * upper)
    # Rounding must not put the mean outside.
    return Interval(min(ends[0], mean), max(ends[1], mean))


def large_sample_mean(
    moments: Moments, *, smallest: float, largest: float, alpha: float
) -> Interval:
    """Bounds of the mean of rewards of any size: for large samples without heavy tails.

    Args:
        moments: Of the rewards.
        smallest: Smallest reward there was.
        largest: Largest reward there was.
        alpha: 1 - the confidence level.

    Returns:
        Without ends below 400 rewards, and while the reward farthest from the mean makes up more
        than a twentieth of the sum of squares.

    Source:
        As `sequential.always_valid`.
    """
    farthest = max(moments.mean - smallest, largest - moments.mean)
    if (
        moments.n < _N_FIRST
        or moments.m2 <= 0.0
        or farthest * (farthest / moments.m2) > _LARGEST_SHARE
    ):
        return _UNKNOWN
    contrast = paired(moments, mean_a=0.0, mean_b=moments.mean)
    return always_valid(contrast, n_tuned=2.0 * _N_TUNED, confidence_level=1.0 - alpha).interval


def _root(excess: Callable[[float], float], end: float, share: float) -> float:
    """Where `excess` is 0 between an end of the range and the observed share."""
    if excess(end) <= 0.0 or share == end:
        return end
    return float(optimize.brentq(excess, end, share, xtol=1e-12))
