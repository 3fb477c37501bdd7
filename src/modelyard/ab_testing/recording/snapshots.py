"""The running sums of an experiment at one moment."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from modelyard.ab_testing.recording.units import AdjustedClusters
from modelyard.stats.autocorrelation import Autocorrelation, Correlogram
from modelyard.stats.clusters import Clusters
from modelyard.stats.comoments import CoMoments
from modelyard.stats.moments import Moments, merge_all

# Two values that differ by less than this share of their size are equal.
_ROUNDING = 8.0 * sys.float_info.epsilon
# A stream: variant, weight epoch, metric.
Stream = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two variants measured on the same units: `b` minus `a`, and each side."""

    differences: Moments = field(default_factory=Moments)
    a: Moments = field(default_factory=Moments)
    b: Moments = field(default_factory=Moments)

    def with_values(self, a: float, b: float) -> "Pair":
        """After one more unit. What is only rounding is no difference."""
        difference = b - a
        if abs(difference) <= _ROUNDING * max(abs(a), abs(b)):
            difference = 0.0
        return Pair(
            self.differences.with_value(difference), self.a.with_value(a), self.b.with_value(b)
        )

    def swapped(self) -> "Pair":
        """`a` minus `b`."""
        d = self.differences
        return Pair(Moments(d.n, 0.0 - d.mean, d.m2), self.b, self.a)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What was recorded up to one moment. Nothing in it changes.

    Attributes:
        n: Outcomes, all variants together.
        sample_counts: Outcomes by variant.
        outcomes: Outcomes by variant and weight epoch.
        present: Of each stream, outcomes with the metric, whatever its value.
        samples: Moments of each stream.
        clusters: By variant and metric, sums by unit and weight epoch (see `units`), if known.
        adjusted: Likewise of metrics with a covariate.
        covariates: Of each stream that has one, values (`x`) and covariate (`y`).
        values: Of each stream that keeps them, all values.
        value_units: Of those whose units are known, the unit of each value as a number; -1 for
            one of its own.
        pairs: Pairs by variants (in the experiment's order) and metric.
        pair_values: Of pairs whose metric keeps values, both sides.
        streams: How values followed one another, by variant (or pair of variants) and metric.
        non_finite: Values that were not finite by variant and metric.
        without_companion: Values by variant and metric that lack what they are divided by, or
            their covariate.
        unit_counts: Units whose first outcome came from a variant in an epoch.
        unitless_counts: Outcomes of nobody in particular, likewise.
        n_shared_units: Units with outcomes of several variants.
        first_at: When the first outcome was recorded, ISO 8601; empty before.
        last_at: When the last one was.
    """

    n: int
    sample_counts: Mapping[str, int]
    outcomes: Mapping[tuple[str, int], int]
    present: Mapping[Stream, int]
    samples: Mapping[Stream, Moments]
    clusters: Mapping[tuple[str, str], Clusters]
    adjusted: Mapping[tuple[str, str], AdjustedClusters]
    covariates: Mapping[Stream, CoMoments]
    values: Mapping[Stream, NDArray[np.float64]]
    value_units: Mapping[Stream, NDArray[np.float64]]
    pairs: Mapping[tuple[str, str, str], Pair]
    pair_values: Mapping[tuple[str, str, str], tuple[NDArray[np.float64], NDArray[np.float64]]]
    streams: Mapping[tuple[str, ...], Autocorrelation]
    non_finite: Mapping[tuple[str, str], int]
    without_companion: Mapping[tuple[str, str], int]
    unit_counts: Mapping[tuple[str, int], int]
    unitless_counts: Mapping[tuple[str, int], int]
    n_shared_units: int
    first_at: str
    last_at: str

    @cached_property
    def epochs(self) -> list[int]:
        """The weight epochs in which anything was recorded."""
        return sorted({epoch for _, epoch, _ in self.samples})

    def moments(self, variant: str, metric: str) -> Moments:
        """A variant's moments over all weight epochs."""
        none = Moments()
        return merge_all(self.samples.get((variant, epoch, metric), none) for epoch in self.epochs)

    def presence(self, variant: str, epoch: int, metric: str) -> tuple[int, int]:
        """Outcomes of a variant in an epoch with the metric, and all of them."""
        place = (variant, epoch)
        return self.present.get((*place, metric), 0), self.outcomes.get(place, 0)

    def missing_share(self, variant: str, metric: str) -> float:
        """Share of a variant's values that were not finite, 0 to 1; 0 without values."""
        n_missing = self.non_finite.get((variant, metric), 0)
        n_known = self.moments(variant, metric).n
        return n_missing / (n_missing + n_known) if n_missing else 0.0

    def undivided_share(self, variant: str, metric: str) -> float:
        """Likewise, and those whose denominator was not finite or not there."""
        n_not_finite = self.non_finite.get((variant, metric), 0)
        n_missing = n_not_finite + self.without_companion.get((variant, metric), 0)
        n_known = self.moments(variant, metric).n
        return n_missing / (n_not_finite + n_known) if n_missing else 0.0

    def pair(self, variant_a: str, variant_b: str, metric: str) -> Pair:
        """What was measured of two variants on the same units."""
        known = self.pairs.get((variant_a, variant_b, metric))
        if known is not None:
            return known
        return self.pairs.get((variant_b, variant_a, metric), Pair()).swapped()

    def values_of_pair(
        self, variant_a: str, variant_b: str, metric: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """All values of two variants on the same units, of `variant_a` first."""
        known = self.pair_values.get((variant_a, variant_b, metric))
        if known is not None:
            return known
        b, a = self.pair_values.get((variant_b, variant_a, metric), (np.empty(0), np.empty(0)))
        return a, b

    def correlogram_of(self, *key: str) -> Correlogram:
        """Autocorrelations of a variant's metric, or of the differences of two variants'.

        Args:
            key: Variant and metric; or two variants and metric.
        """
        if key not in self.streams:
            key = (*key[-2::-1], key[-1])
        stream = self.streams.get(key)
        if stream is None:
            return Correlogram(np.zeros(1), np.zeros(1))
        if len(key) == 2:  # noqa: PLR2004 - a variant and a metric
            return stream.correlogram(self.moments(key[0], key[1]))
        return stream.correlogram(self.pairs[key[0], key[1], key[2]].differences)
