"""How a monitor judges."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelyard.monitor.alerting.rules import AlertRule
from modelyard.monitor.drift.detection import DriftRule
from modelyard.monitor.performance.kinds import PredictionKind


@dataclass(frozen=True, kw_only=True)
class MonitorSettings:
    """How a monitor judges.

    Attributes:
        thresholds: The four by name; None switches one off.
        rules: Further ones.
        drift: How drift is judged, under `prediction_drift` and `feature_drift`.
        kind: What predictions are; None to find out.
        categorical_features: Names or positions.
        output_names: For the reports.
        return_metrics: Metrics that are returns.
        periods_per_year: For annualising Sharpe ratios.
        refresh_every: Full windows after which a calm one becomes the baseline; None for never.
        is_sync: Whether what is recorded is stored before the call returns.
    """

    thresholds: Mapping[str, float | None]
    rules: Sequence[AlertRule]
    drift: Mapping[str, DriftRule]
    kind: PredictionKind | None
    categorical_features: frozenset[str | int]
    output_names: tuple[str, ...]
    return_metrics: frozenset[str]
    periods_per_year: float
    refresh_every: int | None
    is_sync: bool
