"""How large a difference is: in standard deviations and in percent."""

import math

from modelyard.stats.moments import Moments


def cohens_d(a: Moments, b: Moments) -> float:
    """Difference of the means in pooled standard deviations; positive when `b` is larger.

    NaN below two values on either side; infinite when both sides are constant and differ.

    Source:
        Cohen (1988), Statistical Power Analysis for the Behavioral Sciences, section 2.2.
    """
    if a.n < 2 or b.n < 2:  # noqa: PLR2004 - a variance needs two values
        return math.nan
    pooled = math.sqrt((a.m2 + b.m2) / (a.n + b.n - 2))
    return standardised(b.mean - a.mean, pooled)


def standardised(difference: float, std: float) -> float:
    """`difference` in units of `std`; 0 for no difference, infinite where `std` is 0."""
    if difference == 0.0:
        return 0.0
    return difference / std if std > 0.0 else math.copysign(math.inf, difference)


def relative_change(before: float, after: float) -> float:
    """(after - before) / |before|: 0.1 means ten percent more, whatever the sign of `before`.

    0 when both are equal; NaN when `before` alone is 0, because no percentage says that.
    """
    if after == before:
        return 0.0
    return (after - before) / abs(before) if before != 0.0 else math.nan
