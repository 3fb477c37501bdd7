"""The verdicts on one window: pure functions of the window, the baseline and the past."""

from collections.abc import Mapping
from dataclasses import dataclass

from modelyard.monitor.drift.baseline import Baseline
from modelyard.monitor.drift.detection import DriftRule, DriftVerdict, detect_drift
from modelyard.monitor.drift.past import PastSketches
from modelyard.monitor.recording.data import WindowData

PREDICTION_DRIFT = "prediction_drift"
FEATURE_DRIFT = "feature_drift"


@dataclass(frozen=True, kw_only=True, eq=False)
class Past:
    """The full windows before the current one."""

    predictions: PastSketches
    features: PastSketches


def drift_verdicts(
    data: WindowData, baseline: Baseline | None, past: Past, rules: Mapping[str, DriftRule]
) -> dict[str, DriftVerdict]:
    """Whether predictions and features have drifted.

    Args:
        data: The current window.
        baseline: What is normal, if known.
        past: Full windows before it; they show how far windows wander.
        rules: How to judge, under `prediction_drift` and `feature_drift`.
    """
    predictions, features = (baseline.predictions, baseline.features) if baseline else (None, None)
    return {
        PREDICTION_DRIFT: detect_drift(
            predictions,
            data.predictions,
            past.predictions,
            rules[PREDICTION_DRIFT],
            n_since=data.n_since.get("prediction", 0),
        ),
        FEATURE_DRIFT: detect_drift(
            features,
            data.features,
            past.features,
            rules[FEATURE_DRIFT],
            n_since=data.n_since.get("feature", 0),
        ),
    }
