"""The document's table 8.4: what a comparison advises, in a sentence with its numbers."""

import math
from dataclasses import dataclass
from enum import StrEnum

from modelyard.ab_testing.analysis import MAX_MISSING_SHARE, Comparison, Rules
from modelyard.stats.intervals import alpha_of

SMALL_EFFECT = 0.2
LARGE_EFFECT = 0.5


class Advice(StrEnum):
    """What to do; the value is the `recommendation_code`."""

    COLLECT_MORE = "collect_more"
    CHECK_DATA = "check_data"
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
    rules: Rules,
    *,
    variant_a: str,
    variant_b: str,
    metric: str,
    lower_is_better: bool,
) -> Recommendation:
    """What the comparison advises.

    Effects: |d| below 0.2 is small, 0.2 to 0.5 medium, above 0.5 large (Cohen, 1988).
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
            text=f"No winner: {missing_values(comparison, variant_a, variant_b, metric)}",
            winner=None,
        )
    if not comparison.is_significant:
        return Recommendation(
            code=Advice.CONTINUE_TESTING,
            text=_no_difference(comparison, rules, metric),
            winner=None,
        )
    b_is_better = (comparison.contrast.difference > 0.0) != lower_is_better
    winner = variant_b if b_is_better else variant_a
    code = advice_for(comparison.cohens_d)
    verdict = _VERDICTS[code].format(winner=winner, metric=metric)
    return Recommendation(code=code, text=f"{verdict} ({_numbers(comparison)}).", winner=winner)


def missing_values(comparison: Comparison, variant_a: str, variant_b: str, metric: str) -> str:
    """How many values are missing and why that matters, in a sentence."""
    return (
        f"{comparison.missing_share_a:.1%} of the values of {metric} of {variant_a} and "
        f"{comparison.missing_share_b:.1%} of those of {variant_b} were not finite (at most "
        f"{MAX_MISSING_SHARE:.0%} may be). If they were the bad outcomes, the others flatter the "
        "variant: record what came of them, as a number."
    )


def advice_for(cohens_d: float) -> Advice:
    """The row of table 8.4 for a significant difference of this effect size."""
    size = abs(cohens_d)
    if size < SMALL_EFFECT:
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


def _too_few(comparison: Comparison, rules: Rules, variant_a: str, variant_b: str) -> str:
    text = (
        f"Not enough data yet: {variant_a} has {comparison.n_a} and {variant_b} "
        f"{comparison.n_b} of the {rules.min_samples} samples each needs"
    )
    if comparison.effective_n_a < comparison.n_a or comparison.effective_n_b < comparison.n_b:
        text += (
            f"; autocorrelated, they are worth {comparison.effective_n_a} and "
            f"{comparison.effective_n_b} independent ones"
        )
    return f"{text}."


def _no_difference(comparison: Comparison, rules: Rules, metric: str) -> str:
    alpha = alpha_of(rules.confidence_level)
    text = (
        f"No significant difference on {metric}: continue testing ({_numbers(comparison)}; "
        f"smallest difference found with 80 % chance {comparison.minimum_detectable_effect:.4g})."
    )
    if comparison.single_look.p_value < alpha:
        text += (
            f" A t-test looked at once would give p = {comparison.single_look.p_value:.4g}; "
            "it does not hold for a test that is looked at repeatedly or for dependent samples."
        )
    return text


def _numbers(comparison: Comparison) -> str:
    contrast = comparison.contrast
    parts = [f"means {contrast.mean_a:.4g} and {contrast.mean_b:.4g}"]
    if math.isfinite(comparison.relative_change):
        parts.append(f"{comparison.relative_change:+.2%}")
    if math.isfinite(comparison.cohens_d):
        parts.append(f"Cohen's d {comparison.cohens_d:.2f}")
    parts.append(f"always-valid p = {comparison.anytime.p_value:.4g}")
    parts.append(f"n = {comparison.n_a} and {comparison.n_b}")
    return ", ".join(parts)
