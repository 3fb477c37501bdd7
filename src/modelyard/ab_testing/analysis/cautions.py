"""What a reader of a comparison must know besides its numbers, in sentences."""

from modelyard.ab_testing.analysis.checks import RatioCheck
from modelyard.ab_testing.analysis.comparing import UNEVEN_P, Comparison
from modelyard.ab_testing.analysis.evidence import Evidence
from modelyard.ab_testing.analysis.recommendation import (
    incomplete,
    lopsided,
)
from modelyard.ab_testing.analysis.rules import VerdictRules
from modelyard.stats.proportions import proportions_test

_WARNED_CORRELATION = 0.5


def cautions(
    comparison: Comparison,
    *,
    variant_a: str,
    variant_b: str,
    ratio: RatioCheck | None,
    n_variants: int,
) -> list[str]:
    """What is worth a line in the log."""
    found = []
    evidence: Evidence = comparison.evidence
    metric = evidence.metric.name
    if not comparison.is_complete:
        found.append(incomplete(comparison, variant_a, variant_b, metric))
    if ratio is not None and ratio.is_mismatch:
        found.append(lopsided(ratio))
    found += _uneven(comparison, variant_a, variant_b)
    found += _following(evidence, metric)
    n_left_out = evidence.a.n + evidence.b.n - evidence.n_a - evidence.n_b
    if n_left_out:
        found.append(
            f"{n_left_out} values of {metric!r} were left out: recorded without "
            f"{evidence.metric.companion!r}."
        )
    if n_variants > 2 and comparison.is_significant:  # noqa: PLR2004 - more than one pair
        found.append(
            f"One of {n_variants * (n_variants - 1) // 2} comparisons of {n_variants} variants: "
            "the accepted chance of a false winner is that of this one alone. get_winner() and "
            "compare_all() count the others."
        )
    return found


def half_a_cycle(comparison: Comparison, rules: VerdictRules, elapsed_s: float) -> list[str]:
    """That a verdict came before a whole cycle was covered, if it did."""
    if not comparison.is_significant or elapsed_s >= rules.cycle_s:
        return []
    text = (
        f"The experiment has covered {_span(elapsed_s)} of a cycle of {_span(rules.cycle_s)}: "
        "what is to come may differ (weekends, month ends). Let it run for whole cycles; cycle_s "
        "says how long one is, 0 that there is none."
    )
    return [text]


def _uneven(comparison: Comparison, variant_a: str, variant_b: str) -> list[str]:
    """That outcomes of one variant have the metric more often, in some weight epoch."""
    for (n_a, of_a), (n_b, of_b) in comparison.evidence.presence:
        if proportions_test(n_a, of_a, n_b, of_b).p_value < UNEVEN_P:
            text = (
                f"{n_a / of_a:.1%} of the outcomes of {variant_a} and {n_b / of_b:.1%} of those "
                f"of {variant_b} have {comparison.evidence.metric.name!r}, which chance does not "
                "do. If the others would have been worse, the comparison flatters a variant: "
                "record it with every outcome."
            )
            return [text]
    return []


def _following(evidence: Evidence, metric: str) -> list[str]:
    """That values follow one another, where that decides what they are worth."""
    order = min(evidence.order_a, evidence.order_b, key=lambda side: side.share)
    correlation = order.correlation
    if correlation <= _WARNED_CORRELATION or (order.lag > 1 and evidence.is_by_unit):
        return []
    turns = f", as where {order.lag} streams take turns" if order.lag > 1 else ""
    text = (
        f"The values of {metric!r} follow one another (lag-{order.lag} autocorrelation "
        f"{correlation:.2f}{turns}), as overlapping windows do: each says little that is new, so "
        "the verdict counts them as fewer independent values. Record the returns themselves, not "
        "a rolling ratio of them."
    )
    return [text]


def _span(seconds: float) -> str:
    for name, length in (("days", 86_400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.3g} {name}"
    return f"{seconds:.2g} seconds"
