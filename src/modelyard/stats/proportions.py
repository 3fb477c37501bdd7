"""Difference of two shares of successes."""

import math

from scipy import special

from modelyard._core.errors import ConfigError
from modelyard.stats.intervals import Interval, alpha_of
from modelyard.stats.significance import TTest


def proportions_test(
    successes_a: int, n_a: int, successes_b: int, n_b: int, *, confidence_level: float = 0.95
) -> TTest:
    """Whether the shares of successes of two independent samples differ, looked at once.

    The p-value is that of the z-test with pooled variance, the interval Newcombe's: it stays
    inside [-1, 1] and covers well also near shares of 0 and 1. Close to the border the two can
    disagree, since only the test assumes equal shares.

    Args:
        successes_a: Ones among the control's 0/1 values.
        n_a: Number of the control's values.
        successes_b: Ones among the treatment's.
        n_b: Number of the treatment's values.
        confidence_level: Coverage wanted, strictly between 0 and 1.

    Returns:
        Positive for a larger share of `b`; `df` is infinite. Nothing known without values.

    Raises:
        ConfigError: More successes than values, or `confidence_level` outside (0, 1).

    Source:
        Pearson (1900) as a z-test; Newcombe (1998), Statistics in Medicine 17, 873-890, method
        10. Reference numbers: `tests/reference/experiments.json`, from statsmodels.
    """
    alpha = alpha_of(confidence_level)
    for successes, n in ((successes_a, n_a), (successes_b, n_b)):
        if not 0 <= successes <= n:
            raise ConfigError(f"{successes} successes among {n} values cannot be.")
    if min(n_a, n_b) == 0:
        return TTest(
            t_statistic=0.0, df=math.nan, p_value=1.0, interval=Interval(math.nan, math.nan)
        )
    pooled = (successes_a + successes_b) / (n_a + n_b)
    error = math.sqrt(pooled * (1.0 - pooled) * (1.0 / n_a + 1.0 / n_b))
    difference = successes_b / n_b - successes_a / n_a
    z = difference / error if error > 0.0 else 0.0
    return TTest(
        t_statistic=z,
        df=math.inf,
        p_value=2.0 * float(special.ndtr(-abs(z))),
        interval=_newcombe((successes_a, n_a), (successes_b, n_b), alpha),
    )


def wilson_interval(share: float, n: float, *, alpha: float = 0.05) -> Interval:
    """Interval for a share of successes.

    Args:
        share: As measured, 0 to 1.
        n: Independent values it comes from, above 0.
        alpha: Chance that the true share lies outside.

    Source:
        Wilson (1927), J. American Statistical Association 22, 209-212.
    """
    z = float(special.ndtri(1.0 - alpha / 2.0))
    weight = z * z / n
    middle = (share + weight / 2.0) / (1.0 + weight)
    half = z / (1.0 + weight) * math.sqrt(share * (1.0 - share) / n + weight / (4.0 * n))
    # The share itself is inside, also where rounding says otherwise.
    return Interval(min(max(middle - half, 0.0), share), max(min(middle + half, 1.0), share))


def _newcombe(a: tuple[int, int], b: tuple[int, int], alpha: float) -> Interval:
    """For the difference of `b` and `a`, each as successes among how many."""
    low_a, high_a = _distances(a, alpha)
    low_b, high_b = _distances(b, alpha)
    difference = b[0] / b[1] - a[0] / a[1]
    # Both ends are within [-1, 1] but for rounding.
    return Interval(
        max(difference - math.hypot(low_b, high_a), -1.0),
        min(difference + math.hypot(high_b, low_a), 1.0),
    )


def _distances(side: tuple[int, int], alpha: float) -> tuple[float, float]:
    """How far the share lies from the lower and the upper end of its interval."""
    share = side[0] / side[1]
    wilson = wilson_interval(share, side[1], alpha=alpha)
    return share - wilson.lower, wilson.upper - share
