"""How a model is doing: latency, errors and business metrics of one window."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard._core.plain import finite_or_none
from modelyard.stats.moments import moments_of
from modelyard.stats.quantiles import quantiles

_LATENCY_LEVELS = (0.5, 0.95, 0.99)
# Standard errors on either side of the median within which its error is read off.
_Z = 1.96
_FEWEST_LATENCIES = 20


@dataclass(frozen=True, kw_only=True)
class MetricWindow:
    """The last values of one metric.

    Attributes:
        mean: Their mean, in the metric's unit.
        n: How many there are.
        std: Their standard deviation; NaN below two.
    """

    mean: float
    n: int
    std: float


@dataclass(frozen=True, kw_only=True)
class Health:
    """Latency, errors and metrics over the last `window_size` predictions.

    Attributes:
        n_predictions: Predictions in the window.
        n_errors: Failed ones among them.
        error_rate: Their share, 0 to 1; NaN without predictions.
        latency_mean_ms: NaN without a finite latency, as the ones below.
        latency_median_ms: Half of the predictions were faster.
        latency_p95_ms: 95 % were faster.
        latency_p99_ms: 99 % were faster.
        latency_log_error: Standard error of the logarithm of the median latency, from the values
            around it; NaN below 20 latencies.
        metrics: The last values of each recorded metric, by name.
    """

    n_predictions: int
    n_errors: int
    error_rate: float
    latency_mean_ms: float
    latency_median_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    latency_log_error: float = math.nan
    metrics: Mapping[str, MetricWindow] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """All of it as plain values; NaN as None."""
        plain: dict[str, Any] = {
            name: finite_or_none(getattr(self, name)) for name in _FLOAT_FIELDS
        }
        plain["n_predictions"] = self.n_predictions
        plain["n_errors"] = self.n_errors
        plain["metrics"] = {
            name: {"mean": metric.mean, "n": metric.n, "std": finite_or_none(metric.std)}
            for name, metric in self.metrics.items()
        }
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Health":
        """The health that `to_plain` described."""
        return cls(
            n_predictions=plain["n_predictions"],
            n_errors=plain["n_errors"],
            metrics={
                name: MetricWindow(mean=item["mean"], n=item["n"], std=_number(item["std"]))
                for name, item in plain["metrics"].items()
            },
            # What an older modelyard stored has no error of the latency.
            **{name: _number(plain.get(name)) for name in _FLOAT_FIELDS},
        )


_FLOAT_FIELDS = (
    "error_rate",
    "latency_mean_ms",
    "latency_median_ms",
    "latency_p95_ms",
    "latency_p99_ms",
    "latency_log_error",
)


def health_of(
    latencies_s: NDArray[np.float64],
    errors: NDArray[np.float64],
    metrics: Mapping[str, NDArray[np.float64]],
) -> Health:
    """Health of a window.

    Args:
        latencies_s: shape (n,), seconds; what is not finite is left out.
        errors: shape (n,), 1 where a prediction failed, else 0.
        metrics: The last values of each metric, shape (k,), finite.
    """
    known_ms = latencies_s[np.isfinite(latencies_s)] * 1000.0
    n = len(errors)
    n_errors = int(errors.sum())
    half = _Z / (2.0 * math.sqrt(max(len(known_ms), 1)))
    levels = (*_LATENCY_LEVELS, max(0.0, 0.5 - half), min(1.0, 0.5 + half))
    found = quantiles(known_ms, levels) if len(known_ms) else [math.nan] * len(levels)
    p50, p95, p99, below, above = found
    return Health(
        n_predictions=n,
        n_errors=n_errors,
        error_rate=n_errors / n if n else math.nan,
        latency_mean_ms=float(known_ms.mean()) if len(known_ms) else math.nan,
        latency_median_ms=p50,
        latency_p95_ms=p95,
        latency_p99_ms=p99,
        latency_log_error=_log_error(below, above, len(known_ms)),
        metrics={name: _metric_window(values) for name, values in metrics.items()},
    )


# Values whose squares overflow have no spread, and never a warning to the caller.
@np.errstate(over="ignore", invalid="ignore")
def _metric_window(values: NDArray[np.float64]) -> MetricWindow:
    moments = moments_of(values)
    return MetricWindow(mean=moments.mean, n=moments.n, std=moments.std)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _log_error(below: float, above: float, n: int) -> float:
    """Standard error of a log-median from the order statistics around it.

    Source:
        Conover (1999), Practical Nonparametric Statistics, section 3.2 (the interval).
    """
    if n < _FEWEST_LATENCIES or not below > 0.0:
        return math.nan
    return math.log(above / below) / (2.0 * _Z)
