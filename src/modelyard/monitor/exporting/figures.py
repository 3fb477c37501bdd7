"""What a monitor tells other programs, at one moment."""

import bisect
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from modelyard._core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """How many values were at most each bound.

    Attributes:
        bounds: Ascending, finite.
        counts: Values at most each bound, and last of all values: one more than there are bounds.
        total: Sum of the values, in their unit.

    Raises:
        ConfigError: Bounds that do not ascend, or counts that fall or are of another number.
    """

    bounds: Sequence[float]
    counts: Sequence[int]
    total: float

    def __post_init__(self) -> None:
        is_ascending = all(a < b for a, b in itertools.pairwise(self.bounds))
        is_cumulative = all(a <= b for a, b in itertools.pairwise(self.counts))
        n_bounds, n_counts = len(self.bounds), len(self.counts)
        if not (is_ascending and all(map(math.isfinite, self.bounds))):
            raise ConfigError(f"bounds must ascend and be finite, got {list(self.bounds)}.")
        if not (is_cumulative and n_counts == n_bounds + 1 and self.counts[0] >= 0):
            raise ConfigError(
                f"counts must be cumulative, one for each of the {n_bounds} bounds and one of all "
                f"values; got {list(self.counts)}."
            )

    @classmethod
    def of(cls, values: Iterable[float], bounds: Sequence[float]) -> "Histogram":
        """The histogram of these values."""
        n_in_bucket, total = [0] * (len(bounds) + 1), 0.0
        for value in values:
            n_in_bucket[bisect.bisect_left(bounds, value)] += 1
            total += value
        return cls.from_buckets(bounds, n_in_bucket, total)

    @classmethod
    def from_buckets(
        cls, bounds: Sequence[float], n_in_bucket: Iterable[int], total: float
    ) -> "Histogram":
        """The histogram of counts that are not cumulative yet."""
        counts = list(itertools.accumulate(n_in_bucket))
        return cls(bounds=tuple(bounds), counts=counts, total=total)


@dataclass(frozen=True, kw_only=True)
class DriftFigures:
    """One verdict on drift.

    Attributes:
        score: In standard deviations of the baseline; None without enough data.
        effective_threshold: After calibration.
        is_drifted: The verdict.
        is_calibrated: Whether the threshold can be trusted.
    """

    score: float | None
    effective_threshold: float
    is_drifted: bool
    is_calibrated: bool


@dataclass(frozen=True, kw_only=True)
class Figures:
    """A monitor at one moment. What is not known is None or left out of its mapping.

    Attributes:
        model_name: Whose.
        n_predictions: Recorded so far.
        n_errors: Failed so far.
        latency_s: Latencies so far, bounds in seconds.
        latency_quantiles_s: Of the window, seconds by level (0.5, 0.95, 0.99).
        throughput_per_s: Predictions a second over the window.
        error_rate: Of the window, 0 to 1.
        drift: By kind, `prediction` and `feature`.
        active_alerts: How many, by name and severity.
        odd_values: How many so far, by kind.
        metrics: Mean of each business metric over its window, in its unit.
        versions: Predictions so far by version.
        failed_deliveries: Failed attempts so far to deliver an alert, by sink.
        waiting_deliveries: Alert events that wait for a sink, by sink.
        evaluation_age_s: Seconds since the last evaluation; None before the first.
    """

    model_name: str
    n_predictions: int
    n_errors: int
    latency_s: Histogram
    latency_quantiles_s: Mapping[float, float] = field(default_factory=dict)
    throughput_per_s: float | None = None
    error_rate: float | None = None
    drift: Mapping[str, DriftFigures] = field(default_factory=dict)
    active_alerts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    odd_values: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, int] = field(default_factory=dict)
    failed_deliveries: Mapping[str, int] = field(default_factory=dict)
    waiting_deliveries: Mapping[str, int] = field(default_factory=dict)
    evaluation_age_s: float | None = None
