"""Stage: a monitor with a baseline from calm times, and what came after."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from modelyard.inference_optimizer import InferenceOptimizer
from modelyard.monitor import ModelMonitor
from modelyard.pipeline.progress import Progress
from modelyard.pipeline.source import Stream


@dataclass(kw_only=True, eq=False)
class WatchOutcome:
    """What the monitor saw, one entry a window.

    Attributes:
        times: When each window ended.
        prediction_scores, feature_scores: Drift, in standard deviations of the baseline.
        threshold: The calibrated threshold of the feature drift.
        top_features: Names of the features that moved most at the worst window.
        first_alarm: When feature or prediction drift was first called, or None.
        is_calibrated: Whether the monitor vouches for its threshold.
        alerts: As the monitor gives them at the end.
    """

    times: list[str] = field(default_factory=list)
    prediction_scores: list[float | None] = field(default_factory=list)
    feature_scores: list[float | None] = field(default_factory=list)
    threshold: float | None = None
    top_features: list[str] = field(default_factory=list)
    first_alarm: str | None = None
    is_calibrated: bool = False
    alerts: list[Any] = field(default_factory=list)


def watch_stream(
    stream: Stream,
    optimizer: InferenceOptimizer,
    monitor: ModelMonitor,
    progress: Progress,
    *,
    at_window_end: Callable[[str], None],
) -> WatchOutcome:
    """Predict and record the stream one input at a time, looking once a window.

    Args:
        stream: Calm period and what came after.
        optimizer: Serves the model in production.
        monitor: Watches it; its baseline is set here.
        progress: Gets the share done and a line.
        at_window_end: Called with the time whenever a window is full.
    """
    calm = optimizer.predict_batch(stream.reference_inputs)
    monitor.set_baseline(predictions=calm.numpy(), features=stream.reference_features)
    outcome = WatchOutcome()
    worst = -1.0
    n, step = len(stream.inputs), monitor.window_size
    for i in range(n):
        started = time.perf_counter()
        output = optimizer.predict(stream.inputs[i : i + 1])
        latency_s = time.perf_counter() - started
        monitor.record_prediction(output, latency_s, features=stream.features[i])
        if (i + 1) % step:
            continue
        features, predictions = monitor.detect_feature_drift(), monitor.detect_prediction_drift()
        when = str(stream.times[i])
        outcome.times.append(when)
        outcome.feature_scores.append(features["drift_score"])
        outcome.prediction_scores.append(predictions["drift_score"])
        outcome.threshold = features["effective_threshold"]
        outcome.is_calibrated = features["calibrated"]
        if outcome.first_alarm is None and (features["is_drifted"] or predictions["is_drifted"]):
            outcome.first_alarm = when
        if (features["drift_score"] or 0.0) > worst:
            worst = features["drift_score"] or 0.0
            outcome.top_features = [column["name"] for column in features["top_features"][:5]]
        at_window_end(when)
        progress.share("watching", (i + 1) / n)
    outcome.alerts = list(monitor.get_alerts())
    progress.line(_summary(outcome, stream))
    return outcome


def _summary(outcome: WatchOutcome, stream: Stream) -> str:
    scores = [score for score in outcome.feature_scores if score is not None]
    if not scores:
        return "too few inputs for a verdict on drift"
    peak = outcome.times[outcome.feature_scores.index(max(scores))]
    alarm = f"first alarm {outcome.first_alarm}" if outcome.first_alarm else "no alarm"
    return (
        f"baseline: {stream.reference_label}; drift at most {max(scores):.2f} sigma ({peak}, "
        f"{', '.join(outcome.top_features[:2])}); threshold {outcome.threshold:.2f}; {alarm}"
    )
