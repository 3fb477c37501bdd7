"""One figure of every window kept, by its name."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypedDict

from modelyard._core.errors import ConfigError
from modelyard._core.plain import finite_or_none
from modelyard.monitor.history.summaries import WindowSummary
from modelyard.stats.moments import Moments, merge_all

_LATENCY = {
    "latency.mean_ms": "latency_mean_ms",
    "latency.median_ms": "latency_median_ms",
    "latency.p95_ms": "latency_p95_ms",
    "latency.p99_ms": "latency_p99_ms",
}
# A figure that a summary lacks, and what it is made from.
_UNKNOWN: tuple[None, int] = (None, 0)
_ALWAYS = (
    *_LATENCY,
    "error_rate",
    "throughput_qps",
    "n_predictions",
    "prediction.mean",
    "prediction.std",
    "drift.prediction",
    "drift.feature",
)


class Point(TypedDict):
    """One figure of one window, hour or day.

    Attributes:
        at: When it ended, ISO 8601 in UTC.
        started_at: When it began.
        value: In the figure's unit; None where it is not known.
        n: Predictions it is made from; of a business metric, its values.
        span: `window`, `hour` or `day`.
    """

    at: str
    started_at: str
    value: float | None
    n: int
    span: str


def points(metric: str, summaries: Iterable[WindowSummary]) -> list[Point]:
    """One figure of every summary, in the order of their ends.

    Args:
        metric: Such as `latency.p99_ms`; a summary that lacks it gives None.
        summaries: In any order.
    """
    found = [
        _point(_span_of(summary), figures(summary).get(metric, _UNKNOWN)) for summary in summaries
    ]
    return sorted(found, key=lambda point: point["at"])


def points_of_each(
    metrics: Sequence[str], summaries: Iterable[WindowSummary]
) -> Iterator[tuple[str, list[Point]]]:
    """Several figures of every summary, each with its name, one after another.

    Args:
        metrics: As `points`; one that no summary has gives no points.
        summaries: In any order.
    """
    # Of each summary no more is held than what is asked for.
    rows = []
    for summary in summaries:
        known = figures(summary)
        rows.append((_span_of(summary), [known.get(metric, _UNKNOWN) for metric in metrics]))
    rows.sort(key=lambda row: row[0][0])
    for place, metric in enumerate(metrics):
        is_known = any(values[place] is not _UNKNOWN for _, values in rows)
        yield metric, [_point(span, values[place]) for span, values in rows] if is_known else []


def _span_of(summary: WindowSummary) -> tuple[str, str, str]:
    """When it ended and began, and what it spans."""
    return summary.ended_at, summary.started_at, summary.span


def _point(span: tuple[str, str, str], figure: tuple[float | None, int]) -> Point:
    (ended_at, started_at, kind), (value, n) = span, figure
    return {
        "at": ended_at,
        "started_at": started_at,
        "value": finite_or_none(value),
        "n": n,
        "span": kind,
    }


def metric_names(summaries: Iterable[WindowSummary]) -> list[str]:
    """Every figure that can be asked for."""
    own = {name for summary in summaries for name in figures(summary)}
    return [*_ALWAYS, *sorted(own.difference(_ALWAYS))]


def check_metric(metric: str, names: Sequence[str]) -> None:
    """Refuse a figure that is not there.

    Raises:
        ConfigError: It is none of `names`.
    """
    if metric not in names:
        raise ConfigError(f"There is no figure {metric!r}. There are: {', '.join(names)}.")


def figures(summary: WindowSummary) -> Mapping[str, tuple[float, int]]:
    """Every figure of a summary by name, and what it is made from; NaN where it is not known."""
    health = summary.health
    n = health.n_predictions
    found = {name: (float(getattr(health, field)), n) for name, field in _LATENCY.items()}
    duration_s = summary.duration_s
    found["error_rate"] = health.error_rate, n
    found["throughput_qps"] = (
        (summary.n_intervals / duration_s, n) if duration_s > 0.0 else (math.nan, n)
    )
    found["n_predictions"] = float(n), n
    found |= _of_predictions(summary)
    for kind, drift in summary.drift.items():
        found[f"drift.{kind}"] = drift.score, n
        found[f"drift.{kind}.threshold"] = drift.effective_threshold, n
        found[f"drift.{kind}.drifted_share"] = drift.drifted_share, n
    for name, metric in health.metrics.items():
        found[f"metrics.{name}"] = found[f"metrics.{name}.mean"] = metric.mean, metric.n
        found[f"metrics.{name}.std"] = metric.std, metric.n
    return found


def _of_predictions(summary: WindowSummary) -> dict[str, tuple[float, int]]:
    n, outputs = summary.health.n_predictions, summary.outputs
    found = {}
    if len(outputs) > 1:
        for i, moments in enumerate(outputs):
            found[f"prediction.mean.{i}"] = _mean(moments), n
            found[f"prediction.std.{i}"] = _spread(moments), n
    everything = merge_all(outputs)
    return {
        "prediction.mean": (_mean(everything), n),
        "prediction.std": (_spread(everything), n),
        **found,
    }


def _mean(moments: Moments) -> float:
    return moments.mean if moments.n else math.nan


def _spread(moments: Moments) -> float:
    """As the summary tells it: of the values there are, not of a population behind them."""
    return math.sqrt(moments.m2 / moments.n) if moments.n and moments.m2 >= 0.0 else math.nan
