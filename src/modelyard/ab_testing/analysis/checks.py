"""What may keep a winner from being one: lopsided assignment, harmed guardrails, half a cycle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from modelyard.ab_testing.analysis.comparing import Comparison
from modelyard.ab_testing.metrics import Metric
from modelyard.stats.non_inferiority import NonInferiority, non_inferiority
from modelyard.stats.sample_ratio import SampleRatio, sample_ratio

# Over all looks together, one experiment in a hundred with a sound assignment is called lopsided.
SAMPLE_RATIO_ALPHA = 0.01

# Counts by variant and weight epoch.
Counts = Mapping[tuple[str, int], int]


@dataclass(frozen=True, kw_only=True)
class RatioCheck:
    """Whether the variants got the shares of the units that their weights say.

    Attributes:
        counted: What was counted: `assigned` users or requests, or those with an `outcome`.
        n_units: How many there are.
        counts: By variant.
        expected: By variant, from the weights in force at the time.
        result: P-values; None where nothing can be compared.
        n_shared: Units with outcomes of several variants, which count for the first.
        n_epochs: Periods of constant weights.
    """

    counted: str
    n_units: int
    counts: Mapping[str, int]
    expected: Mapping[str, float]
    result: SampleRatio | None
    n_shared: int = 0
    n_epochs: int = 1

    @property
    def is_mismatch(self) -> bool:
        """Whether so lopsided a split is no chance, however often one looks."""
        return self.result is not None and self.result.p_value_always_valid < SAMPLE_RATIO_ALPHA


def check_ratio(
    counts: Counts, weights: Sequence[Mapping[str, float]], *, counted: str, n_shared: int = 0
) -> RatioCheck:
    """Compare counts with the weights of their epochs.

    Args:
        counts: Units by variant and weight epoch.
        weights: Traffic shares of each epoch, 0 to 1.
        counted: What they are.
        n_shared: How many of them belong to several variants.
    """
    strata = []
    totals: dict[str, int] = {}
    expected: dict[str, float] = {}
    for epoch, shares in enumerate(weights):
        found = [counts.get((name, epoch), 0) for name in shares]
        n = sum(found)
        for name, count in zip(shares, found, strict=True):
            totals[name] = totals.get(name, 0) + count
            expected[name] = expected.get(name, 0.0) + n * shares[name]
        if n:
            strata.append((found, list(shares.values())))
    return RatioCheck(
        counted=counted,
        n_units=sum(totals.values()),
        counts=totals,
        expected=expected,
        result=sample_ratio(strata) if strata else None,
        n_shared=n_shared,
        n_epochs=len(weights),
    )


@dataclass(frozen=True, kw_only=True)
class GuardrailCheck:
    """Whether a variant is shown to be no worse than another on a guardrail.

    Attributes:
        metric: The guardrail.
        variant: Who is checked.
        other: Against whom.
        result: `passes`, `fails` or `undecided`, and how much worse it may be at most.
    """

    metric: Metric
    variant: str
    other: str
    result: NonInferiority


def check_guardrail(
    comparison: Comparison, metric: Metric, *, variant: str, other: str, lower_is_better: bool
) -> GuardrailCheck:
    """Whether `variant`, the treatment of the comparison, is no worse than `other` by the margin.

    Args:
        comparison: Of `other` (control) and `variant`, on the guardrail.
        metric: The guardrail; it has a margin.
        variant: Who is checked.
        other: Against whom.
        lower_is_better: Whether less of the metric is better.
    """
    result = non_inferiority(
        comparison.evidence.effective,
        margin=metric.margin or 0.0,
        lower_is_better=lower_is_better,
        critical=comparison.anytime.critical,
    )
    return GuardrailCheck(metric=metric, variant=variant, other=other, result=result)


def elapsed_s(first_at: str, last_at: str) -> float:
    """Seconds from the first outcome to the last; 0 without any."""
    if not first_at:
        return 0.0
    span = datetime.fromisoformat(last_at) - datetime.fromisoformat(first_at)
    return max(0.0, span.total_seconds())
