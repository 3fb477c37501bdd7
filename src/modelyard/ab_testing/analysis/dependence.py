"""What dependent values are worth: outcomes of one user, and values that follow one another."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from modelyard.ab_testing.recording.snapshots import Snapshot, Stream
from modelyard.stats.autocorrelation import Correlogram, deciding_lag, effective_share
from modelyard.stats.clusters import Clusters, covariance_of_ratios, variance_inflation
from modelyard.stats.comoments import CoMoments
from modelyard.stats.moments import Moments
from modelyard.stats.ratios import ratio_contrast
from modelyard.stats.significance import Contrast, combined

Array = NDArray[np.float64]
# Two samples to what each of their values adds to the estimate, mean 0 in each.
Influences = Callable[[Array, Array], tuple[Array, Array]]
Streams = tuple[Stream, Stream]


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the order of a variant's values says about their dependence.

    Attributes:
        lag1: Autocorrelation of values that follow one another, -1 to 1.
        lag: Which lag decides: 1, or that of accounts that take turns; 0 where none is real.
        correlation: Autocorrelation at that lag; 0 where none is real.
    """

    lag1: float
    lag: int
    correlation: float

    @classmethod
    def of(cls, found: Correlogram) -> "Order":
        """What a stream's autocorrelations come to."""
        lag = deciding_lag(found)
        return cls(
            lag1=float(found.values[0]),
            lag=lag,
            correlation=float(found.values[lag - 1]) if lag else 0.0,
        )

    @property
    def share(self) -> float:
        """How many independent values would say as much, as a share of the values, 0 to 1."""
        return effective_share(self.correlation)


def thinned(moments: Moments, share: float) -> Moments:
    """The same mean and variance from `share` of the values: what dependent values are worth."""
    n = int(moments.n * share)
    if share >= 1.0 or moments.n < 2:  # noqa: PLR2004 - a variance needs two values
        return moments
    return Moments(n, moments.mean, moments.variance * max(0, n - 1))


def discounted(contrast: Contrast, share: float) -> Contrast:
    """The contrast from `share` of the information."""
    if share >= 1.0:
        return contrast
    return replace(
        contrast,
        variance=contrast.variance / share,
        df=contrast.df * share,
        n=contrast.n * share,
    )


def combined_by_unit(a: Clusters, b: Clusters, epochs: Sequence[int]) -> Contrast:
    """Difference of two ratios of totals over several weight epochs, by unit.

    A unit that comes in several epochs is one draw: the epochs' estimates go together.

    Args:
        a: Totals by unit of the control.
        b: Totals by unit of the treatment.
        epochs: Which.
    """
    none = CoMoments()
    parts = {e: ratio_contrast(a.totals.get(e, none), b.totals.get(e, none)) for e in epochs}
    contrast = combined(list(parts.values()))
    contrast = replace(
        contrast, mean_a=contrast.mean_a + a.origin, mean_b=contrast.mean_b + b.origin
    )
    weights = {e: part.n / contrast.n for e, part in parts.items() if part.variance >= 0.0}
    if len(weights) < 2 or not contrast.variance > 0.0:  # noqa: PLR2004 - two epochs
        return contrast
    # Less than independent epochs would vary is chance, not information.
    extra = sum(max(0.0, _shared_variance(side, weights)) for side in (a, b))
    return discounted(contrast, contrast.variance / (contrast.variance + extra))


def _shared_variance(side: Clusters, weights: Mapping[int, float]) -> float:
    """What the units that came in several epochs add to the variance of the weighted mean."""
    shared = 0.0
    for first, second in combinations(sorted(weights), 2):
        products = side.products.get((first, second))
        if products is not None:
            covariance = covariance_of_ratios(products, side.totals[first], side.totals[second])
            shared += 2.0 * weights[first] * weights[second] * covariance
    return shared


def inflation_by_unit(
    snapshot: Snapshot,
    streams: Sequence[Streams],
    weights: Sequence[float],
    influences: Influences,
) -> tuple[float, tuple[int, int]]:
    """How much larger the variance is than with independent values, and the units of each side.

    Args:
        snapshot: Values and their units.
        streams: Of both variants, by epoch.
        weights: How much each epoch counts; they add up to 1.
        influences: Of the estimate in one epoch.

    Returns:
        1.0 and no units where none are known, or none has several values.
    """
    none: Array = np.empty(0)
    parts: tuple[list[Array], list[Array]] = ([], [])
    units: tuple[list[Array], list[Array]] = ([], [])
    for pair, weight in zip(streams, weights, strict=True):
        values = [snapshot.values.get(stream, none) for stream in pair]
        if not weight or min(len(side) for side in values) == 0:
            continue
        for i, of_values in enumerate(influences(*values)):
            known = snapshot.value_units.get(pair[i])
            parts[i].append(weight * of_values / len(of_values))
            units[i].append(np.full(len(of_values), -1.0) if known is None else known)
    if not parts[0]:
        return 1.0, (0, 0)
    counts = [np.concatenate(side) for side in units]
    n_units = tuple(len(np.unique(c[c >= 0])) + int((c < 0).sum()) for c in counts)
    if all(n == len(c) for n, c in zip(n_units, counts, strict=True)):
        return 1.0, (0, 0)
    worst = max(variance_inflation(parts[i], units[i]) for i in (0, 1))
    return worst, (n_units[0], n_units[1])
