"""The verdicts on one window: pure functions of the window, the baseline and the past."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelyard.monitor.alerting.alerts import DEFAULT_THRESHOLDS
from modelyard.monitor.drift.baseline import Baseline, Reference
from modelyard.monitor.drift.detection import DriftVerdict, detect_drift, scores_between
from modelyard.monitor.recording.windows import WindowData, WindowSummary

PREDICTION_DRIFT = "prediction_drift"
FEATURE_DRIFT = "feature_drift"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Verdicts, and what they were made from.

    Attributes:
        at: When, ISO 8601.
        monotonic_s: When, by the clock that never goes back.
        n_records: Predictions recorded by then.
        baseline: What was compared with.
        data: The window.
        drift: Verdicts under `prediction_drift` and `feature_drift`.
    """

    at: str
    monotonic_s: float
    n_records: int
    baseline: Baseline | None
    data: WindowData
    drift: Mapping[str, DriftVerdict]


def drift_verdicts(
    data: WindowData,
    baseline: Baseline | None,
    history: Sequence[WindowSummary],
    *,
    thresholds: Mapping[str, float | None],
    min_samples: int,
    window_size: int,
) -> dict[str, DriftVerdict]:
    """Whether predictions and features have drifted.

    Args:
        data: The current window.
        baseline: What is normal, if known.
        history: Full windows before it, oldest first; they show how far windows wander.
        thresholds: By name; one that is switched off is judged by its default.
        min_samples: Rows below which there is no verdict.
        window_size: Rows that the window can hold.
    """
    cases = {
        PREDICTION_DRIFT: (
            baseline.predictions if baseline else None,
            data.predictions,
            [window.predictions for window in history],
        ),
        FEATURE_DRIFT: (
            baseline.features if baseline else None,
            data.features,
            [window.features for window in history],
        ),
    }
    return {
        name: detect_drift(
            reference,
            rows,
            threshold=thresholds.get(name) or DEFAULT_THRESHOLDS[name],
            null_scores=_null_scores(reference, sketches),
            min_samples=min_samples,
            window_size=window_size,
        )
        for name, (reference, rows, sketches) in cases.items()
    }


def _null_scores(
    reference: Reference | None, sketches: Sequence[NDArray[np.float64]]
) -> Sequence[float]:
    if reference is None:
        return ()
    return reference.null_scores or scores_between(sketches, reference.std)
