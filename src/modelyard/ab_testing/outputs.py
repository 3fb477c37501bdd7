"""The dictionaries that `ABTest` gives: plain, JSON-serialisable, NaN and infinity as None."""

from typing import Any, TypedDict

from modelyard._core.plain import finite_or_none
from modelyard.ab_testing.analysis import WARNED_LAG1, Comparison, Evidence
from modelyard.ab_testing.recommendation import Recommendation, missing_values
from modelyard.stats.intervals import Interval
from modelyard.stats.moments import Moments
from modelyard.stats.significance import Contrast, paired, t_test

Ends = list[float | None]


class MetricStats(TypedDict):
    """One metric of one variant; `ci` for the mean, in the metric's unit."""

    n: int
    mean: float | None
    std: float | None
    ci: Ends
    non_finite: int


class VariantStats(TypedDict):
    """One variant; `sample_count` counts outcomes, `traffic_weight` is a share of 0 to 1."""

    sample_count: int
    traffic_weight: float
    metrics: dict[str, MetricStats]


class Statistics(TypedDict):
    """Numbers of a comparison; intervals and differences are `b` minus `a`."""

    p_value: float
    p_value_always_valid: float
    t_statistic: float | None
    df: float | None
    cohens_d: float | None
    confidence_interval: Ends
    confidence_interval_always_valid: Ends
    mean_a: float
    mean_b: float
    n_a: int
    n_b: int
    effective_n_a: int
    effective_n_b: int
    lag1_a: float
    lag1_b: float
    missing_share_a: float
    missing_share_b: float
    power: float
    minimum_detectable_effect: float | None


class Verdict(TypedDict):
    """What a comparison decides; improvement of `b` over `a` in the metric's own direction."""

    is_significant: bool
    winner: str | None
    relative_improvement_percent: float | None
    recommendation: str
    recommendation_code: str


class ComparisonDict(TypedDict):
    """What `compare_variants` gives."""

    variant_a: str
    variant_b: str
    metric: str
    lower_is_better: bool
    paired: bool
    weight_epochs: int
    statistics: Statistics
    result: Verdict
    warnings: list[str]


class IntervalHistory(TypedDict):
    """The difference `b` minus `a` over time; lists of one length.

    `n` counts outcomes of all variants; `lower` and `upper` are the always-valid interval.
    """

    n: list[int]
    difference: list[float]
    lower: list[float]
    upper: list[float]
    p_value_always_valid: list[float]


class StoppedTest(TypedDict):
    """What `stop_test` gives."""

    test_name: str
    status: str
    winner: str | None
    stopped_at: str


def metric_stats(moments: Moments, *, non_finite: int, confidence_level: float) -> MetricStats:
    """Mean, spread and t-interval of one metric of one variant."""
    contrast = paired(moments, mean_a=0.0, mean_b=moments.mean)
    interval = t_test(contrast, confidence_level=confidence_level).interval
    return {
        "n": moments.n,
        "mean": moments.mean if moments.n else None,
        "std": finite_or_none(moments.std),
        "ci": ends(interval),
        "non_finite": non_finite,
    }


def ends(interval: Interval) -> Ends:
    """Lower and upper end; None where there is no end."""
    return [finite_or_none(interval.lower), finite_or_none(interval.upper)]


def statistics_of(comparison: Comparison, evidence: Evidence) -> Statistics:
    """The numbers of a comparison."""
    contrast: Contrast = comparison.contrast
    return {
        "p_value": comparison.single_look.p_value,
        "p_value_always_valid": comparison.anytime.p_value,
        "t_statistic": finite_or_none(comparison.single_look.t_statistic),
        "df": finite_or_none(comparison.single_look.df),
        "cohens_d": finite_or_none(comparison.cohens_d),
        "confidence_interval": ends(comparison.single_look.interval),
        "confidence_interval_always_valid": ends(comparison.anytime.interval),
        "mean_a": contrast.mean_a,
        "mean_b": contrast.mean_b,
        "n_a": comparison.n_a,
        "n_b": comparison.n_b,
        "effective_n_a": comparison.effective_n_a,
        "effective_n_b": comparison.effective_n_b,
        "lag1_a": evidence.lag1_a,
        "lag1_b": evidence.lag1_b,
        "missing_share_a": comparison.missing_share_a,
        "missing_share_b": comparison.missing_share_b,
        "power": comparison.power,
        "minimum_detectable_effect": finite_or_none(comparison.minimum_detectable_effect),
    }


def verdict_of(
    comparison: Comparison, recommendation: Recommendation, *, lower_is_better: bool
) -> Verdict:
    """What the comparison decides."""
    # `0.0 -` and not unary minus: an improvement of nothing is 0.0, not -0.0.
    change = comparison.relative_change
    return {
        "is_significant": comparison.is_significant,
        "winner": recommendation.winner,
        "relative_improvement_percent": finite_or_none(
            100.0 * (0.0 - change if lower_is_better else change)
        ),
        "recommendation": recommendation.text,
        "recommendation_code": recommendation.code.value,
    }


def warnings_of(
    evidence: Evidence, comparison: Comparison, *, variant_a: str, variant_b: str, metric: str
) -> list[str]:
    """What a reader of the comparison must know besides."""
    warnings = []
    if not comparison.is_complete:
        warnings.append(missing_values(comparison, variant_a, variant_b, metric))
    worst = max(evidence.lag1_a, evidence.lag1_b)
    if worst > WARNED_LAG1:
        warnings.append(_autocorrelated(worst, metric))
    return warnings


def _autocorrelated(worst: float, metric: str) -> str:
    return (
        f"The values of {metric!r} follow one another (lag-1 autocorrelation {worst:.2f}), as "
        "overlapping windows do: each says little that is new, so the verdict counts them as "
        "fewer independent values. Record the returns themselves, not a rolling ratio of them."
    )


def as_plain_history(points: list[tuple[int, Comparison]]) -> IntervalHistory:
    """The looks at which an interval existed."""
    known: list[tuple[int, Any, Contrast]] = [
        (n, item.anytime, item.contrast)
        for n, item in points
        if None not in ends(item.anytime.interval)
    ]
    return {
        "n": [n for n, _, _ in known],
        "difference": [contrast.difference for _, _, contrast in known],
        "lower": [anytime.interval.lower for _, anytime, _ in known],
        "upper": [anytime.interval.upper for _, anytime, _ in known],
        "p_value_always_valid": [anytime.p_value for _, anytime, _ in known],
    }
