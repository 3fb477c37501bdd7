"""The comparison of two variants: numbers in, numbers out.

Two p-values stand side by side. `p_value` is Welch's (or the paired t-test's), right when looked
at once, at a sample size fixed in advance. `p_value_always_valid` may be looked at after every
outcome, and it alone decides.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from modelyard._core.errors import ConfigError
from modelyard.stats import significance
from modelyard.stats.autocorrelation import effective_share, is_autocorrelated
from modelyard.stats.direction import is_lower_better
from modelyard.stats.effects import cohens_d, relative_change
from modelyard.stats.intervals import alpha_of
from modelyard.stats.moments import Moments, merge_all
from modelyard.stats.power import minimum_detectable_effect, power
from modelyard.stats.sequential import AlwaysValid, always_valid
from modelyard.stats.significance import Contrast, TTest, t_test

# The effect that the document calls neither small nor large begins here.
NOTABLE_COHENS_D = 0.2
# Fewer independent values than this are too few for a large-sample interval.
MIN_EFFECTIVE_SAMPLES = 30
WARNED_LAG1 = 0.5
# A variant that loses its worst outcomes looks better than it is: above this share of values that
# are not finite, the rest decides nothing.
MAX_MISSING_SHARE = 0.01


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a verdict needs, fixed before the first outcome.

    Attributes:
        confidence_level: 1 - the accepted chance of a false winner, over all looks.
        min_samples: Outcomes of each variant below which there is no verdict.
        n_tuned: Outcomes of both variants together at which the always-valid interval is
            narrowest.
    """

    confidence_level: float
    min_samples: int
    n_tuned: float

    def __post_init__(self) -> None:
        alpha_of(self.confidence_level)
        checked_positive(self.min_samples, what="min_samples")
        checked_positive(self.n_tuned, what="n_tuned")


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What has been measured about two variants and one metric.

    Attributes:
        strata: Moments of `a` and of `b` in each weight epoch.
        lag1_a: Autocorrelation of the stream of `a`; of the differences if they are given.
        lag1_b: Autocorrelation of the stream of `b`; of the differences if they are given.
        differences: Moments of `b` minus `a` on the same units, if they were measured so.
        missing_share_a: Share of the values of `a` that were not finite, 0 to 1.
        missing_share_b: Share of the values of `b` that were not finite, 0 to 1.
    """

    strata: tuple[tuple[Moments, Moments], ...]
    lag1_a: float = 0.0
    lag1_b: float = 0.0
    differences: Moments | None = None
    missing_share_a: float = 0.0
    missing_share_b: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the evidence says about `b` against `a`.

    Attributes:
        contrast: The difference as measured.
        single_look: Welch's or the paired t-test, all outcomes taken as independent.
        anytime: Always-valid p-value and interval, on the effective sample sizes.
        n_a: Outcomes of `a` with this metric.
        n_b: Outcomes of `b` with this metric.
        effective_n_a: Independent outcomes that would say as much as those of `a`.
        effective_n_b: Independent outcomes that would say as much as those of `b`.
        cohens_d: Difference in pooled standard deviations of the metric itself.
        relative_change: (b - a) / |a|.
        power: Chance to call a true difference of 0.2 standard deviations significant now.
        minimum_detectable_effect: True difference found with chance 0.8 now, metric's unit.
        missing_share_a: Share of the values of `a` that were not finite, 0 to 1.
        missing_share_b: Share of the values of `b` that were not finite, 0 to 1.
        has_enough: Whether there are enough outcomes for a verdict.
        is_significant: Whether `anytime` and `has_enough` allow one.
    """

    contrast: Contrast
    single_look: TTest
    anytime: AlwaysValid
    n_a: int
    n_b: int
    effective_n_a: int
    effective_n_b: int
    cohens_d: float
    relative_change: float
    power: float
    minimum_detectable_effect: float
    missing_share_a: float
    missing_share_b: float
    has_enough: bool
    is_significant: bool

    @property
    def is_complete(self) -> bool:
        """Whether so few values are missing that those left can stand for all."""
        return max(self.missing_share_a, self.missing_share_b) <= MAX_MISSING_SHARE


def compare(evidence: Evidence, rules: Rules) -> Comparison:
    """Compare `b` with `a`. Without enough data: p-values of 1, intervals without ends."""
    a = merge_all(stratum[0] for stratum in evidence.strata)
    b = merge_all(stratum[1] for stratum in evidence.strata)
    n_a, n_b = _counts(a, b, evidence.differences)
    share_a, share_b = (_share(evidence.lag1_a, n_a), _share(evidence.lag1_b, n_b))
    contrast = _contrast(evidence, 1.0, 1.0)
    effective = _contrast(evidence, share_a, share_b)
    anytime = always_valid(
        effective, n_tuned=rules.n_tuned, confidence_level=rules.confidence_level
    )
    effective_n = min(int(n_a * share_a), int(n_b * share_b))
    has_enough = min(n_a, n_b) >= rules.min_samples and effective_n >= min(
        rules.min_samples, MIN_EFFECTIVE_SAMPLES
    )
    error = math.sqrt(effective.variance)
    return Comparison(
        contrast=contrast,
        single_look=t_test(contrast, confidence_level=rules.confidence_level),
        anytime=anytime,
        n_a=n_a,
        n_b=n_b,
        effective_n_a=int(n_a * share_a),
        effective_n_b=int(n_b * share_b),
        cohens_d=cohens_d(a, b),
        relative_change=_relative_change(contrast, n_a, n_b),
        power=_notable_power(a, b, error=error, critical=anytime.critical),
        minimum_detectable_effect=minimum_detectable_effect(
            standard_error=error, critical=anytime.critical
        ),
        missing_share_a=evidence.missing_share_a,
        missing_share_b=evidence.missing_share_b,
        has_enough=has_enough,
        is_significant=has_enough and anytime.p_value < alpha_of(rules.confidence_level),
    )


def direction_by(lower_is_better: Iterable[str] | None) -> Callable[[str], bool]:
    """Says of a metric whether less of it is better: of those named, or by its name if None.

    Raises:
        ConfigError: One text, whose letters would be taken for names.
    """
    if lower_is_better is None:
        return is_lower_better
    if isinstance(lower_is_better, str):
        raise ConfigError(
            f"lower_is_better must be a list of metrics, got {lower_is_better!r}. "
            f"Give [{lower_is_better!r}]."
        )
    return frozenset(lower_is_better).__contains__


def checked_positive(value: float, *, what: str) -> float:
    """`value` itself.

    Raises:
        ConfigError: Not above 0.
    """
    if not value > 0:
        raise ConfigError(f"{what} must be above 0, got {value!r}.")
    return value


def thinned(moments: Moments, share: float) -> Moments:
    """The same mean and variance from `share` of the values: what dependent values are worth."""
    n = int(moments.n * share)
    if share >= 1.0 or moments.n < 2:  # noqa: PLR2004 - a variance needs two values
        return moments
    return Moments(n, moments.mean, moments.variance * max(0, n - 1))


def _counts(a: Moments, b: Moments, differences: Moments | None) -> tuple[int, int]:
    return (a.n, b.n) if differences is None else (differences.n, differences.n)


def _share(lag1: float, n: int) -> float:
    return effective_share(lag1) if is_autocorrelated(lag1, n) else 1.0


def _contrast(evidence: Evidence, share_a: float, share_b: float) -> Contrast:
    if evidence.differences is not None:
        ((a, b),) = evidence.strata
        return significance.paired(
            thinned(evidence.differences, share_a), mean_a=a.mean, mean_b=b.mean
        )
    return significance.stratified(
        [(thinned(a, share_a), thinned(b, share_b)) for a, b in evidence.strata]
    )


def _relative_change(contrast: Contrast, n_a: int, n_b: int) -> float:
    # Nothing measured on a side: no improvement to speak of, rather than one over zero.
    return relative_change(contrast.mean_a, contrast.mean_b) if min(n_a, n_b) > 0 else 0.0


def _notable_power(a: Moments, b: Moments, *, error: float, critical: float) -> float:
    if not math.isfinite(critical) or math.isnan(error):
        return 0.0
    std = math.sqrt((a.m2 + b.m2) / (a.n + b.n - 2))
    if error == 0.0 or std == 0.0:
        return 1.0
    return power(NOTABLE_COHENS_D * std, standard_error=error, critical=critical)
