"""Outcomes that belong to one user count as one user's, not as independent values.

A user with a hundred outcomes is one draw from the users, not a hundred. The mean over outcomes
is then a ratio, the sum of the users' totals over the sum of their counts, and its error is that
of a ratio over users (Deng, Knoblich and Lu, 2018, KDD, section 3).
"""

from modelyard.stats.comoments import CoMoments
from modelyard.stats.moments import Moments


class UnitTotals:
    """Sums of one stream by unit. Not thread-safe: its owner locks.

    Args:
        before: Outcomes of units of their own, one each.

    Attributes:
        totals: Of each unit, the sum of its values (`x`) and of what they are divided by (`y`):
            a one for each outcome, or a ratio's denominators.
    """

    def __init__(self, before: Moments | None = None) -> None:
        self._by_unit: dict[str, tuple[float, float]] = {}
        self.totals = CoMoments()
        if before is not None and before.n:
            self.totals = CoMoments(n=before.n, mean_x=before.mean, mean_y=1.0, m2_x=before.m2)

    def add(self, unit: str | None, x: float, y: float = 1.0) -> None:
        """Take one outcome of a unit; one of nobody is a unit of its own."""
        known = None if unit is None else self._by_unit.get(unit)
        if known is None:
            self.totals = self.totals.with_values(x, y)
            sums = (x, y)
        else:
            sums = (known[0] + x, known[1] + y)
            self.totals = replaced(self.totals, known, sums)
        if unit is not None:
            self._by_unit[unit] = sums


def replaced(
    sums: CoMoments, before: tuple[float, float], after: tuple[float, float]
) -> CoMoments:
    """The moments where one pair (x, y) among them became another.

    Sums of squares about the mean change by (x' - x) (x' - m' + x - m), those of products
    likewise; rounding never makes a sum of squares negative.
    """
    (x, y), (new_x, new_y) = before, after
    delta_x, delta_y = new_x - x, new_y - y
    mean_x, mean_y = sums.mean_x + delta_x / sums.n, sums.mean_y + delta_y / sums.n
    grown_x = delta_x * (new_x - mean_x + x - sums.mean_x)
    grown_y = delta_y * (new_y - mean_y + y - sums.mean_y)
    return CoMoments(
        n=sums.n,
        mean_x=mean_x,
        mean_y=mean_y,
        m2_x=max(0.0, sums.m2_x + grown_x),
        m2_y=max(0.0, sums.m2_y + grown_y),
        c_xy=sums.c_xy + delta_x * (new_y - mean_y) + delta_y * (x - sums.mean_x),
    )
