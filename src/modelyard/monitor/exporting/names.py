"""The one table of what is exported: names, units and labels, and which figure each shows.

Prometheus, OpenTelemetry, the Grafana dashboard and the alert rules are all made from it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from modelyard._core.errors import ConfigError
from modelyard.monitor.exporting.figures import Figures


class Kind(StrEnum):
    """How a value moves: only up, up and down, or a distribution."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """One exported metric.

    Attributes:
        name: For Prometheus; a counter's samples add `_total`.
        otel_name: For OpenTelemetry.
        kind: How it moves.
        unit: In UCUM, as OpenTelemetry wants it.
        text: What it is, one sentence.
        labels: Beside `model`, which each has.
    """

    name: str
    otel_name: str
    kind: Kind
    unit: str
    text: str
    labels: tuple[str, ...] = ()

    @property
    def series(self) -> str:
        """The name of its samples in Prometheus; of a histogram, its buckets."""
        endings = {Kind.COUNTER: "_total", Kind.HISTOGRAM: "_bucket", Kind.GAUGE: ""}
        return self.name + endings[self.kind]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One value of a metric that is no histogram.

    Attributes:
        model_name: Value of the label `model`.
        labels: Values of the metric's own labels, in their order.
        value: Finite.
    """

    model_name: str
    labels: tuple[str, ...]
    value: float


PREDICTIONS = Exported(
    name="modelyard_predictions",
    otel_name="modelyard.predictions",
    kind=Kind.COUNTER,
    unit="{prediction}",
    text="Predictions recorded.",
)
ERRORS = Exported(
    name="modelyard_prediction_errors",
    otel_name="modelyard.prediction.errors",
    kind=Kind.COUNTER,
    unit="{prediction}",
    text="Predictions that failed.",
)
VERSIONS = Exported(
    name="modelyard_version_predictions",
    otel_name="modelyard.version.predictions",
    kind=Kind.COUNTER,
    unit="{prediction}",
    text="Predictions recorded, by the version that answered.",
    labels=("version",),
)
LATENCY = Exported(
    name="modelyard_prediction_latency_seconds",
    otel_name="modelyard.prediction.latency",
    kind=Kind.HISTOGRAM,
    unit="s",
    text="Latency of predictions.",
)
WINDOW_LATENCY = Exported(
    name="modelyard_window_latency_seconds",
    otel_name="modelyard.window.latency",
    kind=Kind.GAUGE,
    unit="s",
    text="Latency that a share of the window's predictions did not exceed.",
    labels=("level",),
)
THROUGHPUT = Exported(
    name="modelyard_window_predictions_per_second",
    otel_name="modelyard.window.throughput",
    kind=Kind.GAUGE,
    unit="{prediction}/s",
    text="Predictions a second over the window.",
)
ERROR_RATE = Exported(
    name="modelyard_window_error_ratio",
    otel_name="modelyard.window.error_rate",
    kind=Kind.GAUGE,
    unit="1",
    text="Share of the window's predictions that failed, 0 to 1.",
)
DRIFT_SCORE = Exported(
    name="modelyard_drift_score",
    otel_name="modelyard.drift.score",
    kind=Kind.GAUGE,
    unit="1",
    text="How far the distribution moved, in standard deviations of the baseline.",
    labels=("kind",),
)
DRIFT_THRESHOLD = Exported(
    name="modelyard_drift_threshold",
    otel_name="modelyard.drift.threshold",
    kind=Kind.GAUGE,
    unit="1",
    text="Score over which there is drift, after calibration.",
    labels=("kind",),
)
DRIFTED = Exported(
    name="modelyard_drift_detected",
    otel_name="modelyard.drift.detected",
    kind=Kind.GAUGE,
    unit="1",
    text="1 while the distribution has drifted, else 0.",
    labels=("kind",),
)
CALIBRATED = Exported(
    name="modelyard_drift_calibrated",
    otel_name="modelyard.drift.calibrated",
    kind=Kind.GAUGE,
    unit="1",
    text="1 when the threshold of drift can be trusted, else 0.",
    labels=("kind",),
)
ALERTS = Exported(
    name="modelyard_alerts_active",
    otel_name="modelyard.alerts.active",
    kind=Kind.GAUGE,
    unit="{alert}",
    text="Alerts that are active.",
    # "alertname" is Prometheus' own.
    labels=("alert", "severity"),
)
ODD_VALUES = Exported(
    name="modelyard_odd_values",
    otel_name="modelyard.odd_values",
    kind=Kind.COUNTER,
    unit="{value}",
    text="Recorded values that could not be used as they were.",
    labels=("kind",),
)
METRIC_MEAN = Exported(
    name="modelyard_business_metric_mean",
    otel_name="modelyard.business_metric.mean",
    kind=Kind.GAUGE,
    unit="1",
    text="Mean of a business metric over its window, in its unit.",
    labels=("metric",),
)
FAILED_DELIVERIES = Exported(
    name="modelyard_alert_delivery_failures",
    otel_name="modelyard.alert.delivery.failures",
    kind=Kind.COUNTER,
    unit="{attempt}",
    text="Failed attempts to deliver an alert event to a sink.",
    labels=("sink",),
)
WAITING_DELIVERIES = Exported(
    name="modelyard_alert_deliveries_waiting",
    otel_name="modelyard.alert.deliveries.waiting",
    kind=Kind.GAUGE,
    unit="{event}",
    text="Alert events that wait for a sink.",
    labels=("sink",),
)
EVALUATION_AGE = Exported(
    name="modelyard_evaluation_age_seconds",
    otel_name="modelyard.evaluation.age",
    kind=Kind.GAUGE,
    unit="s",
    text="Time since drift and alerts were last evaluated.",
)

EXPORTED: tuple[Exported, ...] = (
    PREDICTIONS,
    ERRORS,
    VERSIONS,
    LATENCY,
    WINDOW_LATENCY,
    THROUGHPUT,
    ERROR_RATE,
    DRIFT_SCORE,
    DRIFT_THRESHOLD,
    DRIFTED,
    CALIBRATED,
    ALERTS,
    ODD_VALUES,
    METRIC_MEAN,
    FAILED_DELIVERIES,
    WAITING_DELIVERIES,
    EVALUATION_AGE,
)


def samples_of(exported: Exported, figures: Figures) -> Iterator[Sample]:
    """The values of one metric that is no histogram; what is not known or finite is left out."""
    for labels, value in _values(figures)[exported.name].items():
        if value is not None and math.isfinite(value):
            yield Sample(model_name=figures.model_name, labels=labels, value=float(value))


def checked_models(figures: Sequence[Figures]) -> Sequence[Figures]:
    """The figures themselves.

    Raises:
        ConfigError: Two of one model, whose series could not be told apart.
    """
    names = [item.model_name for item in figures]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"Two monitors of model {twice!r} cannot be exported together.")
    return figures


_Values = Mapping[tuple[str, ...], float | None]


def _values(figures: Figures) -> dict[str, _Values]:
    drift = figures.drift.items()
    return {
        PREDICTIONS.name: {(): figures.n_predictions},
        ERRORS.name: {(): figures.n_errors},
        VERSIONS.name: _by_label(figures.versions),
        WINDOW_LATENCY.name: {(f"{k:g}",): v for k, v in figures.latency_quantiles_s.items()},
        THROUGHPUT.name: {(): figures.throughput_per_s},
        ERROR_RATE.name: {(): figures.error_rate},
        DRIFT_SCORE.name: {(kind,): item.score for kind, item in drift},
        DRIFT_THRESHOLD.name: {(kind,): item.effective_threshold for kind, item in drift},
        DRIFTED.name: {(kind,): item.is_drifted for kind, item in drift},
        CALIBRATED.name: {(kind,): item.is_calibrated for kind, item in drift},
        ALERTS.name: {labels: n for labels, n in figures.active_alerts.items()},  # noqa: C416 - wider key
        ODD_VALUES.name: _by_label(figures.odd_values),
        METRIC_MEAN.name: _by_label(figures.metrics),
        FAILED_DELIVERIES.name: _by_label(figures.failed_deliveries),
        WAITING_DELIVERIES.name: _by_label(figures.waiting_deliveries),
        EVALUATION_AGE.name: {(): figures.evaluation_age_s},
    }


def _by_label(values: Mapping[str, float]) -> _Values:
    return {(label,): value for label, value in values.items()}
