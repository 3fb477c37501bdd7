"""Rules over figures of the performance."""

import numpy as np
import pytest

from modelyard._core.errors import ConfigError
from modelyard.monitor.alerting.readings import State
from modelyard.monitor.alerting.rules import AlertRule


def figures(of_performance):
    return {"n_window": 1000, "performance": of_performance}


def performance(n):
    figure = {"value": 0.2, "lower": 0.1, "upper": 0.4, "n": n}
    metrics = {"return": {"mean": figure, "sharpe": figure}}
    return {"realised": {"accuracy": figure}, "estimated": {}, "metrics": metrics}


@pytest.mark.parametrize(
    "metric",
    [
        "performance.realised.accuracy.value",
        "performance.realised.accuracy.upper",
        "performance.metrics.return.mean.value",
        "performance.metrics.return.sharpe.lower",
    ],
)
def test_a_figure_of_the_performance_needs_values_of_its_own(metric):
    rule = AlertRule(name="bad", metric=metric, below=0.5)
    few = rule.reading(figures(performance(1)))
    assert few.state is State.UNKNOWN
    what = metric.rpartition(".")[0]
    assert few.message == f"bad: 1 values of {what}; the rule needs 50 (min_samples)."
    assert rule.reading(figures(performance(50))).state is State.BREACH


def test_a_rule_may_watch_how_many_outcomes_there_are():
    rule = AlertRule(name="few", metric="performance.realised.accuracy.n", below=20, min_samples=0)
    assert rule.reading(figures(performance(3))).state is State.BREACH
    assert rule.reading(figures(performance(30))).state is State.CALM


def test_the_numbers_of_a_rule_may_be_those_of_numpy():
    rule = AlertRule(name="r", metric="error_rate", above=np.float32(0.5), min_samples=np.int64(3))
    assert type(rule.reading({}).threshold) is float
    with pytest.raises(ConfigError, match="min_samples must be a whole number"):
        AlertRule(name="r", metric="error_rate", above=1.0, min_samples="many")
