"""Less noise by what was known of each unit before the experiment (CUPED)."""

import math
from collections.abc import Sequence

from modelyard.stats.comoments import CoMoments
from modelyard.stats.moments import Moments
from modelyard.stats.significance import Contrast, stratified

Strata = Sequence[tuple[CoMoments, CoMoments]]


def cuped_contrast(strata: Strata) -> Contrast:
    """Difference of the means of x after taking out what y explains.

    The covariate y must have been known before the unit was assigned, such as its metric in the
    week before: otherwise the treatment's own effect is taken out. Without any relation between x
    and y, or with a constant y, this is `significance.stratified`.

    Args:
        strata: Moments of (x: metric, y: covariate) of control and treatment in each weight epoch.

    Source:
        Deng, Xu, Kohavi and Walker (2013), WSDM, 123-132; one slope for both sides.
        Reference numbers: `tests/reference/experiments.json`, from gbstats.
    """
    theta = slope(strata)
    return stratified([(_adjusted(a, b, theta), _adjusted(b, a, theta)) for a, b in strata])


def variance_reduction(strata: Strata) -> float:
    """Share of the difference's variance that the covariate takes away, at most 1.

    0.5 means that half the outcomes suffice. NaN while nothing can be compared; 0 where nothing
    varies.
    """
    before = stratified([(a.x, b.x) for a, b in strata]).variance
    if math.isnan(before) or before <= 0.0:
        return before
    return 1.0 - cuped_contrast(strata).variance / before


def slope(strata: Strata) -> float:
    """The regression of x on y inside every side of every stratum; 0 for a constant y."""
    sides = [side for stratum in strata for side in stratum]
    squares = sum(side.m2_y for side in sides)
    return sum(side.c_xy for side in sides) / squares if squares > 0.0 else 0.0


def _adjusted(side: CoMoments, other: CoMoments, theta: float) -> Moments:
    n = side.n + other.n
    # Distance from the stratum's mean covariate: the adjusted means stay in the metric's range.
    distance = (side.mean_y - other.mean_y) * other.n / n if n > 0 else 0.0
    m2 = side.m2_x - 2.0 * theta * side.c_xy + theta * theta * side.m2_y
    return Moments(side.n, side.mean_x - theta * distance, max(m2, 0.0))
