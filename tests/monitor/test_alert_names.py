"""The figures that a rule may name are figures that a monitor has."""

import numpy as np

from modelyard._core.clock import ManualClock
from modelyard.monitor import ModelMonitor
from modelyard.monitor.alerting.expressions import KNOWN_NAMES, Expression

_EXAMPLES = {
    "prediction.quantiles.*": "prediction.quantiles.p50",
    "prediction.per_output.mean.*": "prediction.per_output.mean[1]",
    "prediction.per_output.std.*": "prediction.per_output.std[1]",
    "odd_values.*": "odd_values.bad_latency",
    "versions.*": "versions.v1",
}


def test_every_known_name_has_a_value_in_the_summary_of_a_busy_monitor():
    clock, rng = ManualClock(), np.random.default_rng(0)
    monitor = ModelMonitor("ppo", clock=clock, window_size=300)
    for index in range(600):
        monitor.record_prediction(
            rng.normal(size=2), 0.01, rng.normal(size=3), error=index % 50 == 0, version_id="v1"
        )
        monitor.record_metric("sharpe", rng.normal())
        clock.advance(0.1)
        if index == 299:
            monitor.set_baseline()
    summary = monitor.get_summary()
    for name in KNOWN_NAMES:
        if not name.startswith("baseline."):
            text = _EXAMPLES.get(name, name.replace("*", "sharpe"))
            Expression(text).value(summary)
