"""Stage: the original against the compressed model, paired on held-out data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from modelyard._core.clock import Clock
from modelyard.ab_testing import ABTest, IntervalHistory, ModelVariant
from modelyard.pipeline.progress import Progress
from modelyard.pipeline.source import ModelSource
from modelyard.storage import Store


@dataclass(frozen=True, kw_only=True, eq=False)
class ExperimentOutcome:
    """What the comparison found.

    Attributes:
        names: The two variants, the original first.
        metric: What was compared.
        unit: What a unit is.
        comparison: As `ABTest.compare_variants` gives it.
        winner: Name of the winner, or None.
        history: The difference and its interval over the units, for the plot.
    """

    names: tuple[str, str]
    metric: str
    unit: str
    comparison: Mapping[str, Any]
    winner: str | None
    history: IntervalHistory


def compare_paired(
    source: ModelSource,
    compressed: nn.Module,
    progress: Progress,
    *,
    test_name: str,
    store: Store | None,
    clock: Clock,
    confidence_level: float,
    min_samples: int,
) -> ExperimentOutcome:
    """Both models on the same units: what differs is the models and nothing else.

    Args:
        source: The original and its units.
        compressed: The other model.
        progress: Gets the verdict as a line.
        test_name: Under which it is stored.
        store: Where results are kept.
        clock: Where the time comes from.
        confidence_level: Of the always-valid interval.
        min_samples: Units before there is a winner.
    """
    original, other = f"{source.name}_original", f"{source.name}_compressed"
    test = ABTest(
        test_name,
        [ModelVariant(original, source.model, 0.5), ModelVariant(other, compressed, 0.5)],
        primary_metric=source.unit_metric,
        min_samples=min_samples,
        confidence_level=confidence_level,
        paired=True,
        store=store,
        clock=clock,
        lower_is_better=(source.unit_metric,) if source.is_lower_better else (),
    )
    scores = zip(source.unit_scores(source.model), source.unit_scores(compressed), strict=True)
    for a, b in scores:
        test.record_paired(
            {original: {source.unit_metric: float(a)}, other: {source.unit_metric: float(b)}}
        )
    test.flush()
    comparison = test.compare_variants(original, other)
    outcome = ExperimentOutcome(
        names=(original, other),
        metric=source.unit_metric,
        unit=source.unit,
        comparison=comparison,
        winner=test.get_winner(),
        history=test.interval_history(original, other),
    )
    test.stop_test()
    progress.line(comparison["result"]["recommendation"])
    return outcome
