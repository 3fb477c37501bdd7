"""The comparison of two variants: numbers in, numbers out.

Two p-values stand side by side. `p_value` is Welch's (or that of the metric's own kind), right
when looked at once, at a sample size fixed in advance. `p_value_always_valid` may be looked at
after every outcome. Which of them decides is the experiment's rule; by default the second alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from scipy import special

from modelyard.ab_testing.analysis.evidence import Evidence
from modelyard.ab_testing.analysis.rules import VerdictRules
from modelyard.stats.effects import relative_change
from modelyard.stats.group_sequential import boundaries
from modelyard.stats.intervals import Interval, alpha_of
from modelyard.stats.power import minimum_detectable_effect, power
from modelyard.stats.proportions import proportions_test
from modelyard.stats.ratios import Lift, relative_lift
from modelyard.stats.sequential import AlwaysValid, always_valid
from modelyard.stats.significance import Contrast, TTest, in_standard_errors, t_test

# The effect that the document calls neither small nor large begins here.
NOTABLE_COHENS_D = 0.2
# Fewer independent values than this are too few for a large-sample interval.
MIN_EFFECTIVE_SAMPLES = 30
# Kinds of which an improvement in percent has an error of its own.
_LIFTED = frozenset({"mean", "proportion", "ratio"})
# A variant that loses its worst outcomes looks better than it is: above this share of values that
# are not finite, the rest decides nothing.
MAX_MISSING_SHARE = 0.01
# Shares of outcomes that have a value may differ between variants by chance, but not so.
UNEVEN_P = 1e-6


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether the difference is shown, by the experiment's own rule.

    Attributes:
        is_significant: Whether it is.
        look: Which planned look decided, or was the last one, from 1; 0 before the first, and
            where every look is allowed.
        z: The difference in standard errors at that look; NaN before.
        critical: Beyond how many standard errors a difference was significant there.
        difference: At that look, in the metric's unit.
    """

    is_significant: bool
    look: int
    z: float
    critical: float
    difference: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the evidence says about `b` against `a`.

    Attributes:
        evidence: As it stands now.
        decided_on: As it stood at the planned look that decided, or was the last; else as now.
        single_look: The kind's own test, all outcomes taken as independent.
        anytime: Always-valid p-value and interval, dependence counted.
        decision: What the experiment's rule makes of it.
        n_a: Outcomes of `a` with this metric.
        n_b: Outcomes of `b` with this metric.
        relative_change: (b - a) / |a|.
        lift: The same with its error; NaN where `a` is about 0.
        power: Chance to call a true difference of 0.2 standard deviations significant now.
        minimum_detectable_effect: True difference found with chance 0.8 now, metric's unit.
        has_enough: Whether there are enough outcomes for a verdict.
    """

    evidence: Evidence
    decided_on: Evidence
    single_look: TTest
    anytime: AlwaysValid
    decision: Decision
    n_a: int
    n_b: int
    relative_change: float
    lift: Lift
    power: float
    minimum_detectable_effect: float
    has_enough: bool

    @property
    def is_significant(self) -> bool:
        """Whether the rule calls the difference shown, on enough outcomes."""
        return self.has_enough and self.decision.is_significant

    @property
    def contrast(self) -> Contrast:
        """The difference as measured."""
        return self.evidence.contrast

    @property
    def difference(self) -> float:
        """The difference on which the decision rests."""
        return self.decision.difference

    @property
    def is_complete(self) -> bool:
        """Whether the values that there are can stand for all."""
        return not self.has_missing and not self.is_uneven

    @property
    def has_missing(self) -> bool:
        """Whether too many values were not finite, or lacked what they are divided by."""
        evidence = self.evidence
        return max(evidence.missing_share_a, evidence.missing_share_b) > MAX_MISSING_SHARE

    @property
    def is_uneven(self) -> bool:
        """Whether the values of one variant have their covariate more often than the other's."""
        evidence = self.evidence
        n_a, n_b = evidence.a.n, evidence.b.n
        if evidence.metric.covariate is None:
            return False
        return proportions_test(self.n_a, n_a, self.n_b, n_b).p_value < UNEVEN_P

    @property
    def lift_interval(self) -> Interval:
        """Always-valid interval for `lift`."""
        return self.lift.interval(self.anytime.critical)


def compare(
    evidence: Evidence, rules: VerdictRules, planned: Sequence[Evidence] = ()
) -> Comparison:
    """Compare `b` with `a`. Without enough data: p-values of 1, intervals without ends.

    Args:
        evidence: As it stands now.
        rules: What a verdict needs.
        planned: As it stood at each planned look that was reached, in order.
    """
    n_a, n_b = evidence.n_a, evidence.n_b
    anytime = always_valid(
        evidence.effective, n_tuned=rules.n_tuned, confidence_level=rules.confidence_level
    )
    error = math.sqrt(evidence.effective.variance)
    decision = decide(evidence, anytime, planned, rules)
    return Comparison(
        evidence=evidence,
        decided_on=planned[decision.look - 1] if decision.look else evidence,
        single_look=_single_look(evidence, rules),
        anytime=anytime,
        decision=decision,
        n_a=n_a,
        n_b=n_b,
        relative_change=relative_change_of(evidence),
        lift=_lift(evidence),
        power=_notable_power(evidence, error=error, critical=anytime.critical),
        minimum_detectable_effect=minimum_detectable_effect(
            standard_error=error, critical=anytime.critical
        ),
        has_enough=_has_enough(evidence, rules, n_a, n_b),
    )


def decide(
    evidence: Evidence,
    anytime: AlwaysValid,
    planned: Sequence[Evidence],
    rules: VerdictRules,
    *,
    n_tests: int = 1,
) -> Decision:
    """What the experiment's rule makes of the evidence.

    Args:
        evidence: As it stands now.
        anytime: Its always-valid form.
        planned: As it stood at each planned look that was reached.
        rules: What decides.
        n_tests: Tests that share the accepted chance of a false winner equally (Bonferroni).
    """
    alpha = alpha_of(rules.confidence_level) / n_tests
    if rules.inference == "always_valid":
        return Decision(
            is_significant=anytime.p_value < alpha,
            look=0,
            z=in_standard_errors(evidence.effective),
            critical=anytime.critical,
            difference=evidence.effective.difference,
        )
    contrasts = [item.effective for item in planned]
    if rules.inference == "group_sequential":
        return _at_looks(contrasts, _bounds(tuple(rules.fractions), alpha))
    return _at_looks(contrasts, [float(special.stdtrit(c.df, 1 - alpha / 2)) for c in contrasts])


def _at_looks(contrasts: Sequence[Contrast], bounds: Sequence[float]) -> Decision:
    """The first planned look at which the difference is beyond its bound; else the last one."""
    z, difference, look, critical = math.nan, 0.0, 0, math.inf
    for look, (contrast, critical) in enumerate(zip(contrasts, bounds, strict=False), start=1):
        z = math.nan if math.isnan(contrast.variance) else in_standard_errors(contrast)
        difference = contrast.difference
        if abs(z) > critical:
            return Decision(
                is_significant=True, look=look, z=z, critical=critical, difference=difference
            )
    return Decision(is_significant=False, look=look, z=z, critical=critical, difference=difference)


@lru_cache(maxsize=64)
def _bounds(fractions: tuple[float, ...], alpha: float) -> tuple[float, ...]:
    return tuple(float(bound) for bound in boundaries(fractions, alpha=alpha))


def _has_enough(evidence: Evidence, rules: VerdictRules, n_a: int, n_b: int) -> bool:
    if math.isnan(evidence.effective.variance):
        return False
    effective_n = min(evidence.effective_n_a, evidence.effective_n_b)
    if evidence.is_by_unit:
        effective_n = min(effective_n, evidence.n_units_a, evidence.n_units_b)
    return min(n_a, n_b) >= rules.min_samples and effective_n >= min(
        rules.min_samples, MIN_EFFECTIVE_SAMPLES
    )


def _single_look(evidence: Evidence, rules: VerdictRules) -> TTest:
    test = t_test(evidence.contrast, confidence_level=rules.confidence_level)
    if evidence.single_look_p is None:
        return test
    return replace(test, p_value=evidence.single_look_p)


def relative_change_of(evidence: Evidence) -> float:
    """(b - a) / |a|; NaN for chances and where `a` is 0."""
    if evidence.metric.kind == "rank":
        return math.nan
    contrast = evidence.contrast
    if min(evidence.n_a, evidence.n_b) == 0:
        return 0.0  # no improvement to speak of, rather than one over zero
    return relative_change(contrast.mean_a, contrast.mean_b)


def _lift(evidence: Evidence) -> Lift:
    """The relative change with its error, which needs the error of each mean.

    What the effective contrast adds to the plain one for dependence is shared out evenly.
    """
    a, b, effective = evidence.a, evidence.b, evidence.effective
    has_errors = min(a.n, b.n) > 1 and not math.isnan(effective.variance)
    if not has_errors or evidence.metric.kind not in _LIFTED:
        return relative_lift(effective, variance_a=math.nan, variance_b=math.nan)
    parts = (a.variance / a.n, b.variance / b.n)
    plain = sum(parts) - 2.0 * evidence.covariance
    scale = effective.variance / plain if plain > 0.0 else 1.0
    return relative_lift(
        effective,
        variance_a=parts[0] * scale,
        variance_b=parts[1] * scale,
        covariance=evidence.covariance * scale,
    )


def _notable_power(evidence: Evidence, *, error: float, critical: float) -> float:
    if not math.isfinite(critical) or math.isnan(error):
        return 0.0
    std = _std(evidence)
    if error == 0.0 or std == 0.0:
        return 1.0
    return power(NOTABLE_COHENS_D * std, standard_error=error, critical=critical)


def _std(evidence: Evidence) -> float:
    """Standard deviation of one value, pooled."""
    a, b = evidence.a, evidence.b
    if evidence.metric.kind in ("mean", "proportion"):
        return math.sqrt((a.m2 + b.m2) / (a.n + b.n - 2))
    return math.sqrt(evidence.contrast.variance * evidence.contrast.n) / 2.0
