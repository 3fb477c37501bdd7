"""Errors where values belong to units, such as users, and only the units are independent."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelyard.stats.comoments import CoMoments

# The unit of a value that belongs to nobody known: one of its own.
NOBODY = -1


@dataclass(frozen=True, slots=True)
class Products:
    """Sums over the units that two periods share, of what each gave in the one and the other.

    A unit gives totals: x, the sum of its values, and y, how many they are (or what they are
    divided by).

    Attributes:
        xx: Sum of x in the first period times x in the second.
        xy: Sum of x in the first times y in the second.
        yx: Sum of y in the first times x in the second.
        yy: Sum of y in the first times y in the second.
    """

    xx: float = 0.0
    xy: float = 0.0
    yx: float = 0.0
    yy: float = 0.0

    def plus(self, first: tuple[float, float], second: tuple[float, float]) -> "Products":
        """After one unit gave `first` (x, y) in the one period and `second` in the other."""
        return Products(
            self.xx + first[0] * second[0],
            self.xy + first[0] * second[1],
            self.yx + first[1] * second[0],
            self.yy + first[1] * second[1],
        )


@dataclass(frozen=True, slots=True)
class Clusters:
    """Totals by unit over several periods.

    Attributes:
        totals: Of each period: moments of the units' totals x and y.
        products: Of two periods, the earlier first: over the units that came in both.
        origin: What was taken from every value before it was summed up, to keep the digits of
            large ones; the ratios of totals lack it.
        n_again: How often a unit came in a period that had come in another one before.
    """

    totals: Mapping[int, CoMoments]
    products: Mapping[tuple[int, int], Products]
    origin: float = 0.0
    n_again: int = 0

    @property
    def n_units(self) -> int:
        """Different units, over all periods."""
        return sum(totals.n for totals in self.totals.values()) - self.n_again


def covariance_of_ratios(products: Products, first: CoMoments, second: CoMoments) -> float:
    """Covariance of two periods' ratios of totals, sum of x over sum of y.

    Args:
        products: Over the units that came in both.
        first: Totals by unit of the one period.
        second: Of the other.

    Source:
        Deng, Knoblich and Lu (2018), KDD, 233-242, equation 3, for two ratios.
    """
    totals = (first.n * first.mean_y, second.n * second.mean_y)
    if 0.0 in totals:
        return 0.0
    r, s = (side.mean_x / side.mean_y for side in (first, second))
    cross = products.xx - s * products.xy - r * products.yx + r * s * products.yy
    return cross / (totals[0] * totals[1])


def variance_inflation(
    influences: Sequence[NDArray[np.float64]], units: Sequence[NDArray[np.float64]]
) -> float:
    """How much larger an estimate's variance is than with independent values; at least 1.

    Args:
        influences: What each value adds to the estimate, by period, mean 0 in each.
        units: The unit of each value as a whole number; -1 for one of its own.

    Source:
        Liang and Zeger (1986), Biometrika 73, 13-22, on influence functions; of few units n / (n
        - 1) as much, as for a variance.
    """
    parts, codes = np.concatenate(influences), np.concatenate(units).astype(np.int64)
    independent = float(np.square(parts).sum())
    if independent <= 0.0:
        return 1.0
    known = codes != NOBODY
    of_units = np.bincount(codes[known], weights=parts[known]) if known.any() else np.zeros(1)
    clustered = float(np.square(of_units).sum() + np.square(parts[~known]).sum())
    n_units = len(np.unique(codes[known])) + int((~known).sum())
    return max(1.0, clustered / independent * n_units / max(1, n_units - 1))
