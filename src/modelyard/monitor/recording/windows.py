"""The current window of a monitor, and the summaries of the windows before it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.monitor.drift.sketches import sketch_from_plain, sketch_of, sketch_to_plain
from modelyard.monitor.recording.health import Health, health_of
from modelyard.monitor.recording.rings import Rows, Series, as_rows

# Thirty years: longer ones are no latencies, and sums of them would overflow.
MAX_LATENCY_S = 1e9
# Levels of a past window's distribution that are kept.
SUMMARY_SKETCH_SIZE = 50


@dataclass(frozen=True, kw_only=True)
class WindowData:
    """A copy of the window at one moment.

    Attributes:
        health: Latency, errors and metrics.
        predictions: shape (n, outputs), oldest first.
        features: shape (n, features), oldest first.
        duration_s: Seconds from its first prediction to its last.
    """

    health: Health
    predictions: NDArray[np.float64]
    features: NDArray[np.float64]
    duration_s: float


@dataclass(frozen=True, kw_only=True)
class WindowSummary:
    """What is kept of a full window when the next one begins.

    Attributes:
        ended_at: When it was full, ISO 8601.
        health: Latency, errors and metrics.
        predictions: Quantiles of each output, shape (outputs, levels).
        features: Quantiles of each feature, shape (features, levels).
    """

    ended_at: str
    health: Health
    predictions: NDArray[np.float64]
    features: NDArray[np.float64]

    @classmethod
    def of(cls, data: WindowData, *, ended_at: str) -> "WindowSummary":
        """The summary of a window."""
        return cls(
            ended_at=ended_at,
            health=data.health,
            predictions=sketch_of(data.predictions, SUMMARY_SKETCH_SIZE),
            features=sketch_of(data.features, SUMMARY_SKETCH_SIZE),
        )

    def to_plain(self) -> dict[str, Any]:
        """All of it as plain values, quantiles to six digits."""
        return {
            "ended_at": self.ended_at,
            "health": self.health.to_plain(),
            "predictions": sketch_to_plain(self.predictions),
            "features": sketch_to_plain(self.features),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "WindowSummary":
        """The summary that `to_plain` described."""
        return cls(
            ended_at=plain["ended_at"],
            health=Health.from_plain(plain["health"]),
            predictions=sketch_from_plain(plain["predictions"]),
            features=sketch_from_plain(plain["features"]),
        )


@dataclass(kw_only=True)
class OddCounts:
    """How many records held something that could not be used as it was.

    Attributes:
        bad_latency: Latencies that were no number of seconds from 0 to a billion.
        missing_prediction: `None` for a prediction that was not an error.
        unreadable: Predictions or features that hold no numbers.
        non_finite_metrics: Metrics that were NaN or infinite.
    """

    bad_latency: int = 0
    missing_prediction: int = 0
    unreadable: int = 0
    non_finite_metrics: int = 0


class Window:
    """The last `size` predictions, latencies, errors, features and metrics.

    Not thread-safe: the monitor that owns it locks.

    Args:
        size: How many of each are kept.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.odd = OddCounts()
        self.predictions = Rows(size)
        self.features = Rows(size)
        self._latencies_s = Series(size)
        self._errors = Series(size)
        self._times_s = Series(size)
        self._metrics: dict[str, Series] = {}
        self._closed_at = (0, 0, 0)

    @property
    def n_records(self) -> int:
        """Calls of `record` so far."""
        return self._errors.n_added

    def record(
        self, prediction: Any, latency_s: Any, features: Any, *, error: bool, now_s: float
    ) -> None:
        """Take one prediction event; nothing in it can make this raise."""
        self._latencies_s.add(self._checked_latency(latency_s))
        self._errors.add(1.0 if error else 0.0)
        self._times_s.add(now_s)
        if prediction is not None:
            self._add_rows(self.predictions, prediction)
        elif not error:
            self.odd.missing_prediction += 1
        if features is not None:
            self._add_rows(self.features, features)

    def record_metric(self, name: str, value: float) -> None:
        """Take one value of a metric; one that is not finite is only counted."""
        if not math.isfinite(value):
            self.odd.non_finite_metrics += 1
            return
        series = self._metrics.get(name)
        if series is None:
            series = self._metrics[name] = Series(self.size)
        series.add(value)

    def n_usable(self) -> int:
        """Predictions, or rows of them if there are more, in the window."""
        return min(self.size, max(self._added()))

    def is_full(self) -> bool:
        """Whether a whole window has gone by since `close`."""
        records, predictions, features = self._closed_at
        return (
            self._errors.n_added - records >= self.size
            or self.predictions.n_added - predictions >= self.size
            or self.features.n_added - features >= self.size
        )

    def close(self) -> None:
        """Begin to count the next window; the last values stay."""
        self._closed_at = self._added()

    def health(self) -> Health:
        """Latency, errors and metrics of the window."""
        metrics = {name: series.values() for name, series in self._metrics.items()}
        return health_of(self._latencies_s.values(), self._errors.values(), metrics)

    def data(self) -> WindowData:
        """A copy of everything in the window."""
        times_s = self._times_s.values()
        return WindowData(
            health=self.health(),
            predictions=self.predictions.values(),
            features=self.features.values(),
            duration_s=float(times_s[-1] - times_s[0]) if len(times_s) else 0.0,
        )

    def odd_counts(self) -> dict[str, int]:
        """Everything odd so far, by kind."""
        return {
            "bad_latency": self.odd.bad_latency,
            "missing_prediction": self.odd.missing_prediction,
            "unreadable": self.odd.unreadable,
            "non_finite_metrics": self.odd.non_finite_metrics,
            "non_finite_predictions": self.predictions.n_non_finite,
            "non_finite_features": self.features.n_non_finite,
            "wrong_width_predictions": self.predictions.n_refused,
            "wrong_width_features": self.features.n_refused,
        }

    def _added(self) -> tuple[int, int, int]:
        return (self._errors.n_added, self.predictions.n_added, self.features.n_added)

    def _add_rows(self, ring: Rows, value: Any) -> None:
        rows = as_rows(value)
        if rows is None:
            self.odd.unreadable += 1
        else:
            ring.add(rows)

    def _checked_latency(self, latency_s: Any) -> float:
        try:
            value = float(latency_s)
        except Exception:  # noqa: BLE001 - whatever is handed in must not stop the caller's loop
            value = math.nan
        if not 0.0 <= value < MAX_LATENCY_S:
            self.odd.bad_latency += 1
            return math.nan
        return value
