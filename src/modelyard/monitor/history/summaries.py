"""What is kept of full windows, and of several put together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard._core.plain import finite_or_none
from modelyard.monitor.drift.sketches import array_from_plain, array_to_plain, sketch_of
from modelyard.monitor.recording.health import Health, MetricWindow
from modelyard.monitor.recording.windows import WindowData
from modelyard.stats.histogram import LogHistogram
from modelyard.stats.moments import Moments, merge_all

# Levels of a past window's distribution that are kept.
SKETCH_SIZE = 64
WINDOW, HOUR, DAY = "window", "hour", "day"
_MS_PER_S = 1000.0
_LEVELS = (0.5, 0.95, 0.99)


@dataclass(frozen=True, kw_only=True)
class DriftSummary:
    """What the verdicts on one kind of drift were.

    Attributes:
        score: The largest; None where there was none.
        threshold: That went with it.
        n_drifted: Windows that had drifted.
        is_calibrated: Whether the limits could be trusted in all of them.
    """

    score: float | None
    threshold: float
    n_drifted: int
    is_calibrated: bool

    def to_plain(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "score": finite_or_none(self.score),
            "threshold": self.threshold,
            "n_drifted": self.n_drifted,
            "is_calibrated": self.is_calibrated,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "DriftSummary":
        """The one that `to_plain` described."""
        return cls(**plain)


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowSummary:
    """What is kept of a full window when the next one begins, or of several of them.

    Attributes:
        started_at: When it began, ISO 8601.
        ended_at: When it was full, ISO 8601.
        span: `window`, or `hour` or `day` where windows were put together.
        n_windows: How many.
        health: Latency, errors and metrics.
        latency: Seconds by bucket; None of windows from before they were kept.
        duration_s: Seconds from the first prediction to the last.
        outputs: Count, mean and spread of each output.
        drift: Verdicts under `prediction` and `feature`, as far as there were any.
        predictions: Quantiles of each output, shape (outputs, levels); None where not kept.
        features: The same for features.
    """

    started_at: str
    ended_at: str
    health: Health
    span: str = WINDOW
    n_windows: int = 1
    latency: LogHistogram | None = None
    duration_s: float = 0.0
    outputs: Sequence[Moments] = ()
    drift: Mapping[str, DriftSummary] = field(default_factory=dict)
    predictions: NDArray[np.float64] | None = None
    features: NDArray[np.float64] | None = None

    @classmethod
    def of(
        cls,
        data: WindowData,
        *,
        started_at: str,
        ended_at: str,
        drift: Mapping[str, DriftSummary],
    ) -> "WindowSummary":
        """The summary of a window."""
        latency = LogHistogram()
        latency.add(data.latencies_s[np.isfinite(data.latencies_s)])
        return cls(
            started_at=started_at,
            ended_at=ended_at,
            health=data.health,
            latency=latency,
            duration_s=data.duration_s,
            outputs=[_moments_of(column) for column in data.predictions.T],
            drift=dict(drift),
            predictions=sketch_of(data.predictions, SKETCH_SIZE),
            features=sketch_of(data.features, SKETCH_SIZE),
        )

    def without_sketches(self) -> "WindowSummary":
        """The same without its distributions."""
        return replace(self, predictions=None, features=None)

    def to_plain(self) -> dict[str, Any]:
        """All of it as plain values, but for the distributions."""
        return {
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "span": self.span,
            "n_windows": self.n_windows,
            "health": self.health.to_plain(),
            "latency": None if self.latency is None else self.latency.to_plain(),
            "duration_s": self.duration_s,
            "outputs": [[one.n, one.mean, one.m2] for one in self.outputs],
            "drift": {name: one.to_plain() for name, one in self.drift.items()},
        }

    def sketches_to_plain(self) -> dict[str, Any] | None:
        """The distributions as plain values; None where they are not kept."""
        if self.predictions is None or self.features is None:
            return None
        return {
            "predictions": array_to_plain(self.predictions),
            "features": array_to_plain(self.features),
        }

    @classmethod
    def from_plain(
        cls, plain: Mapping[str, Any], sketches: Mapping[str, Any] | None = None
    ) -> "WindowSummary":
        """The summary that `to_plain` and `sketches_to_plain` described.

        One from before version 0.2 held its distributions itself, and less of the rest.
        """
        given = sketches or (plain if "predictions" in plain else None)
        latency = plain.get("latency")
        return cls(
            started_at=plain.get("started_at", plain["ended_at"]),
            ended_at=plain["ended_at"],
            span=plain.get("span", WINDOW),
            n_windows=plain.get("n_windows", 1),
            health=Health.from_plain(plain["health"]),
            latency=None if latency is None else LogHistogram.from_plain(latency),
            duration_s=plain.get("duration_s", 0.0),
            outputs=[Moments(n, mean, m2) for n, mean, m2 in plain.get("outputs", ())],
            drift={
                name: DriftSummary.from_plain(one) for name, one in plain.get("drift", {}).items()
            },
            predictions=None if given is None else array_from_plain(given["predictions"]),
            features=None if given is None else array_from_plain(given["features"]),
        )

    def figures(self) -> dict[str, Any]:
        """What `query` can ask for, nested as its names are."""
        plain = self.health.to_plain()
        metrics = plain["metrics"]
        one = self.outputs[0] if len(self.outputs) == 1 else None
        rate = (plain["n_predictions"] - 1) / self.duration_s if self.duration_s > 0 else None
        return {
            "n_predictions": plain["n_predictions"],
            "n_errors": plain["n_errors"],
            "error_rate": plain["error_rate"],
            "throughput_qps": rate,
            "latency": {
                name: plain[f"latency_{name}"]
                for name in ("mean_ms", "median_ms", "p95_ms", "p99_ms")
            },
            "prediction": {
                "mean": None if one is None else finite_or_none(one.mean),
                "std": None if one is None else finite_or_none(one.std),
                "per_output": {
                    "mean": [finite_or_none(output.mean) for output in self.outputs],
                    "std": [finite_or_none(output.std) for output in self.outputs],
                },
            },
            "drift": {name: one.score for name, one in self.drift.items()},
            "drift_threshold": {name: one.threshold for name, one in self.drift.items()},
            "drifted_share": {
                name: one.n_drifted / self.n_windows for name, one in self.drift.items()
            },
            "metrics": metrics,
        }


def merged(summaries: Sequence[WindowSummary], *, span: str) -> WindowSummary:
    """Several summaries as one, without distributions.

    Counts add up; means are weighted; percentiles come from the histograms put together and are
    off by at most 1 %, or the largest of the parts' where a part has no histogram.

    Args:
        summaries: One at least, in any order.
        span: What they are together.
    """
    ordered = sorted(summaries, key=lambda one: (one.started_at, one.ended_at))
    latency = _merged_latency(ordered)
    widths = {len(one.outputs) for one in ordered}
    outputs = zip(*(one.outputs for one in ordered), strict=True) if len(widths) == 1 else ()
    return WindowSummary(
        started_at=ordered[0].started_at,
        ended_at=max(one.ended_at for one in ordered),
        span=span,
        n_windows=sum(one.n_windows for one in ordered),
        health=_merged_health([one.health for one in ordered], latency),
        latency=latency,
        duration_s=sum(one.duration_s for one in ordered),
        outputs=[merge_all(parts) for parts in outputs],
        drift={
            name: _merged_drift([one.drift[name] for one in ordered if name in one.drift])
            for name in sorted({name for one in ordered for name in one.drift})
        },
    )


def _merged_latency(summaries: Sequence[WindowSummary]) -> LogHistogram | None:
    together = LogHistogram()
    for one in summaries:
        if one.latency is None:
            return None
        together.merge(one.latency)
    return together


def _merged_health(parts: Sequence[Health], latency: LogHistogram | None) -> Health:
    n, n_errors = sum(one.n_predictions for one in parts), sum(one.n_errors for one in parts)
    if latency is not None and latency.n:
        found = [value or 0.0 for value in latency.quantiles(_LEVELS)]
        mean_s = latency.mean() or 0.0
        mean_ms, (median_ms, p95_ms, p99_ms) = mean_s * _MS_PER_S, (s * _MS_PER_S for s in found)
    else:
        mean_ms, median_ms, p95_ms, p99_ms = (
            max((getattr(one, name) for one in parts), default=math.nan)
            for name in (
                "latency_mean_ms",
                "latency_median_ms",
                "latency_p95_ms",
                "latency_p99_ms",
            )
        )
    return Health(
        n_predictions=n,
        n_errors=n_errors,
        error_rate=n_errors / n if n else math.nan,
        latency_mean_ms=mean_ms,
        latency_median_ms=median_ms,
        latency_p95_ms=p95_ms,
        latency_p99_ms=p99_ms,
        metrics={
            name: _merged_metric([one.metrics[name] for one in parts if name in one.metrics])
            for name in sorted({name for one in parts for name in one.metrics})
        },
    )


def _merged_metric(parts: Sequence[MetricWindow]) -> MetricWindow:
    whole = merge_all(Moments(one.n, one.mean, _m2(one)) for one in parts)
    return MetricWindow(mean=whole.mean, n=whole.n, std=whole.std)


def _m2(metric: MetricWindow) -> float:
    return metric.std**2 * (metric.n - 1) if math.isfinite(metric.std) else 0.0


def _merged_drift(parts: Sequence[DriftSummary]) -> DriftSummary:
    known = [one for one in parts if one.score is not None]
    worst = max(known, key=lambda one: one.score or 0.0) if known else parts[0]
    return DriftSummary(
        score=worst.score,
        threshold=worst.threshold,
        n_drifted=sum(one.n_drifted for one in parts),
        is_calibrated=all(one.is_calibrated for one in parts),
    )


def _moments_of(column: NDArray[np.float64]) -> Moments:
    known = column[np.isfinite(column)]
    if not known.size:
        return Moments(0, 0.0, 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(known.mean())
        m2 = float(((known - mean) ** 2).sum())
    # JSON cannot hold what overflows.
    return Moments(len(known), mean, m2) if math.isfinite(m2) else Moments(0, 0.0, 0.0)
