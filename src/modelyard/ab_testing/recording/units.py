"""Outcomes that belong to one user count as one user's, not as independent values.

A user with a hundred outcomes is one draw from the users, not a hundred. The mean over outcomes
is then a ratio, the sum of the users' totals over the sum of their counts, and its error is that
of a ratio over users (Deng, Knoblich and Lu, 2018, KDD, section 3). A user who comes in several
weight epochs is still one draw: how the epochs' totals go together is summed up as well.
"""

from dataclasses import dataclass, replace

from modelyard.stats.clusters import Clusters, Products
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

    def of(self, unit: str) -> tuple[float, float] | None:
        """The totals (x, y) of a unit; None if it has none."""
        return self._by_unit.get(unit)

    def add(self, unit: str | None, x: float, y: float = 1.0) -> None:
        """Take one outcome of a unit; one of nobody is a unit of its own."""
        known = None if unit is None else self._by_unit.get(unit)
        if known is None:
            self.totals = self.totals.with_values(x, y)
            sums = (x, y)
        else:
            sums = (known[0] + x, known[1] + y)
            self.totals = exchanged(self.totals, known, sums)
        if unit is not None:
            self._by_unit[unit] = sums


class UnitsByEpoch:
    """Sums by unit of one variant and metric, by weight epoch. Not thread-safe: its owner locks.

    Args:
        origin: Values are summed up as their distance from it, which keeps the digits of large
            ones; the same for all variants of a metric.
    """

    def __init__(self, origin: float = 0.0) -> None:
        self._by_epoch: dict[int, UnitTotals] = {}
        self._products: dict[tuple[int, int], Products] = {}
        self._origin = origin
        self._n_again = 0

    def __contains__(self, epoch: int) -> bool:
        """Whether anything was taken in this epoch."""
        return epoch in self._by_epoch

    def add(
        self,
        epoch: int,
        unit: str | None,
        x: float,
        y: float = 1.0,
        *,
        before: Moments | None = None,
    ) -> None:
        """Take one outcome of a unit.

        Args:
            epoch: When it was assigned.
            unit: Whose; None for a unit of its own.
            x: The value.
            y: What it is divided by.
            before: Outcomes of the epoch that came before the first known unit.
        """
        x -= self._origin * y
        here = self._by_epoch.get(epoch)
        if here is None:
            if before is not None:
                before = replace(before, mean=before.mean - self._origin)
            here = self._by_epoch[epoch] = UnitTotals(before)
        if unit is not None and len(self._by_epoch) > 1:
            self._note_returning(epoch, unit, (x, y), is_new=here.of(unit) is None)
        here.add(unit, x, y)

    def clusters(self) -> Clusters:
        """The sums now."""
        totals = {epoch: units.totals for epoch, units in self._by_epoch.items()}
        return Clusters(totals, dict(self._products), self._origin, self._n_again)

    def _note_returning(
        self, epoch: int, unit: str, change: tuple[float, float], *, is_new: bool
    ) -> None:
        is_known = False
        for other, units in self._by_epoch.items():
            there = None if other == epoch else units.of(unit)
            if there is None:
                continue
            is_known = True
            pair = (min(epoch, other), max(epoch, other))
            sides = (change, there) if epoch < other else (there, change)
            self._products[pair] = self._products.get(pair, Products()).plus(*sides)
        self._n_again += is_new and is_known


class AdjustedUnits:
    """Sums by unit of values and their covariate. Not thread-safe: its owner locks.

    Args:
        origin: Any value of the metric and its covariate, the same for all variants.
    """

    def __init__(self, origin: tuple[float, float]) -> None:
        self._origin = origin
        self._values, self._covariates, self._both = (UnitsByEpoch() for _ in range(3))

    def add(self, epoch: int, unit: str | None, value: float, covariate: float) -> None:
        """Take one outcome of a unit."""
        x, y = value - self._origin[0], covariate - self._origin[1]
        self._values.add(epoch, unit, x)
        self._covariates.add(epoch, unit, y)
        self._both.add(epoch, unit, x, y)

    def clusters(self) -> "AdjustedClusters":
        """The sums now."""
        parts = (self._values.clusters(), self._covariates.clusters(), self._both.clusters())
        return AdjustedClusters(*parts)


@dataclass(frozen=True, slots=True)
class AdjustedClusters:
    """Totals by unit, from which those of values less what a covariate explains follow.

    Attributes:
        values: Totals of the values, and how many they are.
        covariates: Totals of the covariates, and how many they are.
        both: Totals of values and of covariates.
    """

    values: Clusters
    covariates: Clusters
    both: Clusters

    def less(self, slope: float) -> Clusters:
        """Totals of value - `slope` covariate, and how many they are."""
        totals = {}
        for epoch, of_values in self.values.totals.items():
            of_covariates, mixed = self.covariates.totals[epoch], self.both.totals[epoch]
            m2 = mixed.m2_x - 2.0 * slope * mixed.c_xy + slope * slope * mixed.m2_y
            totals[epoch] = replace(
                of_values,
                mean_x=of_values.mean_x - slope * of_covariates.mean_x,
                m2_x=max(0.0, m2),
                c_xy=of_values.c_xy - slope * of_covariates.c_xy,
            )
        products = {
            pair: Products(
                xx=mixed.xx - slope * (mixed.xy + mixed.yx) + slope * slope * mixed.yy,
                xy=self.values.products[pair].xy - slope * self.covariates.products[pair].xy,
                yx=self.values.products[pair].yx - slope * self.covariates.products[pair].yx,
                yy=self.values.products[pair].yy,
            )
            for pair, mixed in self.both.products.items()
        }
        return replace(self.values, totals=totals, products=products)


def exchanged(
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
