"""The document's table 8.4: what a comparison advises, in a sentence with its numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from modelyard.ab_testing.analysis.checks import GuardrailCheck, RatioCheck
from modelyard.ab_testing.analysis.comparing import (
    MAX_MISSING_SHARE,
    Comparison,
    relative_change_of,
)
from modelyard.ab_testing.analysis.evidence import Evidence
from modelyard.ab_testing.analysis.rules import VerdictRules
from modelyard.stats.intervals import alpha_of

SMALL_EFFECT = 0.2
LARGE_EFFECT = 0.5


class Advice(StrEnum):
    """What to do; the value is the `recommendation_code`."""

    COLLECT_MORE = "collect_more"
    CHECK_DATA = "check_data"
    CHECK_ASSIGNMENT = "check_assignment"
    GUARDRAIL_HARMED = "guardrail_harmed"
    GUARDRAIL_UNDECIDED = "guardrail_undecided"
    CONTINUE_TESTING = "continue_testing"
    CONSIDER_PRACTICAL_VALUE = "consider_practical_value"
    SWITCH = "switch"
    STRONGLY_SWITCH = "strongly_switch"


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """Advice in a word and in a sentence.

    Attributes:
        code: For programs.
        text: For people, with the numbers that decided it.
        winner: The better variant if the difference is significant, else None.
    """

    code: Advice
    text: str
    winner: str | None


def recommend(
    comparison: Comparison,
    rules: VerdictRules,
    *,
    variant_a: str,
    variant_b: str,
    metric: str,
    lower_is_better: bool,
    ratio: RatioCheck | None = None,
    guardrails: Sequence[GuardrailCheck] = (),
) -> Recommendation:
    """What the comparison advises.

    Effects: |d| below 0.2 is small, 0.2 to 0.5 medium, above 0.5 large (Cohen, 1988).

    Args:
        comparison: Of the two variants.
        rules: What a verdict needs.
        variant_a: The control.
        variant_b: The treatment.
        metric: What was compared.
        lower_is_better: Whether less of it is better.
        ratio: Whether the assignment was as the weights say.
        guardrails: Of the better of the two against the other.
    """
    if not comparison.has_enough:
        return Recommendation(
            code=Advice.COLLECT_MORE,
            text=_too_few(comparison, rules, variant_a, variant_b),
            winner=None,
        )
    if not comparison.is_complete:
        return Recommendation(
            code=Advice.CHECK_DATA,
            text=f"No winner: {incomplete(comparison, variant_a, variant_b, metric)}",
            winner=None,
        )
    if ratio is not None and ratio.is_mismatch:
        return Recommendation(
            code=Advice.CHECK_ASSIGNMENT, text=f"No winner: {lopsided(ratio)}", winner=None
        )
    if not comparison.is_significant:
        return Recommendation(
            code=Advice.CONTINUE_TESTING,
            text=_no_difference(comparison, rules, metric),
            winner=None,
        )
    b_is_better = (comparison.difference > 0.0) != lower_is_better
    winner = variant_b if b_is_better else variant_a
    for check in guardrails:
        if check.result.status != "passes":
            return _held_back(check, winner, metric, comparison)
    code = advice_for(comparison.decided_on.cohens_d)
    direction = f"{metric} (less is better)" if lower_is_better else metric
    verdict = _VERDICTS[code].format(winner=winner, metric=direction)
    return Recommendation(code=code, text=f"{verdict} ({_numbers(comparison)}).", winner=winner)


def lopsided(ratio: RatioCheck) -> str:
    """How the split differs from the weights and why that matters, in a sentence."""
    split = ", ".join(
        f"{name} {count} (expected {ratio.expected[name]:.0f})"
        for name, count in ratio.counts.items()
    )
    what = "assigned" if ratio.counted == "assigned" else "with an outcome"
    p_value = 1.0 if ratio.result is None else ratio.result.p_value_always_valid
    found = (
        f"the {ratio.n_units} units {what} are split {split}, which chance does not do "
        f"(always-valid p = {p_value:.2g})."
    )
    if 2 * ratio.n_shared > ratio.n_units:
        return (
            f"{found} {ratio.n_shared} of them have outcomes of several variants and count for "
            "their first: where every variant answers the same units, make the experiment with "
            "paired=True and use record_paired."
        )
    if ratio.n_epochs > 1:
        found += (
            " Where outcomes came after a change of weights, and another process gave their "
            "variant, they count for the weights of that time."
        )
    return (
        f"{found} Whoever is missing differs from the others, so no "
        "difference between the variants can be believed: look for lost outcomes, crashes, "
        "filters or bots of one variant."
    )


def _held_back(
    check: GuardrailCheck, winner: str, metric: str, comparison: Comparison
) -> Recommendation:
    is_harmed = check.result.status == "fails"
    state = "is worse" if is_harmed else "is not yet shown to be no worse"
    return Recommendation(
        code=Advice.GUARDRAIL_HARMED if is_harmed else Advice.GUARDRAIL_UNDECIDED,
        text=(
            f"No winner: {winner} is better on {metric} ({_numbers(comparison)}), but on the "
            f"guardrail {check.metric.name} it {state} than {check.other} by the margin of "
            f"{check.metric.margin:.4g} (at worst {check.result.bound:.4g} worse)."
        ),
        winner=None,
    )


def incomplete(comparison: Comparison, variant_a: str, variant_b: str, metric: str) -> str:
    """Which values are missing and why that matters, in a sentence."""
    evidence = comparison.evidence
    if not comparison.has_missing:
        return (
            f"{comparison.n_a / evidence.a.n:.1%} of the values of {metric} of {variant_a} and "
            f"{comparison.n_b / evidence.b.n:.1%} of those of {variant_b} have the covariate "
            f"{evidence.metric.companion}, which chance does not do. Those that have it differ "
            "from the others, so no difference between the variants can be believed: record it "
            "with every value."
        )
    return (
        f"{evidence.missing_share_a:.1%} of the values of {metric} of {variant_a} and "
        f"{evidence.missing_share_b:.1%} of those of {variant_b} were not finite (at most "
        f"{MAX_MISSING_SHARE:.0%} may be). If they were the bad outcomes, the others flatter the "
        "variant: record what came of them, as a number."
    )


def advice_for(cohens_d: float) -> Advice:
    """The row of table 8.4 for a significant difference of this effect size.

    A size that is not known (NaN) recommends no switch.
    """
    size = abs(cohens_d)
    if not size >= SMALL_EFFECT:
        return Advice.CONSIDER_PRACTICAL_VALUE
    return Advice.SWITCH if size <= LARGE_EFFECT else Advice.STRONGLY_SWITCH


_VERDICTS = {
    Advice.CONSIDER_PRACTICAL_VALUE: (
        "{winner} is better on {metric}, but the effect is small: "
        "weigh whether it matters in practice"
    ),
    Advice.SWITCH: "{winner} is better on {metric} with a medium effect: switching is recommended",
    Advice.STRONGLY_SWITCH: (
        "{winner} is better on {metric} with a large effect: switching is strongly recommended"
    ),
}


def _too_few(comparison: Comparison, rules: VerdictRules, variant_a: str, variant_b: str) -> str:
    text = (
        f"Not enough data yet: {variant_a} has {comparison.n_a} and {variant_b} "
        f"{comparison.n_b} of the {rules.min_samples} samples each needs"
    )
    evidence = comparison.evidence
    if (evidence.effective_n_a, evidence.effective_n_b) != (comparison.n_a, comparison.n_b):
        why = "outcomes of one user belong together" if evidence.is_by_unit else "autocorrelated"
        text += (
            f"; {why}, they are worth {evidence.effective_n_a} and "
            f"{evidence.effective_n_b} independent ones"
        )
    if evidence.is_by_unit:
        text += f"; they come from {evidence.n_units_a} and {evidence.n_units_b} users"
    if min(comparison.n_a, comparison.n_b) >= rules.min_samples:
        text += _too_few_for_its_kind(evidence)
    return f"{text}."


def _too_few_for_its_kind(evidence: Evidence) -> str:
    if not math.isnan(evidence.effective.variance):
        return ""
    metric = evidence.metric
    what = f"the {metric.quantile:g} quantile" if metric.kind == "quantile" else f"a {metric.kind}"
    return f"; the error of {what} needs more in each weight epoch"


def _no_difference(comparison: Comparison, rules: VerdictRules, metric: str) -> str:
    alpha = alpha_of(rules.confidence_level)
    looks = rules.planned_looks
    if looks and comparison.decision.look < len(looks):
        return (
            f"No verdict on {metric} yet: continue testing to the planned look at "
            f"{looks[comparison.decision.look]} samples of each variant "
            f"({_numbers(comparison)})."
        )
    text = (
        f"No significant difference on {metric}: continue testing ({_numbers(comparison)}; "
        f"smallest difference found with 80 % chance {comparison.minimum_detectable_effect:.4g})."
    )
    if not looks and comparison.single_look.p_value < alpha:
        text += (
            f" A test looked at once would give p = {comparison.single_look.p_value:.4g}; "
            "it does not hold for a test that is looked at repeatedly or for dependent samples."
        )
    return text


def _numbers(comparison: Comparison) -> str:
    evidence = comparison.decided_on
    contrast, summary = evidence.contrast, _SUMMARIES[evidence.metric.kind]
    parts = [f"{summary} {contrast.mean_a:.4g} and {contrast.mean_b:.4g}"]
    change = relative_change_of(evidence)
    if math.isfinite(change):
        parts.append(f"{change:+.2%}")
    if math.isfinite(evidence.cohens_d):
        parts.append(f"{_effect(comparison)} {evidence.cohens_d:.2f}")
    if comparison.decision.look:
        decision = comparison.decision
        parts.append(
            f"z = {decision.z:.2f} against {decision.critical:.2f} at look {decision.look}"
        )
    else:
        parts.append(f"always-valid p = {comparison.anytime.p_value:.4g}")
    parts.append(f"n = {evidence.n_a} and {evidence.n_b}")
    return ", ".join(parts)


_SUMMARIES = {
    "mean": "means",
    "proportion": "shares",
    "ratio": "ratios",
    "quantile": "quantiles",
    "rank": "chances to exceed the other",
    "sharpe": "Sharpe ratios",
}


def _effect(comparison: Comparison) -> str:
    is_sharpe = comparison.evidence.metric.kind == "sharpe"
    return "difference" if is_sharpe else "Cohen's d"
