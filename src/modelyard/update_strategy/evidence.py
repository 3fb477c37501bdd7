"""The numbers that decisions look at, and where each is taken from."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from modelyard.stats.significance import Contrast
from modelyard.update_strategy.ports import HealthLike
from modelyard.update_strategy.settings import UpdateSettings

# With this many times the answers it needs, the candidate waits for the stable version no more.
LOPSIDED = 4


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The numbers a decision looks at; NaN where there are none.

    Attributes:
        n: Predictions in the window.
        n_errors: Failed ones among them.
        n_total: Predictions since the version began to serve in this process.
        latency_median_ms, latency_p95_ms, latency_p99_ms: Of the predictions.
        latency_log_error: Standard error of the logarithm of the median latency.
        key_metric: Mean of the key metric's last values.
        n_key_metric: How many values that is.
        key_metric_std: Their standard deviation.
    """

    n: int = 0
    n_errors: int = 0
    n_total: int = 0
    latency_median_ms: float = math.nan
    latency_p95_ms: float = math.nan
    key_metric: float = math.nan
    n_key_metric: int = 0
    latency_log_error: float = math.nan
    key_metric_std: float = math.nan
    latency_p99_ms: float = math.nan

    @classmethod
    def of(
        cls, health: HealthLike | None, settings: UpdateSettings, *, n_total: int | None = None
    ) -> "Evidence":
        """The numbers of a health; nothing for None. `n_total` is its window's, if not known."""
        if health is None:
            return cls()
        metric = health.metrics.get(settings.key_metric or "")
        return cls(
            n=health.n_predictions,
            n_errors=health.n_errors,
            n_total=health.n_predictions if n_total is None else n_total,
            latency_median_ms=health.latency_median_ms,
            latency_p95_ms=health.latency_p95_ms,
            latency_p99_ms=health.latency_p99_ms,
            key_metric=math.nan if metric is None else metric.mean,
            n_key_metric=0 if metric is None else metric.n,
            latency_log_error=health.latency_log_error,
            key_metric_std=math.nan if metric is None else metric.std,
        )

    @property
    def error_rate(self) -> float:
        """Share of failed predictions; NaN without any."""
        return self.n_errors / self.n if self.n else math.nan

    def to_plain(self) -> dict[str, Any]:
        """All of it as JSON values; NaN as None."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Evidence":
        """The evidence that `to_plain` described."""
        given: dict[str, Any] = {k: math.nan if v is None else v for k, v in plain.items()}
        return cls(**given)


def present_of(own: Evidence, monitored: Evidence, settings: UpdateSettings) -> Evidence:
    """How production is doing, from two sources: what serves it, and the strategy's monitor.

    Each of predictions and key metric is taken from what serves it where that has
    `step_min_samples`, else from whichever has more.
    """
    enough = settings.step_min_samples
    health = own if own.n >= min(enough, monitored.n + 1) else monitored
    is_own = own.n_key_metric >= min(enough, monitored.n_key_metric + 1)
    metric = own if is_own else monitored
    return with_key_metric(health, metric)


def evidence_since(now: Evidence, before: Evidence) -> Evidence:
    """What one window says of the version that took over when it said `before`.

    While the window still holds predictions of the version before, its errors are taken off and
    the other numbers lie between those of the two: compared with `before`, they tell too little
    of a change and never too much.

    Args:
        now: The window's present; `n_total` counts from the monitor's beginning.
        before: The same at the change.
    """
    n_new = now.n_total - before.n_total
    if n_new < now.n:
        n_errors = min(n_new, max(0, now.n_errors - before.n_errors))
        now = replace(now, n=n_new, n_errors=n_errors)
    if (now.key_metric, now.n_key_metric) == (before.key_metric, before.n_key_metric):
        now = replace(now, key_metric=math.nan, n_key_metric=0)
    return replace(now, n_total=n_new, n_key_metric=min(n_new, now.n_key_metric))


def reference_for(stable: Evidence, baseline: Evidence, settings: UpdateSettings) -> Evidence:
    """What a candidate is compared with: the stable version at the same time, else the baseline.

    Each of predictions and key metric counts from `step_min_samples` on.
    """
    enough = settings.step_min_samples
    reference = stable if stable.n >= enough else baseline
    metric = stable if stable.n_key_metric >= enough else baseline
    return with_key_metric(reference, metric)


def side_by_side(
    candidate: Evidence | None, stable: Evidence | None, settings: UpdateSettings
) -> tuple[Evidence, Evidence] | None:
    """Both since the shares last changed, if these can be compared.

    None where one is not measured, and where the stable version's share is so small that it has
    too few answers long after the candidate has enough.
    """
    if candidate is None or stable is None:
        return None
    enough = settings.step_min_samples
    is_lopsided = stable.n < enough and candidate.n >= LOPSIDED * enough
    return None if is_lopsided else (candidate, stable)


def with_key_metric(evidence: Evidence, other: Evidence) -> Evidence:
    """`evidence` with the key metric of `other`."""
    return replace(
        evidence,
        key_metric=other.key_metric,
        n_key_metric=other.n_key_metric,
        key_metric_std=other.key_metric_std,
    )


def balanced_contrast(difference: float, variance: float, n: int, n_other: int) -> Contrast:
    """A difference with what it rests on; `n` as of a balanced comparison just as informative."""
    balanced = 4.0 * n * n_other / max(1, n + n_other)
    df = max(n + n_other - 2.0, 1.0)
    return Contrast(
        difference=difference, variance=variance, df=df, mean_a=0.0, mean_b=0.0, n=balanced
    )


def key_metric_loss(now: Evidence, other: Evidence, settings: UpdateSettings) -> Contrast:
    """How much worse the key metric of `now` is than that of `other`, in its direction.

    Its variance is NaN where either has no value; where a spread is not known, that side's mean is
    taken for exact.
    """
    if min(now.n_key_metric, other.n_key_metric) == 0:
        return balanced_contrast(0.0, math.nan, other.n_key_metric, now.n_key_metric)
    direction = settings.direction((now.key_metric, other.key_metric))
    loss = direction * (other.key_metric - now.key_metric)
    spreads = [0.0 if math.isnan(e.key_metric_std) else e.key_metric_std for e in (now, other)]
    variance = spreads[0] ** 2 / now.n_key_metric + spreads[1] ** 2 / other.n_key_metric
    return balanced_contrast(loss, variance, other.n_key_metric, now.n_key_metric)
