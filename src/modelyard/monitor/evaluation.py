"""Verdicts, and what they were made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

from modelyard.monitor.changes import ChangeDict
from modelyard.monitor.drift.baseline import Baseline
from modelyard.monitor.drift.detection import DriftVerdict
from modelyard.monitor.drift.verdicts import FEATURE_DRIFT, PREDICTION_DRIFT, Past
from modelyard.monitor.outputs import (
    PredictionStats,
    class_shares,
    class_stats,
    prediction_stats,
)
from modelyard.monitor.recording.data import WindowData

# Which stream's change of the mean an alert of this name comes from.
_STREAMS = {
    PREDICTION_DRIFT: "prediction",
    FEATURE_DRIFT: "feature",
    "latency_p99_ms": "latency_ms",
    "error_rate": "error_rate",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Verdicts, and what they were made from.

    Attributes:
        at: When, UTC.
        monotonic_s: When, by the clock that never goes back.
        n_records: Predictions recorded by then.
        baseline: What was compared with.
        data: The window.
        past: The full windows before it.
        odd_counts: What could not be used in this window and the one before, by kind.
        versions: Predictions so far by the version that answered.
        drift: Verdicts under `prediction_drift` and `feature_drift`.
        changes: When streams began to change.
    """

    at: datetime
    monotonic_s: float
    n_records: int
    baseline: Baseline | None
    data: WindowData
    past: Past
    odd_counts: Mapping[str, int]
    versions: Mapping[str, int]
    drift: Mapping[str, DriftVerdict]
    changes: Sequence[ChangeDict]

    @cached_property
    def prediction_stats(self) -> PredictionStats:
        """Of the window's predictions as numbers; worked out once."""
        return prediction_stats(self.data.predictions)

    def class_stats(self, labels: Mapping[float, str]) -> PredictionStats:
        """Of the window's predictions as classes.

        Args:
            labels: Of classes that are text, by code.
        """
        n_outputs = self.data.predictions.shape[1]
        return class_stats(
            self._class_shares, labels, n=len(self.data.predictions), n_outputs=n_outputs
        )

    @cached_property
    def _class_shares(self) -> Mapping[float, float]:
        return class_shares(self.data.predictions)

    def of(self, data: WindowData, drift: Mapping[str, DriftVerdict]) -> "Evaluation":
        """The same with another window and its verdicts."""
        return replace(self, data=data, drift=drift)

    def began_at(self) -> dict[str, str]:
        """When what an alert of a name tells began to change, ISO 8601, as far as known."""
        first: dict[str, str] = {}
        for change in self.changes:  # oldest first
            first.setdefault(change["stream"], change["began_at"])
        return {name: first[stream] for name, stream in _STREAMS.items() if stream in first}
