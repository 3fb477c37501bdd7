"""Differences of ratios: of totals (ratio metrics), and relative to the control (lift)."""

import math
from dataclasses import dataclass

from modelyard.stats.comoments import CoMoments
from modelyard.stats.intervals import Interval
from modelyard.stats.significance import Contrast, contrast_of, no_contrast


@dataclass(frozen=True, slots=True, kw_only=True)
class Lift:
    """A difference relative to the control's mean; both NaN where that mean is 0.

    Attributes:
        value: (mean_b - mean_a) / |mean_a|: 0.1 means ten percent more.
        standard_error: Same unit.
    """

    value: float
    standard_error: float

    def interval(self, critical: float) -> Interval:
        """Interval for the true lift; NaN ends where it is unknown.

        Args:
            critical: Half its width in standard errors: 1.96 for one look at 95 %,
                `AlwaysValid.critical` for many.
        """
        half = critical * self.standard_error
        return Interval(self.value - half, self.value + half)


def relative_lift(
    contrast: Contrast, *, variance_a: float, variance_b: float, covariance: float = 0.0
) -> Lift:
    """How much larger the treatment's mean is, relative to the control's.

    Delta method: good while the control's mean is several standard errors away from 0.

    Args:
        contrast: The two means.
        variance_a: Squared standard error of the control's mean.
        variance_b: Squared standard error of the treatment's mean.
        covariance: Of the two means: 0 for independent samples.

    Source:
        Fieller (1954), J. Royal Statistical Society B 16, 175-185, whose interval this becomes
        for a large mean. Reference numbers: `tests/reference/experiments.json`, from gbstats.
    """
    if contrast.mean_a == 0.0 or math.isnan(contrast.variance):
        return Lift(value=math.nan, standard_error=math.nan)
    ratio = contrast.mean_b / contrast.mean_a
    spread = variance_b + ratio * ratio * variance_a - 2.0 * ratio * covariance
    return Lift(
        value=(contrast.mean_b - contrast.mean_a) / abs(contrast.mean_a),
        standard_error=math.sqrt(max(spread, 0.0)) / abs(contrast.mean_a),
    )


def ratio_contrast(a: CoMoments, b: CoMoments) -> Contrast:
    """Difference of two ratios of totals, sum of x over sum of y, such as profit by trade.

    One pair (x, y) is what one unit (a user, a day) gave: x stands above the line, y below. The
    values of a unit may depend on each other; the units may not.

    Returns:
        Without variance where a side has fewer than two units or a mean denominator of 0.

    Source:
        Deng, Knoblich and Lu (2018), KDD, 233-242, equation 3 (delta method).
        Reference numbers: `tests/reference/experiments.json`, from gbstats.
    """
    if min(a.n, b.n) < 2 or a.mean_y == 0.0 or b.mean_y == 0.0:  # noqa: PLR2004 - for a variance
        return no_contrast()
    return contrast_of(
        mean_a=a.mean_x / a.mean_y,
        mean_b=b.mean_x / b.mean_y,
        parts=[(_variance(side), side.n - 1.0) for side in (a, b)],
        n=4.0 * a.n * b.n / (a.n + b.n),
    )


def _variance(side: CoMoments) -> float:
    ratio = side.mean_x / side.mean_y
    spread = side.variance_x - 2.0 * ratio * side.covariance + ratio * ratio * side.variance_y
    return max(spread, 0.0) / (side.n * side.mean_y * side.mean_y)
