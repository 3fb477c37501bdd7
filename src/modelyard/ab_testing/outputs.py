"""The dictionaries that `ABTest` gives: plain, JSON-serialisable, NaN and infinity as None."""

import math
from typing import TypedDict

from modelyard._core.plain import finite_or_none
from modelyard.ab_testing.analysis.checks import GuardrailCheck, RatioCheck
from modelyard.ab_testing.analysis.comparing import Comparison
from modelyard.ab_testing.analysis.recommendation import Recommendation
from modelyard.ab_testing.analysis.rules import VerdictRules
from modelyard.stats.bayesian import expected_loss, probability_better
from modelyard.stats.intervals import Interval
from modelyard.stats.moments import Moments
from modelyard.stats.sequential import AlwaysValid
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
    """One variant; `sample_count` counts outcomes, `traffic_weight` is a share of 0 to 1.

    `assigned` counts the users (or requests of nobody in particular) that this process gave it.
    """

    sample_count: int
    traffic_weight: float
    assigned: int
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
    n_units_a: int
    n_units_b: int
    relative_lift: float | None
    relative_lift_interval_always_valid: Ends
    variance_reduction: float | None
    lag1_a: float
    lag1_b: float
    missing_share_a: float
    missing_share_b: float
    power: float
    minimum_detectable_effect: float | None


class Bayes(TypedDict):
    """What a flat prior makes of the same numbers; losses in the metric's unit."""

    probability_b_is_better: float | None
    expected_loss_a: float | None
    expected_loss_b: float | None


class DecisionDict(TypedDict):
    """By which rule it was decided.

    `look` counts the planned looks that were taken; `critical` is how many standard errors the
    difference `z` must exceed there.
    """

    inference: str
    look: int
    planned_looks: list[int]
    z: float | None
    critical: float | None


class RatioDict(TypedDict):
    """Whether the variants got their shares of the units; `expected` from the weights."""

    is_mismatch: bool
    counted: str
    n_units: int
    counts: dict[str, int]
    expected: dict[str, float]
    p_value: float | None
    p_value_always_valid: float | None


class GuardrailDict(TypedDict):
    """Whether `variant` is no worse than `other` on a guardrail; numbers in its unit.

    `status` is `passes`, `fails` or `undecided`; `worst` is how much worse it may be at most.
    """

    metric: str
    variant: str
    other: str
    margin: float
    status: str
    worst: float | None


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
    kind: str
    lower_is_better: bool
    paired: bool
    weight_epochs: int
    statistics: Statistics
    bayesian: Bayes
    decision: DecisionDict
    sample_ratio: RatioDict | None
    guardrails: list[GuardrailDict]
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


class MetricComparison(TypedDict):
    """One line of `compare_all`: a pair of variants on one metric, adjusted for all lines."""

    variant_a: str
    variant_b: str
    metric: str
    difference: float
    p_value_always_valid: float
    adjusted_p_value: float
    is_significant: bool
    better: str | None


class Forecast(TypedDict):
    """What is still missing to find an effect; samples are of each variant."""

    metric: str
    effect: float
    power: float
    samples_needed: int
    samples_so_far: int
    samples_per_day: float | None
    days_left: float | None


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


def statistics_of(comparison: Comparison) -> Statistics:
    """The numbers of a comparison."""
    evidence, contrast = comparison.evidence, comparison.contrast
    return {
        "p_value": comparison.single_look.p_value,
        "p_value_always_valid": comparison.anytime.p_value,
        "t_statistic": finite_or_none(comparison.single_look.t_statistic),
        "df": finite_or_none(comparison.single_look.df),
        "cohens_d": finite_or_none(evidence.cohens_d),
        "confidence_interval": ends(comparison.single_look.interval),
        "confidence_interval_always_valid": ends(comparison.anytime.interval),
        "mean_a": contrast.mean_a,
        "mean_b": contrast.mean_b,
        "n_a": comparison.n_a,
        "n_b": comparison.n_b,
        "effective_n_a": evidence.effective_n_a,
        "effective_n_b": evidence.effective_n_b,
        "n_units_a": evidence.n_units_a,
        "n_units_b": evidence.n_units_b,
        "relative_lift": finite_or_none(comparison.lift.value),
        "relative_lift_interval_always_valid": ends(comparison.lift_interval),
        "variance_reduction": finite_or_none(evidence.variance_reduction),
        "lag1_a": evidence.order_a.lag1,
        "lag1_b": evidence.order_b.lag1,
        "missing_share_a": evidence.missing_share_a,
        "missing_share_b": evidence.missing_share_b,
        "power": comparison.power,
        "minimum_detectable_effect": finite_or_none(comparison.minimum_detectable_effect),
    }


def bayes_of(comparison: Comparison, *, lower_is_better: bool) -> Bayes:
    """Chances and losses from the same contrast; None while nothing can be compared."""
    effective = comparison.evidence.effective
    if math.isnan(effective.variance):
        return {
            "probability_b_is_better": None,
            "expected_loss_a": None,
            "expected_loss_b": None,
        }
    loss_a, loss_b = expected_loss(effective, lower_is_better=lower_is_better)
    better = probability_better(effective, lower_is_better=lower_is_better)
    return {
        "probability_b_is_better": finite_or_none(better),
        "expected_loss_a": finite_or_none(loss_a),
        "expected_loss_b": finite_or_none(loss_b),
    }


def decision_of(comparison: Comparison, rules: VerdictRules) -> DecisionDict:
    """By which rule it was decided."""
    return {
        "inference": rules.inference,
        "look": comparison.decision.look,
        "planned_looks": list(rules.planned_looks),
        "z": finite_or_none(comparison.decision.z),
        "critical": finite_or_none(comparison.decision.critical),
    }


def ratio_of(check: RatioCheck | None) -> RatioDict | None:
    """The check of the split as plain values; None where nothing was counted."""
    if check is None or check.result is None:
        return None
    return {
        "is_mismatch": check.is_mismatch,
        "counted": check.counted,
        "n_units": check.n_units,
        "counts": dict(check.counts),
        "expected": dict(check.expected),
        "p_value": finite_or_none(check.result.p_value),
        "p_value_always_valid": finite_or_none(check.result.p_value_always_valid),
    }


def guardrail_of(check: GuardrailCheck) -> GuardrailDict:
    """The check of a guardrail as plain values."""
    return {
        "metric": check.metric.name,
        "variant": check.variant,
        "other": check.other,
        "margin": check.metric.margin or 0.0,
        "status": check.result.status,
        "worst": finite_or_none(check.result.bound),
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


def as_plain_history(points: list[tuple[int, Comparison]]) -> IntervalHistory:
    """The looks at which an interval existed."""
    known: list[tuple[int, AlwaysValid, Contrast]] = [
        (n, item.anytime, item.evidence.effective)
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
