"""A monitor's figures at one moment, from its parts."""

from collections import Counter
from collections.abc import Mapping, Sequence

from modelyard.monitor.alerting.alerts import Alert
from modelyard.monitor.alerting.queues import SinkStateDict
from modelyard.monitor.drift.detection import DriftVerdict
from modelyard.monitor.evaluation import Evaluation
from modelyard.monitor.exporting.figures import DriftFigures, Figures, Histogram
from modelyard.monitor.outputs import throughput_of
from modelyard.monitor.recording.buckets import BOUNDS_S
from modelyard.monitor.recording.health import Health
from modelyard.monitor.recording.windows import Window

_MS_PER_S = 1000.0


def figures_of(
    model_name: str,
    window: Window,
    evaluation: Evaluation,
    alerts: Sequence[Alert],
    sinks: Mapping[str, SinkStateDict],
    *,
    now_s: float,
) -> Figures:
    """What a monitor tells other programs.

    Args:
        model_name: Whose.
        window: Its owner's lock is held.
        evaluation: The last one.
        alerts: The active ones.
        sinks: How each is doing.
        now_s: By the monotonic clock.
    """
    counts, total_s = window.latency_counts()
    health = window.health()
    return Figures(
        model_name=model_name,
        n_predictions=window.n_records,
        n_errors=window.n_errors,
        latency_s=Histogram(bounds=BOUNDS_S, counts=counts, total=total_s),
        latency_quantiles_s=_quantiles_s(health),
        throughput_per_s=throughput_of(evaluation.data, now_s=now_s),
        error_rate=health.error_rate if health.n_predictions else None,
        drift={
            name.removesuffix("_drift"): _drift_figures(verdict)
            for name, verdict in evaluation.drift.items()
        },
        active_alerts=Counter((a.breach.name, a.breach.severity.value) for a in alerts),
        odd_values=window.odd_counts(),
        metrics={name: metric.mean for name, metric in health.metrics.items()},
        versions=dict(window.versions),
        failed_deliveries={name: state["n_failures"] for name, state in sinks.items()},
        waiting_deliveries={name: state["n_waiting"] for name, state in sinks.items()},
        evaluation_age_s=now_s - evaluation.monotonic_s,
    )


def _quantiles_s(health: Health) -> dict[float, float]:
    levels = {
        0.5: health.latency_median_ms,
        0.95: health.latency_p95_ms,
        0.99: health.latency_p99_ms,
    }
    # NaN where no latency was known, which is not equal to itself.
    return {level: ms / _MS_PER_S for level, ms in levels.items() if ms == ms}  # noqa: PLR0124


def _drift_figures(verdict: DriftVerdict) -> DriftFigures:
    return DriftFigures(
        score=verdict.score,
        effective_threshold=verdict.effective_threshold,
        is_drifted=verdict.is_drifted,
        is_calibrated=verdict.is_calibrated,
    )
