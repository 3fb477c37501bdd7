"""Everything an alert rule can ask for, by name."""

from typing import Any

import numpy as np

from modelyard._core.plain import finite_or_none
from modelyard.monitor.drift.baseline import Baseline
from modelyard.monitor.drift.references import Reference
from modelyard.monitor.evaluation import Evaluation
from modelyard.monitor.outputs import (
    PredictionStats,
    drift_dict,
    latency_of,
    quantiles_of,
    throughput_of,
)
from modelyard.monitor.performance.report import PerformanceDict


def rule_figures(
    evaluation: Evaluation, performance: PerformanceDict, predictions: PredictionStats
) -> dict[str, Any]:
    """The summary's figures, those of the baseline under `baseline`, and the performance.

    Args:
        evaluation: Of now.
        performance: Of now.
        predictions: Of the window.
    """
    health, data = evaluation.data.health, evaluation.data
    return {
        "total_predictions": evaluation.n_records,
        "n_window": health.n_predictions,
        "latency": latency_of(health),
        "throughput_qps": throughput_of(data, now_s=evaluation.monotonic_s),
        "error_rate": finite_or_none(health.error_rate),
        "prediction": predictions,
        "metrics": health.to_plain()["metrics"],
        "drift": {
            name.removesuffix("_drift"): drift_dict(verdict)
            for name, verdict in evaluation.drift.items()
        },
        "odd_values": dict(evaluation.odd_counts),
        "versions": dict(evaluation.versions),
        "performance": performance,
        "baseline": _baseline_figures(evaluation.baseline),
    }


def _baseline_figures(baseline: Baseline | None) -> dict[str, Any]:
    if baseline is None:
        return {}
    figures: dict[str, Any] = {}
    if baseline.health is not None:
        figures |= {
            "latency": latency_of(baseline.health),
            "error_rate": finite_or_none(baseline.health.error_rate),
            "metrics": baseline.health.to_plain()["metrics"],
        }
    if baseline.predictions is not None:
        figures["prediction"] = _of_reference(baseline.predictions)
    return figures


def _of_reference(reference: Reference) -> dict[str, Any]:
    """The same figures as those of a window; all outputs together only where there is one.

    Categories have shares, and no mean.
    """
    is_number = [i not in reference.categories for i in range(reference.width)]
    means, stds = (
        [
            finite_or_none(one) if is_one else None
            for one, is_one in zip(ones, is_number, strict=True)
        ]
        for ones in (reference.sketch.mean(axis=1).tolist(), reference.std.tolist())
    )
    is_single = is_number == [True]
    return {
        "n": reference.n,
        "mean": means[0] if is_single else None,
        "std": stds[0] if is_single else None,
        "quantiles": quantiles_of(reference.sketch[0] if is_single else np.empty(0)),
        "per_output": {"mean": means, "std": stds},
    }
