"""Everything that a report shows, gathered from a monitor as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from modelyard.monitor.alerting.alerts import AlertDict
from modelyard.monitor.alerting.queues import DeliveryDict
from modelyard.monitor.changes import ChangeDict
from modelyard.monitor.history.queries import Point
from modelyard.monitor.outputs import DistributionDict, DriftDict, Summary
from modelyard.monitor.performance.report import PerformanceDict
from modelyard.monitor.report.figures import thinned

if TYPE_CHECKING:
    from modelyard.monitor.telling import Teller

_LIMIT = ".threshold"
HISTORY = (
    "latency.median_ms",
    "latency.p95_ms",
    "latency.p99_ms",
    "error_rate",
    "throughput_qps",
    "drift.prediction",
    "drift.prediction.threshold",
    "drift.feature",
    "drift.feature.threshold",
)
_MOST_METRICS = 6
_N_OUTPUTS_DRAWN = 2
_N_FEATURES_DRAWN = 4


@dataclass(frozen=True, kw_only=True)
class MonitorView:
    """What a monitor knew at one time; every field holds what the method of its name gives.

    Attributes:
        generated_at: When it was gathered.
        summary: As `get_summary`.
        prediction_drift: As `detect_prediction_drift`.
        feature_drift: As `detect_feature_drift`.
        performance: As `get_performance`.
        changes: As `get_change_points`.
        alerts: As `get_alerts`, oldest first.
        baseline_history: As the method, oldest first.
        undelivered: As `undelivered_alerts`.
        history: Figure's name to what `query` gives, oldest first; of many points those drawn.
        outputs: Distributions of the outputs that moved most.
        features: Distributions of the features that moved most.
    """

    generated_at: datetime
    summary: Summary
    prediction_drift: DriftDict
    feature_drift: DriftDict
    performance: PerformanceDict
    changes: Sequence[ChangeDict] = ()
    alerts: Sequence[AlertDict] = ()
    baseline_history: Sequence[Mapping[str, Any]] = ()
    undelivered: Sequence[DeliveryDict] = ()
    history: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    outputs: Sequence[DistributionDict] = ()
    features: Sequence[DistributionDict] = ()


def view_of(
    monitor: "Teller",
    *,
    since: datetime | str | None = None,
) -> MonitorView:
    """What a monitor knows now.

    Args:
        monitor: Whose.
        since: History and alerts from this time on only; text is ISO 8601, no zone means UTC.

    Raises:
        ConfigError: A `since` that is no time.
    """
    metrics = [f"metrics.{name}" for name in list(monitor.health().metrics)[:_MOST_METRICS]]
    history = _history(monitor, (*HISTORY, *metrics), since)
    summary = monitor.get_summary()
    prediction_drift = monitor.detect_prediction_drift()
    feature_drift = monitor.detect_feature_drift()
    outputs, features = _most_moved(prediction_drift, feature_drift)
    return MonitorView(
        generated_at=datetime.fromisoformat(summary["at"]),
        summary=summary,
        prediction_drift=prediction_drift,
        feature_drift=feature_drift,
        performance=monitor.get_performance(),
        changes=monitor.get_change_points(),
        alerts=monitor.get_alerts(since=since),
        baseline_history=monitor.baseline_history(),
        undelivered=monitor.undelivered_alerts(),
        history=history,
        outputs=monitor.distributions("prediction", outputs),
        features=monitor.distributions("feature", features),
    )


def ranked(drift: DriftDict) -> list[Any]:
    """Outputs or features of a verdict, those that moved most first, tested ones only.

    Drifted ones come before the others, then those further over their own limit.
    """
    columns = [*drift.get("per_feature", []), *drift.get("per_output", [])]
    tested = [column for column in columns if column["drift_score"] is not None]
    return sorted(
        tested,
        key=lambda column: (
            not column["is_drifted"],
            -(column["drift_score"] or 0.0) / (column["threshold"] or 1.0),
        ),
    )


def _most_moved(prediction: DriftDict, feature: DriftDict) -> tuple[list[int], list[int]]:
    outputs, features = (
        [column["index"] for column in ranked(drift)[:n]]
        for drift, n in ((prediction, _N_OUTPUTS_DRAWN), (feature, _N_FEATURES_DRAWN))
    )
    return outputs, features


def _history(
    monitor: "Teller", metrics: Sequence[str], since: datetime | str | None
) -> dict[str, Sequence[Point]]:
    """The points of each figure that are drawn: a history of years has too many to hold.

    A limit is drawn where the score is that it belongs to, which comes before it.
    """
    drawn: dict[str, Sequence[Point]] = {}
    for name, points in monitor.query_each(metrics, since=since):
        score = drawn.get(name.removesuffix(_LIMIT), ())
        if name.endswith(_LIMIT):
            times = {point["at"] for point in score}
            drawn[name] = [point for point in points if point["at"] in times]
        else:
            drawn[name] = thinned(points)
    return drawn
