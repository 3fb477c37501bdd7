"""Everything that a report shows, gathered from a monitor as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from modelyard._core.errors import ConfigError
from modelyard.monitor.alerting.alerts import AlertDict
from modelyard.monitor.alerting.queues import DeliveryDict
from modelyard.monitor.changes import ChangeDict
from modelyard.monitor.history.queries import Point
from modelyard.monitor.outputs import DistributionDict, DriftDict, Summary
from modelyard.monitor.performance.report import PerformanceDict

if TYPE_CHECKING:
    from modelyard.monitor.telling import Teller

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
        history: Figure's name to what `query` gives, oldest first.
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
    history = {name: _points(monitor, name, since) for name in (*HISTORY, *metrics)}
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


def _points(monitor: "Teller", metric: str, since: datetime | str | None) -> Sequence[Point]:
    """The figure of every window; none where the monitor has not measured it yet."""
    try:
        return monitor.query(metric, since=since)
    except ConfigError:
        # No such figure yet; a time that is none fails again in get_alerts, with its message.
        return ()
