"""The figures that a rule may name are figures that a monitor has."""

import numpy as np
import pytest

from modelyard._core.clock import ManualClock
from modelyard.monitor import AlertRule, ModelMonitor
from modelyard.monitor.alerting.expressions import KNOWN_NAMES, Expression
from modelyard.monitor.figures import rule_figures

_EXAMPLES = {
    "prediction.quantiles.*": "prediction.quantiles.p50",
    "prediction.per_output.mean.*": "prediction.per_output.mean[0]",
    "prediction.per_output.std.*": "prediction.per_output.std[0]",
    "odd_values.*": "odd_values.bad_latency",
    "versions.*": "versions.v1",
}


@pytest.fixture
def busy_monitor():
    clock, rng = ManualClock(), np.random.default_rng(0)
    monitor = ModelMonitor(
        "ppo",
        clock=clock,
        window_size=300,
        background=False,
        prediction_kind="probabilities",
        alert_rules=[
            AlertRule(name="losing", metric="metrics.return.mean", below=-0.5),
            AlertRule(name="wrong", metric="performance.realised.accuracy.value", below=0.99),
        ],
    )
    for index in range(600):
        request_id = monitor.record_prediction(
            rng.random(), 0.01, rng.normal(size=3), error=index % 50 == 0, version_id="v1"
        )
        monitor.record_outcome(request_id, int(rng.integers(2)))
        monitor.record_metric("return", rng.normal())
        clock.advance(0.1)
        if index == 299:
            monitor.set_baseline()
    return monitor


def test_every_known_name_has_a_value_in_a_busy_monitor(busy_monitor):
    figures = rule_figures(
        busy_monitor._fresh(),
        busy_monitor.get_performance(),
        busy_monitor.get_summary()["prediction"],
    )
    for name in KNOWN_NAMES:
        now = name.removeprefix("baseline.")
        of_all = now.replace("ed.*", "ed.accuracy")
        text = _EXAMPLES.get(now, of_all.replace("*", "return"))
        Expression(text if name == now else f"baseline.{text}").value(figures)


def test_rules_see_performance_and_metrics_named_as_python_words(busy_monitor):
    names = {alert["name"] for alert in busy_monitor.get_alerts()}
    assert "wrong" in names
    assert "losing" not in names
