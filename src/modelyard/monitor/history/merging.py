"""Summaries of several windows as one: an hour's, a day's.

What is added up (predictions, errors, latencies by bucket, values of metrics and outputs) is so
exactly; percentiles of the latency come from the buckets and are within 1 % of the order
statistics of all latencies together. The distributions of outputs and features go.
"""

import math
from collections.abc import Iterable, Sequence

from modelyard._core.errors import ConfigError
from modelyard.monitor.history.summaries import DriftFigures, WindowSummary
from modelyard.monitor.recording.health import Health, MetricWindow
from modelyard.stats.histogram import LogHistogram
from modelyard.stats.moments import Moments, merge_all

_MS_PER_S = 1000.0
_LEVELS = (0.5, 0.95, 0.99)
_PERCENTILES = ("latency_median_ms", "latency_p95_ms", "latency_p99_ms")


def merged(summaries: Sequence[WindowSummary], *, span: str) -> WindowSummary:
    """One summary of several, in whatever order they come.

    Args:
        summaries: One or more.
        span: What they make together: `hour` or `day`.

    Raises:
        ConfigError: There is none.
    """
    if not summaries:
        raise ConfigError("merged() needs one summary or more, got none.")
    latency = LogHistogram()
    for summary in summaries:
        latency.merge(summary.latency)
    n_latencies = sum(summary.n_latencies for summary in summaries)
    width = max(len(summary.outputs) for summary in summaries)
    return WindowSummary(
        started_at=min(summary.started_at for summary in summaries),
        ended_at=max(summary.ended_at for summary in summaries),
        health=_health(summaries, latency, n_latencies),
        span=span,
        n_windows=sum(summary.n_windows for summary in summaries),
        outputs=tuple(
            merge_all(s.outputs[i] for s in summaries if i < len(s.outputs)) for i in range(width)
        ),
        latency=latency,
        n_latencies=n_latencies,
        n_intervals=sum(summary.n_intervals for summary in summaries),
        duration_s=math.fsum(summary.duration_s for summary in summaries),
        drift=_drift(summaries),
    )


def _health(summaries: Sequence[WindowSummary], latency: LogHistogram, n_latencies: int) -> Health:
    n = sum(summary.health.n_predictions for summary in summaries)
    n_errors = sum(summary.health.n_errors for summary in summaries)
    percentiles = _percentiles(summaries, latency, n_latencies)
    return Health(
        n_predictions=n,
        n_errors=n_errors,
        error_rate=n_errors / n if n else math.nan,
        latency_mean_ms=_weighted(summaries, "latency_mean_ms"),
        latency_median_ms=percentiles[0],
        latency_p95_ms=percentiles[1],
        latency_p99_ms=percentiles[2],
        metrics=_metrics(summaries),
    )


def _percentiles(
    summaries: Sequence[WindowSummary], latency: LogHistogram, n_latencies: int
) -> list[float]:
    if latency.n:
        found = latency.quantiles(_LEVELS)
        return [math.nan if value is None else value * _MS_PER_S for value in found]
    if not n_latencies:
        return [math.nan] * len(_PERCENTILES)
    # Windows stored before they had buckets: all that can be said is the mean of what they had.
    return [_weighted(summaries, name) for name in _PERCENTILES]


def _weighted(summaries: Sequence[WindowSummary], name: str) -> float:
    values = [(s.n_latencies, getattr(s.health, name)) for s in summaries]
    known = [(weight, value) for weight, value in values if math.isfinite(value)]
    n = sum(weight for weight, _ in known)
    return math.fsum(weight * value for weight, value in known) / n if n else math.nan


def _metrics(summaries: Sequence[WindowSummary]) -> dict[str, MetricWindow]:
    names = dict.fromkeys(name for summary in summaries for name in summary.health.metrics)
    return {
        name: _pooled(s.health.metrics[name] for s in summaries if name in s.health.metrics)
        for name in names
    }


def _pooled(parts: Iterable[MetricWindow]) -> MetricWindow:
    moments = merge_all(
        # Of one value the spread is not known, and its sum of squares about the mean is 0.
        Moments(part.n, part.mean, part.std * part.std * (part.n - 1) if part.n > 1 else 0.0)
        for part in parts
    )
    return MetricWindow(mean=moments.mean, n=moments.n, std=moments.std)


def _drift(summaries: Sequence[WindowSummary]) -> dict[str, DriftFigures]:
    names = dict.fromkeys(name for summary in summaries for name in summary.drift)
    return {name: _worst([s.drift[name] for s in summaries if name in s.drift]) for name in names}


def _worst(parts: Sequence[DriftFigures]) -> DriftFigures:
    judged = [part for part in parts if part.n_windows] or list(parts)
    worst = max(judged, key=_badness)
    return DriftFigures(
        score=worst.score,
        effective_threshold=worst.effective_threshold,
        is_drifted=any(part.is_drifted for part in judged),
        is_calibrated=all(part.is_calibrated for part in judged),
        n_windows=sum(part.n_windows for part in judged),
        n_drifted=sum(part.n_drifted for part in judged),
    )


def _badness(part: DriftFigures) -> tuple[float, float]:
    # Of equal scores the one over the lower threshold: the order must not matter.
    return _or_least(part.score), _or_least(-part.effective_threshold)


def _or_least(value: float) -> float:
    return -math.inf if math.isnan(value) else value
