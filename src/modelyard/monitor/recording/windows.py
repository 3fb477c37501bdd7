"""The current window of a monitor."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.monitor.recording.blocks import BlockMeans, Blocks
from modelyard.monitor.recording.buckets import LatencyBuckets
from modelyard.monitor.recording.health import Health, health_of
from modelyard.monitor.recording.labels import Labels
from modelyard.monitor.recording.rings import Events, Rows, Series, as_rows

# Thirty years: longer ones are no latencies, and sums of them would overflow.
MAX_LATENCY_S = 1e9
_MS_PER_S = 1000.0


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowData:
    """A copy of the window at one moment.

    Attributes:
        health: Latency, errors and metrics.
        predictions: shape (n, outputs), oldest first.
        features: shape (n, features), oldest first.
        duration_s: Seconds from its first prediction to its last.
        latencies_s: shape (n,), oldest first; NaN where there was none that could be used.
        errors: shape (n,), 1 where a prediction failed, else 0.
        metrics: The last values of each metric.
    """

    health: Health
    predictions: NDArray[np.float64]
    features: NDArray[np.float64]
    duration_s: float
    latencies_s: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    errors: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    metrics: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def without_newest(self, n: int) -> "WindowData":
        """The window as it was `n` predictions ago, less what was older then.

        Rows of outputs and features go in the same proportion; metrics stay as they are.
        """
        n_records = len(self.errors)
        share = min(n, n_records) / max(n_records, 1)
        errors, latencies_s = self.errors[: n_records - n], self.latencies_s[: n_records - n]
        predictions, features = (
            rows[: len(rows) - math.ceil(share * len(rows))]
            for rows in (self.predictions, self.features)
        )
        return WindowData(
            health=health_of(latencies_s, errors, self.metrics),
            predictions=predictions,
            features=features,
            duration_s=self.duration_s * (1.0 - share),
            latencies_s=latencies_s,
            errors=errors,
            metrics=self.metrics,
        )


@dataclass(kw_only=True)
class OddCounts:
    """How many records held something that could not be used as it was.

    Attributes:
        bad_latency: Latencies that were no number of seconds from 0 to a billion.
        missing_prediction: `None` for a prediction that was not an error.
        unreadable: Predictions or features that hold no numbers.
        unknown_features: Features by a name that was not there before.
        non_finite_metrics: Metrics that were NaN or infinite.
    """

    bad_latency: int = 0
    missing_prediction: int = 0
    unreadable: int = 0
    unknown_features: int = 0
    non_finite_metrics: int = 0


class Window:
    """The last `size` predictions, latencies, errors, features and metrics.

    Not thread-safe: the monitor that owns it locks.

    Args:
        size: How many of each are kept.
        n_kept: How many narrow predictions are kept, to be joined with late outcomes.
        block_size: Predictions of a block.
        feature_names: In which order features come that are given by name; by default that of the
            first ones.
    """

    def __init__(
        self,
        size: int,
        *,
        n_kept: int | None = None,
        block_size: int = 100,
        feature_names: tuple[str, ...] = (),
    ) -> None:
        self.size = size
        self.odd = OddCounts()
        self.predictions = Rows(size, kept=n_kept)
        self.features = Rows(size)
        self.prediction_labels, self.feature_labels = Labels(), Labels()
        self.feature_names = feature_names
        self.versions: dict[str, int] = {}
        self.n_errors = 0
        self.buckets = LatencyBuckets()
        self.blocks = Blocks(min(1000, max(20, 20 * size // block_size)))
        self.metrics: dict[str, Series] = {}
        self._block_size = block_size
        self._events = Events(size)
        self._closed_at = (0, 0, 0)
        self._metrics_closed_at: dict[str, int] = {}
        self._blocked_at = (0, 0, 0)
        self._health: tuple[tuple[int, ...], Health] | None = None

    @property
    def n_records(self) -> int:
        """Predictions so far."""
        return self._events.n_added

    def record(
        self, prediction: Any, latency_s: Any, features: Any, *, error: bool, now_s: float
    ) -> None:
        """Take one prediction; nothing in it can make this raise."""
        self._events.add(self._checked_latency(latency_s), error=error, time_s=now_s)
        if error:
            self.n_errors += 1
        if prediction is not None:
            self._add_rows(self.predictions, prediction, self.prediction_labels)
        elif not error:
            self.odd.missing_prediction += 1
        # An array of floats needs no looking at: the common case, at a third of the cost.
        if type(features) is np.ndarray and features.dtype.kind == "f" and features.ndim == 1:
            self.features.add(features)
        elif features is not None:
            self._add_features(features)

    def record_batch(
        self,
        predictions: Any,
        latencies_s: NDArray[np.float64],
        features: Any,
        *,
        errors: NDArray[np.float64],
        now_s: float,
    ) -> None:
        """Take several predictions, one in each row."""
        usable = (latencies_s >= 0.0) & (latencies_s < MAX_LATENCY_S)
        self.odd.bad_latency += int((~usable).sum())
        self._events.extend(
            np.where(usable, latencies_s, math.nan), errors, np.full(len(errors), now_s)
        )
        self.n_errors += int(errors.sum())
        self._add_rows(self.predictions, predictions, self.prediction_labels)
        if features is not None:
            self._add_features(features)

    def record_metric(self, name: str, value: float) -> None:
        """Take one value of a metric; one that is not finite is only counted."""
        if not math.isfinite(value):
            self.odd.non_finite_metrics += 1
            return
        self.series_of(name).add(value)

    def records(
        self, *, newest: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Latencies, errors and times of the newest predictions, oldest first."""
        return (
            self._events.latencies_s(newest=newest),
            self._events.errors(newest=newest),
            self._events.times_s(newest=newest),
        )

    def add_records(
        self,
        latencies_s: NDArray[np.float64],
        errors: NDArray[np.float64],
        times_s: NDArray[np.float64],
        *,
        n: int,
    ) -> None:
        """Take predictions that were recorded elsewhere, oldest first.

        Args:
            latencies_s: Seconds, NaN where unknown.
            errors: 1 where one failed, else 0.
            times_s: In the time of `record`.
            n: How many there were; of more than are given, the newest are.
        """
        self._events.extend(latencies_s, errors, times_s, n_gone=n - len(errors))
        self.n_errors += int(errors.sum())

    def series_of(self, name: str) -> Series:
        """The last values of a metric, an empty series if there was none."""
        series = self.metrics.get(name)
        if series is None:
            series = self.metrics[name] = Series(self.size)
        return series

    def n_usable(self) -> int:
        """Predictions, or rows of them if there are more, in the window."""
        return min(self.size, max(self._added()))

    def is_anything_full(self) -> bool:
        """Whether the block or the window is full."""
        n = self._events.n_added
        records, predictions, features = self._closed_at
        return (
            n - self._blocked_at[0] >= self._block_size
            or n - records >= self.size
            or self.predictions.n_added - predictions >= self.size
            or self.features.n_added - features >= self.size
        )

    def is_full(self) -> bool:
        """Whether a whole window has gone by since `close`."""
        records, predictions, features = self._closed_at
        return (
            self._events.n_added - records >= self.size
            or self.predictions.n_added - predictions >= self.size
            or self.features.n_added - features >= self.size
        )

    def close(self) -> None:
        """Begin to count the next window; the last values stay."""
        self._closed_at = self._added()
        self._metrics_closed_at = {name: one.n_added for name, one in self.metrics.items()}

    def begin(self) -> None:
        """Count windows and blocks from here on."""
        self._closed_at = self._blocked_at = self._added()
        self.buckets.add(self._events.latencies_s())

    def is_block_full(self) -> bool:
        """Whether a block has gone by since `close_block`."""
        return self._events.n_added - self._blocked_at[0] >= self._block_size

    def close_block(self, *, at: float) -> None:
        """Take the means of what came since the last block, and count its latencies.

        Args:
            at: Unix time.
        """
        records, predictions, features = (
            now - then for now, then in zip(self._added(), self._blocked_at, strict=True)
        )
        latencies_s = self._events.latencies_s(newest=records)
        self.buckets.add(latencies_s)
        rows = {
            "latency_ms": latencies_s * _MS_PER_S,
            "error_rate": self._events.errors(newest=records),
        }
        if predictions:
            rows["prediction"] = self.predictions.look(newest=predictions)
        if features:
            rows["feature"] = self.features.look(newest=features)
        self.blocks.add(at, self.n_records, rows)
        self._blocked_at = self._added()

    def latency_counts(self) -> tuple[list[int], float]:
        """Cumulative counts by bucket, and seconds in all, up to now."""
        rest = LatencyBuckets()
        n_open = self.n_records - self._blocked_at[0]
        if n_open:
            rest.add(self._events.latencies_s(newest=n_open))
        counts = zip(self.buckets.cumulative(), rest.cumulative(), strict=True)
        return [a + b for a, b in counts], self.buckets.sum_s + rest.sum_s

    def block_means(self) -> BlockMeans:
        """Means of the last blocks."""
        return self.blocks.values()

    def health(self) -> Health:
        """Latency, errors and metrics of the window."""
        counts = (self.n_records, *(series.n_added for series in self.metrics.values()))
        if self._health is None or self._health[0] != counts:
            metrics = {name: series.values() for name, series in self.metrics.items()}
            health = health_of(self._events.latencies_s(), self._events.errors(), metrics)
            self._health = (counts, health)
        return self._health[1]

    def data(self) -> WindowData:
        """A copy of everything in the window."""
        times_s = self._events.times_s()
        return WindowData(
            health=self.health(),
            predictions=self.predictions.values(),
            features=self.features.values(),
            duration_s=float(times_s[-1] - times_s[0]) if len(times_s) else 0.0,
            latencies_s=self._events.latencies_s(),
            errors=self._events.errors(),
            metrics={name: series.values() for name, series in self.metrics.items()},
        )

    def data_of_full(self) -> WindowData:
        """The window as `data`, its metrics only those that came since the last one was full."""
        metrics = {
            name: series.values(newest=series.n_added - self._metrics_closed_at.get(name, 0))
            for name, series in self.metrics.items()
        }
        metrics = {name: values for name, values in metrics.items() if len(values)}
        data = self.data()
        health = health_of(data.latencies_s, data.errors, metrics)
        return replace(data, health=health, metrics=metrics)

    def odd_counts(self) -> dict[str, int]:
        """Everything odd so far, by kind."""
        return {
            "bad_latency": self.odd.bad_latency,
            "missing_prediction": self.odd.missing_prediction,
            "unreadable": self.odd.unreadable,
            "unknown_features": self.odd.unknown_features,
            "non_finite_metrics": self.odd.non_finite_metrics,
            "non_finite_predictions": self.predictions.n_non_finite,
            "non_finite_features": self.features.n_non_finite,
            "wrong_width_predictions": self.predictions.n_refused,
            "wrong_width_features": self.features.n_refused,
        }

    def _added(self) -> tuple[int, int, int]:
        return (self._events.n_added, self.predictions.n_added, self.features.n_added)

    def _add_rows(self, ring: Rows, value: Any, labels: Labels) -> None:
        rows = as_rows(value, labels)
        if rows is None:
            self.odd.unreadable += 1
        else:
            ring.add(rows)

    def _add_features(self, features: Any) -> None:
        if isinstance(features, Mapping):
            features = self._in_order(features)
        self._add_rows(self.features, features, self.feature_labels)

    def _in_order(self, features: Mapping[str, Any]) -> list[Any]:
        """Features by name as a row; one that is missing is None."""
        if not self.feature_names:
            self.feature_names = tuple(str(name) for name in features)
        values = [features.get(name) for name in self.feature_names]
        if len(features) - sum(name in features for name in self.feature_names):
            self.odd.unknown_features += 1
        return values

    def _checked_latency(self, latency_s: Any) -> float:
        try:
            value = float(latency_s)
        except Exception:  # noqa: BLE001 - whatever is handed in must not stop the caller's loop
            value = math.nan
        if not 0.0 <= value < MAX_LATENCY_S:
            self.odd.bad_latency += 1
            return math.nan
        return value
