"""The current window of a monitor."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.monitor.recording.blocks import BlockMeans, Blocks
from modelyard.monitor.recording.buckets import LatencyBuckets
from modelyard.monitor.recording.data import WindowData
from modelyard.monitor.recording.health import Health, health_of
from modelyard.monitor.recording.outcomes import Outcomes
from modelyard.monitor.recording.partners import Partners
from modelyard.monitor.recording.reading import MAX_LATENCY_S, Reader, Reading
from modelyard.monitor.recording.requests import NO_PREDICTION, OpenRequests
from modelyard.monitor.recording.rings import Events, Rows, Series, finite_means

_MS_PER_S = 1000.0


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
        self.reader = Reader(feature_names)
        self.predictions = Rows(size, kept=n_kept, labels=self.reader.prediction_labels)
        self.features = Rows(size, labels=self.reader.feature_labels)
        self.versions: dict[str, int] = {}
        self.n_errors = 0
        self.buckets = LatencyBuckets()
        self.blocks = Blocks(min(1000, max(20, 20 * size // block_size)))
        self.metrics: dict[str, Series] = {}
        self.requests = OpenRequests(n_kept or size)
        self.outcomes = Outcomes(size)
        self._block_size = block_size
        self._events = Events(size)
        self._closed_at = (0, 0, 0)
        self._metrics_closed_at: dict[str, int] = {}
        self._blocked_at = 0  # how many predictions there were when the last block ended
        self._set_full_at()
        self._counted_at = 0
        self._partners = Partners(size)
        # How many predictions there were when the last row of outputs and of features came.
        self._predictions_at = self._features_at = 0
        self._health: tuple[tuple[int, ...], Health] | None = None

    @property
    def n_records(self) -> int:
        """Predictions so far."""
        return self._events.n_added

    def record(self, reading: Reading, *, error: bool, now_s: float) -> int:
        """Take one prediction that was read.

        Returns:
            Where its answer is in the ring of predictions; -1 if it has none.
        """
        rows, latency_s, columns, is_silent, is_bare, is_unknown = reading
        if latency_s != latency_s:  # noqa: PLR0124 - NaN, at half the cost of asking for it
            self.odd.bad_latency += 1
        n_records = self._events.add(latency_s, error=error, time_s=now_s)
        if error:
            self.n_errors += 1
        predictions = self.predictions
        position = predictions.n_added
        if rows is not None:
            predictions.add(rows)
            self._predictions_at = n_records
        elif not (is_silent and error):
            self._miss_prediction(is_silent=is_silent)
        n_answers = predictions.n_added - position
        if columns is not None:
            self._add_features(columns, position, n_answers=n_answers)
        elif not is_bare:
            self._miss_features()
        if is_unknown:
            self.odd.unknown_features += 1
        return position if n_answers else NO_PREDICTION

    def record_batch(
        self,
        tables: tuple[list[NDArray[Any] | None], ...],
        latencies_s: NDArray[np.float64],
        *,
        errors: NDArray[np.float64],
        now_s: float,
    ) -> None:
        """Take several predictions, one in each row.

        Args:
            tables: Rows of outputs and of features, as `Reader.tables` gives them.
            latencies_s: Seconds, shape (n,).
            errors: 1 where one failed, shape (n,).
            now_s: When, by the monotonic clock.
        """
        self.count_latencies()
        usable = (latencies_s >= 0.0) & (latencies_s < MAX_LATENCY_S)
        self.odd.bad_latency += int((~usable).sum())
        known_s = np.where(usable, latencies_s, math.nan)
        # They came since the last prediction, one after another.
        before = self._events.times_s(newest=1)
        times_s = np.linspace(before[0] if len(before) else now_s, now_s, len(errors) + 1)[1:]
        self.add_records(known_s, errors, times_s, n=len(errors))
        self.buckets.add(known_s)
        self._counted_at = self.n_records
        position = self.predictions.n_added
        for rows in tables[0]:
            if rows is None:
                self._miss_prediction(is_silent=False)
            else:
                self.predictions.add(rows)
                self._predictions_at = self.n_records
        for columns in tables[1]:
            if columns is None:
                self._miss_features()
            else:
                n_answers = self.predictions.n_added - position
                self._add_features(columns, position, n_answers=n_answers)
            position += 1 if columns is None or columns.ndim == 1 else len(columns)

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
        self.count_latencies()
        self._events.extend(latencies_s, errors, times_s, n_gone=n - len(errors))
        self.n_errors += int(errors.sum())

    def add_rows(
        self, predictions: NDArray[np.float64] | None, features: NDArray[np.float64] | None
    ) -> None:
        """Take rows that were recorded elsewhere; which go together is not known of them."""
        if predictions is not None:
            self.predictions.add(predictions)
            self._predictions_at = self.n_records
        if features is not None:
            self._partners.add(self.features.n_added, None)
            self.features.add(features)
            self._features_at = self.n_records

    def series_of(self, name: str) -> Series:
        """The last values of a metric, an empty series if there was none."""
        series = self.metrics.get(name)
        if series is None:
            series = self.metrics[name] = Series(self.size)
        return series

    def n_usable(self) -> int:
        """Predictions, or rows of them if there are more, in the window."""
        _, predictions, features = self._added()
        return min(self.size, max(self._events.n_known, predictions, features))

    def is_anything_full(self) -> bool:
        """Whether the block or the window is full."""
        records, predictions, features = self._full_at
        return (
            self._events.n_added >= records
            or self.predictions.n_added >= predictions
            or self.features.n_added >= features
        )

    def _set_full_at(self) -> None:
        """Work out once, not at every prediction, at which counts something is full."""
        records, predictions, features = (n + self.size for n in self._closed_at)
        block = self._blocked_at + self._block_size
        self._full_at = (min(block, records), predictions, features)

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
        self.count_latencies()
        self._closed_at = self._added()
        self._set_full_at()
        self._metrics_closed_at = {name: one.n_added for name, one in self.metrics.items()}

    def begin(self) -> None:
        """Count windows and blocks from here on."""
        self._closed_at, self._blocked_at = self._added(), self.n_records
        self.predictions.take_means()
        self.features.take_means()
        self._set_full_at()
        self.count_latencies()

    def is_block_full(self) -> bool:
        """Whether a block has gone by since `close_block`."""
        return self._events.n_added - self._blocked_at >= self._block_size

    def close_block(self, *, at: float) -> None:
        """Take the means of what came since the last block.

        Args:
            at: Unix time.
        """
        n = self.n_records - self._blocked_at
        latencies_s = self._events.latencies_s(newest=n)
        means = {
            "latency_ms": finite_means(latencies_s[:, None] * _MS_PER_S),
            "error_rate": finite_means(self._events.errors(newest=n)[:, None]),
        }
        for name, rows in (("prediction", self.predictions), ("feature", self.features)):
            found = rows.take_means()
            if found is not None:
                means[name] = found
        self.blocks.add(at, self.n_records, means)
        self._blocked_at = self.n_records
        self._set_full_at()

    def latency_counts(self) -> tuple[list[int], float]:
        """Cumulative counts by bucket, and seconds in all, up to now."""
        self.count_latencies()
        return self.buckets.cumulative(), self.buckets.sum_s

    def count_latencies(self) -> None:
        """Count those that are not counted yet, while they are still here."""
        n_new = self.n_records - self._counted_at
        if n_new:
            self.buckets.add(self._events.latencies_s(newest=n_new))
            self._counted_at = self.n_records

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
            predictions=self.predictions.numbers(),
            features=self.features.numbers(),
            duration_s=float(times_s[-1] - times_s[0]) if len(times_s) else 0.0,
            latencies_s=self._events.latencies_s(),
            errors=self._events.errors(),
            partners=self._partners.values(self.features.n_added) - self.predictions.first,
            last_s=float(times_s[-1]) if len(times_s) else None,
            n_since={
                "prediction": self.n_records - self._predictions_at,
                "feature": self.n_records - self._features_at,
            },
            metrics={name: series.values() for name, series in self.metrics.items()},
        )

    def data_of_full(self) -> WindowData:
        """The window as `data`, its metrics only those that came since the last one was full."""
        metrics = {
            name: series.values(newest=series.n_added - self._metrics_closed_at.get(name, 0))
            for name, series in self.metrics.items()
        }
        metrics = {name: values for name, values in metrics.items() if len(values)}
        return replace(self.data(), metrics=metrics)

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

    def _add_features(self, columns: NDArray[Any], position: int, *, n_answers: int) -> None:
        """Take rows of features, and note which of the newest answers each goes with."""
        features = self.features
        before = features.n_added
        features.add(columns)
        self._features_at = self._events.n_added
        n = features.n_added - before
        if n:
            self._partners.add(before, position if n_answers >= n else None)

    def _miss_prediction(self, *, is_silent: bool) -> None:
        self.predictions.add_missing()
        if is_silent:
            self.odd.missing_prediction += 1
        else:
            self.odd.unreadable += 1

    def _miss_features(self) -> None:
        self.odd.unreadable += 1
        before = self.features.n_added
        if self.features.add_missing():
            self._partners.add(before, None)
