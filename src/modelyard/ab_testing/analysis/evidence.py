"""What has been measured of two variants on one metric."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from modelyard.ab_testing.analysis.dependence import Order
from modelyard.ab_testing.metrics import Metric
from modelyard.stats.moments import Moments
from modelyard.stats.significance import Contrast

# Outcomes with a metric, and all outcomes.
Presence = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What has been measured of `b` against `a` on one metric.

    Attributes:
        metric: Which, and of what kind.
        a: Moments of the values of `a`; those of the pairs in a paired experiment.
        b: Moments of the values of `b`.
        contrast: The difference, every outcome taken as a value of its own.
        effective: The same difference with its dependence counted: outcomes of one user, and
            values that follow one another.
        effective_n_a: Independent values that would say as much as those of `a`.
        effective_n_b: Likewise of `b`.
        single_look_p: Of the kind's own test, looked at once; None where that is the t-test of
            `contrast`.
        cohens_d: The difference in standard deviations; NaN where it cannot be known.
        covariance: Of the two means, for the error of their ratio.
        order_a: What the order of the values of `a` says; of the differences in a paired
            experiment.
        order_b: Likewise of `b`.
        presence: Of `a` and `b` in each weight epoch: outcomes with the metric, whatever its
            value, and all outcomes; empty in a paired experiment.
        missing_share_a: Share of the values of `a` that were not finite, 0 to 1.
        missing_share_b: Share of the values of `b` that were not finite, 0 to 1.
        n_a: Values of `a` that the contrast rests on; those are left out that lack what they are
            divided by, or their covariate.
        n_b: Likewise of `b`.
        variance_reduction: Share of the variance that a covariate takes out, 0 to 1; NaN without.
        n_units_a: Users or other units behind the values of `a`; 0 where they are not known.
        n_units_b: Likewise of `b`.
    """

    metric: Metric
    a: Moments
    b: Moments
    contrast: Contrast
    effective: Contrast
    effective_n_a: int
    effective_n_b: int
    single_look_p: float | None
    cohens_d: float
    covariance: float
    order_a: Order
    order_b: Order
    presence: Sequence[tuple[Presence, Presence]]
    missing_share_a: float
    missing_share_b: float
    n_a: int
    n_b: int
    variance_reduction: float = math.nan
    n_units_a: int = 0
    n_units_b: int = 0

    @property
    def is_by_unit(self) -> bool:
        """Whether users, not the order of the values, say how dependent these are."""
        return self.n_units_a > 0 or self.n_units_b > 0
