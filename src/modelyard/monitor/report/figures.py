"""A monitor's figures over time."""

from collections.abc import Mapping, Sequence

from modelyard.monitor.history.queries import Point
from modelyard.reporting import Figure, TimePanel, scores_against_limits, values_over_time

# Points of one line, beyond which a page would grow and nobody would see more.
MOST_POINTS = 600

_UNITS = {
    "latency.mean_ms": ("mean latency", "ms"),
    "latency.median_ms": ("median latency", "ms"),
    "latency.p95_ms": ("95th percentile of latency", "ms"),
    "latency.p99_ms": ("99th percentile of latency", "ms"),
    "error_rate": ("error rate", "% of predictions"),
    "throughput_qps": ("throughput", "predictions a second"),
    "n_predictions": ("predictions", "predictions"),
    "drift.prediction": ("prediction drift", "score"),
    "drift.feature": ("feature drift", "score"),
}
_PERCENT = ("error_rate",)

Curve = tuple[list[str], list[float | None]]


def history_figure(
    points: Sequence[Point], metric: str, *, thresholds: Sequence[Point] = ()
) -> Figure:
    """One figure of a monitor over time.

    Args:
        points: What `query(metric)` gives.
        metric: Its name.
        thresholds: What `query` gives for its limit; drawn dashed.
    """
    title, unit = _UNITS.get(metric, (metric, ""))
    heading = title[:1].upper() + title[1:]
    if not thresholds:
        curve = curve_of(points, metric)
        return values_over_time([TimePanel(title, unit, {title: curve})], title=heading)
    return drift_figure({title: (points, thresholds)}, unit=unit, title=heading)


def health_figure(history: Mapping[str, Sequence[Point]]) -> Figure:
    """Latency, errors and throughput over time."""
    latencies = {
        label: curve_of(history.get(name, ()), name)
        for label, name in (
            ("median", "latency.median_ms"),
            ("95th percentile", "latency.p95_ms"),
            ("99th percentile", "latency.p99_ms"),
        )
    }
    return values_over_time(
        [
            TimePanel("Latency", "ms", latencies),
            *(
                TimePanel(label, unit, {label.lower(): curve_of(history.get(name, ()), name)})
                for label, unit, name in (
                    ("Errors", "% of predictions", "error_rate"),
                    ("Throughput", "a second", "throughput_qps"),
                )
            ),
        ],
        title="Latency, errors and throughput of each window",
    )


def metrics_figure(history: Mapping[str, Sequence[Point]]) -> Figure:
    """Business metrics over time, a panel each."""
    panels = [
        TimePanel(label, "mean", {label: curve_of(points, name)})
        for name, points in history.items()
        if name.startswith("metrics.") and (label := name.removeprefix("metrics."))
    ]
    return values_over_time(panels, title="Business metrics, mean of each window")


def drift_figure(
    scores: Mapping[str, tuple[Sequence[Point], Sequence[Point]]],
    *,
    unit: str,
    title: str = "Drift score against its limit",
) -> Figure:
    """Drift scores over time with the limits that held.

    Args:
        scores: Label to what `query` gives for the score and for its limit.
        unit: Of both.
        title: Heading.
    """
    drawn = {}
    for label, (points, limits) in scores.items():
        known = {point["at"]: point["value"] for point in limits}
        kept = thinned(points)
        at = [point["at"] for point in kept]
        drawn[label] = at, [point["value"] for point in kept], [known.get(one) for one in at]
    return scores_against_limits(drawn, title=title, unit=unit)


def curve_of(points: Sequence[Point], metric: str) -> Curve:
    """Times and values; shares as percent."""
    factor = 100.0 if metric in _PERCENT else 1.0
    kept = thinned(points)
    values = [None if point["value"] is None else factor * point["value"] for point in kept]
    return [point["at"] for point in kept], values


def thinned(points: Sequence[Point], n_most: int = MOST_POINTS) -> list[Point]:
    """At most so many of the points, in their order: of each stretch the lowest and the highest.

    Args:
        points: Oldest first.
        n_most: An even number, 2 at least.
    """
    if len(points) <= n_most:
        return list(points)
    n_stretches = n_most // 2
    kept: list[Point] = []
    for i in range(n_stretches):
        start, end = (len(points) * k // n_stretches for k in (i, i + 1))
        known = [j for j in range(start, end) if points[j]["value"] is not None] or [start]
        lowest = min(known, key=lambda j: points[j]["value"] or 0.0)
        highest = max(known, key=lambda j: points[j]["value"] or 0.0)
        kept += [points[j] for j in sorted({lowest, highest})]
    return kept
