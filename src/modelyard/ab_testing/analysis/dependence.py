"""What dependent values are worth: outcomes of one user, and values that follow one another."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from modelyard.ab_testing.recording.snapshots import Snapshot, Stream
from modelyard.ab_testing.recording.units import Returning
from modelyard.stats.autocorrelation import effective_share, is_autocorrelated
from modelyard.stats.clusters import covariance_of_ratios, variance_inflation
from modelyard.stats.comoments import CoMoments
from modelyard.stats.moments import Moments
from modelyard.stats.ratios import ratio_contrast
from modelyard.stats.significance import Contrast, combined

Array = NDArray[np.float64]
# Two samples to what each of their values adds to the estimate, mean 0 in each.
Influences = Callable[[Array, Array], tuple[Array, Array]]
Streams = tuple[Stream, Stream]
_NOTHING = Returning({}, 0.0, 0)


@dataclass(frozen=True, kw_only=True)
class Order:
    """What the order of a variant's values says about their dependence.

    Attributes:
        correlations: Autocorrelations by lag, from 1.
        n: How many values.
    """

    correlations: Array
    n: int

    @property
    def lag1(self) -> float:
        """Autocorrelation of values that follow one another, -1 to 1."""
        return float(self.correlations[0])

    @property
    def lag(self) -> int:
        """The lag that decides: 1, or that of the accounts that take turns in the stream."""
        lag = int(self.correlations.argmax()) + 1
        is_real = is_autocorrelated(
            float(self.correlations[lag - 1]), self.n, n_lags=len(self.correlations)
        )
        return lag if is_real else 1

    @property
    def share(self) -> float:
        """How many independent values would say as much, as a share of the values, 0 to 1."""
        worst = float(self.correlations[self.lag - 1])
        is_real = self.lag > 1 or is_autocorrelated(worst, self.n)
        return effective_share(worst) if is_real else 1.0


def thinned(moments: Moments, share: float) -> Moments:
    """The same mean and variance from `share` of the values: what dependent values are worth."""
    n = int(moments.n * share)
    if share >= 1.0 or moments.n < 2:  # noqa: PLR2004 - a variance needs two values
        return moments
    return Moments(n, moments.mean, moments.variance * max(0, n - 1))


def thinned_co(sums: CoMoments, share: float) -> CoMoments:
    """As `thinned`, of pairs."""
    n = int(sums.n * share)
    if share >= 1.0 or sums.n < 2:  # noqa: PLR2004 - as above
        return sums
    scale = max(0, n - 1) / (sums.n - 1)
    return CoMoments(
        n=n,
        mean_x=sums.mean_x,
        mean_y=sums.mean_y,
        m2_x=sums.m2_x * scale,
        m2_y=sums.m2_y * scale,
        c_xy=sums.c_xy * scale,
    )


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


def combined_by_unit(
    strata: Sequence[tuple[CoMoments, CoMoments]], snapshot: Snapshot, streams: Sequence[Streams]
) -> Contrast:
    """Difference of two ratios of totals over several weight epochs, by unit.

    A unit that comes in several epochs is one draw: the epochs' estimates go together.

    Args:
        strata: Totals by unit of both variants, by epoch.
        snapshot: Where they come from.
        streams: The streams of the strata.
    """
    contrasts = [ratio_contrast(a, b) for a, b in strata]
    contrast = combined(contrasts)
    usable = [i for i, part in enumerate(contrasts) if part.n > 0.0 and part.variance >= 0.0]
    if len(usable) < 2 or not contrast.variance > 0.0:  # noqa: PLR2004 - two epochs
        return contrast
    n = sum(contrasts[i].n for i in usable)
    extra = 0.0
    for side in (0, 1):
        variant, _, metric = streams[usable[0]][side]
        known = snapshot.returning.get((variant, metric), _NOTHING)
        shared = 0.0
        for i, j in combinations(usable, 2):
            products = known.products.get((streams[i][side][1], streams[j][side][1]))
            if products is not None:
                covariance = covariance_of_ratios(
                    products, strata[i][side], strata[j][side], origin=known.origin
                )
                shared += 2.0 * (contrasts[i].n / n) * (contrasts[j].n / n) * covariance
        # Less than independent epochs would vary is chance, not information.
        extra += max(0.0, shared)
    return discounted(contrast, contrast.variance / (contrast.variance + extra))


def n_again(snapshot: Snapshot, streams: Sequence[Stream]) -> int:
    """How often a unit of one variant came in an epoch that had come in another one before."""
    if not streams:
        return 0
    variant, _, metric = streams[0]
    return snapshot.returning.get((variant, metric), _NOTHING).n_again


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
