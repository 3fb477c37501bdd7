"""Alert rules for Prometheus, made from the table of exported names."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from modelyard._core.errors import ConfigError
from modelyard.monitor.exporting import names
from modelyard.monitor.exporting.json_files import write_file


@dataclass(frozen=True, kw_only=True)
class RuleLimits:
    """What the rules allow.

    Attributes:
        latency_p99_ms: 99 % of the predictions must be faster.
        error_rate: Largest share of failed predictions, 0 to 1.
        evaluation_age_s: Longest time without an evaluation while predictions come, seconds.
        for_s: How long a breach must last, whole seconds.

    Raises:
        ConfigError: A limit that is not above 0.
    """

    latency_p99_ms: float = 100.0
    error_rate: float = 0.05
    evaluation_age_s: float = 600.0
    for_s: int = 300

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ConfigError(f"{name} must be above 0, got {value!r}.")


def prometheus_rules(limits: RuleLimits | None = None) -> str:
    """Alert rules for Prometheus, as YAML.

    The monitor's own alerts come as they are. Latency and errors are watched beside them, from
    counters that are added up over all processes of a model.
    """
    chosen = limits or RuleLimits()
    rules = [*_monitors_own(chosen), *_from_counters(chosen)]
    plain = {"groups": [{"name": "modelyard", "rules": [rule.to_plain() for rule in rules]}]}
    return yaml.safe_dump(plain, sort_keys=False)


def write_prometheus_rules(path: str | Path, limits: RuleLimits | None = None) -> str:
    """Write the alert rules as a file for Prometheus' `rule_files`; the folder is made.

    Returns:
        The path.

    Raises:
        StorageError: The path cannot be written.
    """
    return write_file(path, prometheus_rules(limits))


@dataclass(frozen=True, kw_only=True)
class _Rule:
    name: str
    query: str
    summary: str
    severity: str = "warning"
    for_s: int = 0

    def to_plain(self) -> dict[str, Any]:
        lasting = {"for": f"{self.for_s}s"} if self.for_s else {}
        return {
            "alert": self.name,
            "expr": self.query,
            **lasting,
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary},
        }


def _monitors_own(limits: RuleLimits) -> Sequence[_Rule]:
    alerts = names.ALERTS.series
    waiting, failed = names.WAITING_DELIVERIES.series, names.FAILED_DELIVERIES.series
    return [
        _Rule(
            name="ModelyardAlertCritical",
            query=f'{alerts}{{severity="critical"}} > 0',
            summary="{{ $labels.alert }} of {{ $labels.model }} is critical.",
            severity="critical",
        ),
        _Rule(
            name="ModelyardAlertWarning",
            query=f'{alerts}{{severity="warning"}} > 0',
            summary="{{ $labels.alert }} of {{ $labels.model }} is beyond its limit.",
        ),
        _Rule(
            name="ModelyardAlertsNotDelivered",
            query=f"{waiting} > 0 and increase({failed}[15m]) > 0",
            summary="Alerts of {{ $labels.model }} do not reach the sink {{ $labels.sink }}.",
            for_s=limits.for_s,
        ),
    ]


def _from_counters(limits: RuleLimits) -> Sequence[_Rule]:
    predictions = f"sum by (model) (rate({names.PREDICTIONS.series}[5m]))"
    errors = f"sum by (model) (rate({names.ERRORS.series}[5m]))"
    latency = f"sum by (model, le) (rate({names.LATENCY.series}[5m]))"
    age = names.EVALUATION_AGE.series
    return [
        _Rule(
            name="ModelyardErrorRate",
            query=f"{errors} / {predictions} > {limits.error_rate:g}",
            summary=(
                "{{ $value | humanizePercentage }} of the predictions of {{ $labels.model }} fail."
            ),
            for_s=limits.for_s,
        ),
        _Rule(
            name="ModelyardLatency",
            query=f"histogram_quantile(0.99, {latency}) > {limits.latency_p99_ms / 1000.0:g}",
            summary=(
                "One in a hundred predictions of {{ $labels.model }} takes more than "
                "{{ $value | humanizeDuration }}."
            ),
            for_s=limits.for_s,
        ),
        _Rule(
            name="ModelyardEvaluationStale",
            query=f"{age} > {limits.evaluation_age_s:g} and on (model) {predictions} > 0",
            summary=(
                "Drift and alerts of {{ $labels.model }} were last evaluated "
                "{{ $value | humanizeDuration }} ago."
            ),
            for_s=limits.for_s,
        ),
    ]
