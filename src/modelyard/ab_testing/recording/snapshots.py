"""The running sums of an experiment at one moment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from modelyard.stats.comoments import CoMoments
from modelyard.stats.moments import Moments, merge_all

# A stream: variant, weight epoch, metric.
Stream = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two variants measured on the same units: `b` minus `a`, and each side."""

    differences: Moments = field(default_factory=Moments)
    a: Moments = field(default_factory=Moments)
    b: Moments = field(default_factory=Moments)

    def with_values(self, a: float, b: float) -> "Pair":
        """After one more unit."""
        return Pair(self.differences.with_value(b - a), self.a.with_value(a), self.b.with_value(b))

    def swapped(self) -> "Pair":
        """`a` minus `b`."""
        d = self.differences
        return Pair(Moments(d.n, 0.0 - d.mean, d.m2), self.b, self.a)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What was recorded up to one moment. Nothing in it changes.

    Attributes:
        n: Outcomes, all variants together.
        samples: Moments of each stream.
        totals: Of each stream that has them, sums by unit (see `units`).
        covariates: Of each stream that has one, values (`x`) and covariate (`y`).
        values: Of each stream that keeps them, all values.
        pairs: Pairs by variants (in the experiment's order) and metric.
        pair_values: Of pairs whose metric keeps values, both sides.
        lag1: Autocorrelation by variant (or pair of variants) and metric.
        non_finite: Values that were not finite by variant and metric.
        without_companion: Values by variant and metric that lack what they are divided by, or
            their covariate.
        unit_counts: Units whose first outcome came from a variant in an epoch.
        unitless_counts: Outcomes of nobody in particular, likewise.
        first_at: When the first outcome was recorded, ISO 8601; empty before.
        last_at: When the last one was.
    """

    n: int
    samples: Mapping[Stream, Moments]
    totals: Mapping[Stream, CoMoments]
    covariates: Mapping[Stream, CoMoments]
    values: Mapping[Stream, NDArray[np.float64]]
    pairs: Mapping[tuple[str, str, str], Pair]
    pair_values: Mapping[tuple[str, str, str], tuple[NDArray[np.float64], NDArray[np.float64]]]
    lag1: Mapping[tuple[str, ...], float]
    non_finite: Mapping[tuple[str, str], int]
    without_companion: Mapping[tuple[str, str], int]
    unit_counts: Mapping[tuple[str, int], int]
    unitless_counts: Mapping[tuple[str, int], int]
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

    def missing_share(self, variant: str, metric: str) -> float:
        """Share of a variant's values that were not finite, 0 to 1; 0 without values."""
        n_missing = self.non_finite.get((variant, metric), 0)
        n_known = self.moments(variant, metric).n
        return n_missing / (n_missing + n_known) if n_missing else 0.0

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

    def lag1_of_pair(self, variant_a: str, variant_b: str, metric: str) -> float:
        """Autocorrelation of the differences."""
        known = self.lag1.get((variant_a, variant_b, metric))
        return self.lag1.get((variant_b, variant_a, metric), 0.0) if known is None else known
