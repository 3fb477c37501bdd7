"""What is kept of a window when the next one begins, and of an hour or a day of windows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from modelyard._core.plain import finite_or_none
from modelyard.monitor.drift.sketches import array_from_plain, array_to_plain, sketch_of
from modelyard.monitor.recording.health import Health
from modelyard.stats.histogram import LogHistogram
from modelyard.stats.moments import Moments, moments_of

# Levels of a past window's distribution that are kept.
SUMMARY_SKETCH_SIZE = 50
WINDOW, HOUR, DAY = "window", "hour", "day"


class RecordedWindow(Protocol):
    """What a summary is made from: a copy of a window."""

    @property
    def health(self) -> Health:
        """Latency, errors and metrics."""

    @property
    def predictions(self) -> NDArray[np.float64]:
        """Shape (n, outputs), oldest first."""

    @property
    def features(self) -> NDArray[np.float64]:
        """Shape (n, features), oldest first."""

    @property
    def latencies_s(self) -> NDArray[np.float64]:
        """Shape (n,), NaN where unknown."""

    @property
    def duration_s(self) -> float:
        """Seconds from its first prediction to its last."""


@dataclass(frozen=True, kw_only=True)
class DriftFigures:
    """How far predictions or features had moved, over one window or several.

    Attributes:
        score: The worst, in the method's unit; NaN if no window had a verdict.
        effective_threshold: What that score was compared with.
        is_drifted: Whether any window had drifted.
        is_calibrated: Whether the threshold of every window could be trusted.
        n_windows: Windows with a verdict.
        n_drifted: Drifted ones among them.
    """

    score: float
    effective_threshold: float
    is_drifted: bool
    is_calibrated: bool
    n_windows: int
    n_drifted: int

    @classmethod
    def of(cls, verdict: Mapping[str, Any]) -> "DriftFigures":
        """Those of one window.

        Args:
            verdict: `score` (None without a verdict), `effective_threshold`, `is_drifted` and
                `calibrated`.
        """
        has_verdict = verdict["score"] is not None
        is_drifted = has_verdict and bool(verdict["is_drifted"])
        return cls(
            score=_number(verdict["score"]),
            effective_threshold=_number(verdict["effective_threshold"]),
            is_drifted=is_drifted,
            is_calibrated=bool(verdict["calibrated"]),
            n_windows=int(has_verdict),
            n_drifted=int(is_drifted),
        )

    @property
    def drifted_share(self) -> float:
        """Share of windows that had drifted, 0 to 1; NaN without a verdict."""
        return self.n_drifted / self.n_windows if self.n_windows else math.nan

    def to_plain(self) -> dict[str, Any]:
        """All of it as plain values; NaN as None."""
        return {
            "score": finite_or_none(self.score),
            "effective_threshold": finite_or_none(self.effective_threshold),
            "is_drifted": self.is_drifted,
            "calibrated": self.is_calibrated,
            "n_windows": self.n_windows,
            "n_drifted": self.n_drifted,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "DriftFigures":
        """The figures that `to_plain` described."""
        return cls(
            score=_number(plain["score"]),
            effective_threshold=_number(plain["effective_threshold"]),
            is_drifted=plain["is_drifted"],
            is_calibrated=plain["calibrated"],
            n_windows=plain["n_windows"],
            n_drifted=plain["n_drifted"],
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowSummary:
    """What is kept of a full window, or of the windows of an hour or a day.

    Attributes:
        started_at: When it began, ISO 8601 in UTC.
        ended_at: When it was full.
        health: Latency, errors and metrics.
        span: `window`, `hour` or `day`.
        n_windows: How many windows it is made of.
        outputs: Count, mean and spread of each output's finite values.
        latency: Counts of latencies in seconds.
        n_latencies: Latencies that were known.
        n_intervals: Times from one prediction to the next in its windows.
        duration_s: Seconds that these took together.
        drift: Under `prediction` and `feature`; empty if nothing was judged.
        predictions: Quantiles of each output, shape (outputs, levels); None when no longer kept.
        features: Quantiles of each feature, shape (features, levels); None when no longer kept.
    """

    started_at: str
    ended_at: str
    health: Health
    span: str = WINDOW
    n_windows: int = 1
    outputs: tuple[Moments, ...] = ()
    latency: LogHistogram = field(default_factory=LogHistogram)
    n_latencies: int = 0
    n_intervals: int = 0
    duration_s: float = 0.0
    drift: Mapping[str, DriftFigures] = field(default_factory=dict)
    predictions: NDArray[np.float64] | None = None
    features: NDArray[np.float64] | None = None

    @classmethod
    def of(
        cls,
        data: RecordedWindow,
        *,
        started_at: str,
        ended_at: str,
        drift: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> "WindowSummary":
        """The summary of one window.

        Args:
            data: The window.
            started_at: When it began, ISO 8601 in UTC.
            ended_at: When it was full.
            drift: Under `prediction` and `feature` what `DriftFigures.of` takes.
        """
        known_s = data.latencies_s[np.isfinite(data.latencies_s)]
        latency = LogHistogram()
        latency.add(known_s)
        return cls(
            started_at=started_at,
            ended_at=ended_at,
            health=data.health,
            outputs=_output_moments(data.predictions),
            latency=latency,
            n_latencies=len(known_s),
            n_intervals=max(0, data.health.n_predictions - 1) if data.duration_s > 0.0 else 0,
            duration_s=data.duration_s,
            drift={name: DriftFigures.of(verdict) for name, verdict in (drift or {}).items()},
            predictions=sketch_of(data.predictions, SUMMARY_SKETCH_SIZE),
            features=sketch_of(data.features, SUMMARY_SKETCH_SIZE),
        )

    def to_plain(self) -> dict[str, Any]:
        """All of it as plain values, quantiles exactly."""
        return {**self.figures_to_plain(), **(self.sketches_to_plain() or {})}

    def figures_to_plain(self) -> dict[str, Any]:
        """All of it but the quantiles, as plain values."""
        return {
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "span": self.span,
            "n_windows": self.n_windows,
            "health": self.health.to_plain(),
            "outputs": [[o.n, finite_or_none(o.mean), finite_or_none(o.m2)] for o in self.outputs],
            "latency": self.latency.to_plain(),
            "n_latencies": self.n_latencies,
            "n_intervals": self.n_intervals,
            "duration_s": self.duration_s,
            "drift": {name: figures.to_plain() for name, figures in self.drift.items()},
        }

    def sketches_to_plain(self) -> dict[str, Any] | None:
        """The quantiles as plain values; None when they are no longer kept."""
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
        """The summary that `to_plain` described, also one stored before it had all keys.

        Args:
            plain: What `to_plain` or `figures_to_plain` gave.
            sketches: What `sketches_to_plain` gave, where it was kept apart.
        """
        health = Health.from_plain(plain["health"])
        kept = sketches or plain
        histogram = plain.get("latency")
        return cls(
            started_at=plain.get("started_at", plain["ended_at"]),
            ended_at=plain["ended_at"],
            health=health,
            span=plain.get("span", WINDOW),
            n_windows=plain.get("n_windows", 1),
            outputs=tuple(
                Moments(n, _number(m), _number(s)) for n, m, s in plain.get("outputs", ())
            ),
            latency=LogHistogram.from_plain(histogram) if histogram else LogHistogram(),
            n_latencies=plain.get("n_latencies", health.n_predictions),
            n_intervals=plain.get("n_intervals", 0),
            duration_s=plain.get("duration_s", 0.0),
            drift={
                name: DriftFigures.from_plain(item)
                for name, item in plain.get("drift", {}).items()
            },
            predictions=_sketch_in(kept, "predictions"),
            features=_sketch_in(kept, "features"),
        )


# Values whose squares overflow have no spread, and never a warning to the caller.
@np.errstate(over="ignore", invalid="ignore")
def _output_moments(rows: NDArray[np.float64]) -> tuple[Moments, ...]:
    return tuple(moments_of(column) for column in rows.T)


def _sketch_in(plain: Mapping[str, Any], name: str) -> NDArray[np.float64] | None:
    return None if plain.get(name) is None else array_from_plain(plain[name])


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
