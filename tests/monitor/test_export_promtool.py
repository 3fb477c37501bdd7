"""Prometheus' own tool on what is exported for it; skipped where it is not installed."""

import shutil
import subprocess

import pytest
import yaml

from modelyard.monitor.exporting.figures import Figures, Histogram
from modelyard.monitor.exporting.grafana import dashboard
from modelyard.monitor.exporting.prometheus import to_prometheus_text
from modelyard.monitor.exporting.prometheus_rules import write_prometheus_rules
from modelyard.monitor.recording.buckets import BOUNDS_S

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian's prometheus) is not installed"
)

# Ten percent errors, half of the predictions between 50 and 500 ms, and no evaluation.
_SERIES = {
    'modelyard_predictions_total{model="ppo"}': "0+600x30",
    'modelyard_prediction_errors_total{model="ppo"}': "0+60x30",
    'modelyard_prediction_latency_seconds_bucket{model="ppo",le="0.05"}': "0+300x30",
    'modelyard_prediction_latency_seconds_bucket{model="ppo",le="0.5"}': "0+600x30",
    'modelyard_prediction_latency_seconds_bucket{model="ppo",le="+Inf"}': "0+600x30",
    'modelyard_alerts_active{model="ppo",alert="drift",severity="critical"}': "1x30",
    'modelyard_evaluation_age_seconds{model="ppo"}': "0+60x30",
    'modelyard_alert_deliveries_waiting{model="ppo",sink="webhook"}': "2x30",
    'modelyard_alert_delivery_failures_total{model="ppo",sink="webhook"}': "0+1x30",
}
_SUMMARIES = {
    "ModelyardErrorRate": ({}, "10% of the predictions of ppo fail."),
    "ModelyardLatency": ({}, "One in a hundred predictions of ppo takes more than 491ms."),
    "ModelyardAlertCritical": (
        {"alert": "drift", "severity": "critical"},
        "drift of ppo is critical.",
    ),
    "ModelyardEvaluationStale": (
        {},
        "Drift and alerts of ppo were last evaluated 20m 0s ago.",
    ),
    "ModelyardAlertsNotDelivered": (
        {"sink": "webhook"},
        "Alerts of ppo do not reach the sink webhook.",
    ),
}


def promtool(*arguments, text=None, folder=None):
    done = subprocess.run(
        ["promtool", *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr


def test_the_text_passes_its_lint():
    figures = Figures(
        model_name="ppo",
        n_predictions=3,
        n_errors=0,
        latency_s=Histogram.of([0.1, 0.2, 99.0], BOUNDS_S),
        error_rate=0.0,
        active_alerts={("a", "info"): 1},
        metrics={'a "quoted"\nname': 1.0},
    )
    promtool("check", "metrics", text=to_prometheus_text(figures))


def test_the_rules_fire_when_they_should_with_their_messages(tmp_path):
    write_prometheus_rules(tmp_path / "rules.yaml")
    promtool("check", "rules", "rules.yaml", folder=tmp_path)
    expected = [
        {
            "eval_time": "20m",
            "alertname": name,
            "exp_alerts": [
                {
                    "exp_labels": {"model": "ppo", "severity": "warning", **labels},
                    "exp_annotations": {"summary": summary},
                }
            ],
        }
        for name, (labels, summary) in _SUMMARIES.items()
    ]
    quiet = {"eval_time": "20m", "alertname": "ModelyardAlertWarning", "exp_alerts": []}
    case = {
        "interval": "1m",
        "input_series": [{"series": key, "values": value} for key, value in _SERIES.items()],
        "alert_rule_test": [*expected, quiet],
    }
    test = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [case]}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test), encoding="utf-8")
    promtool("test", "rules", "test.yaml", folder=tmp_path)


def test_every_query_of_the_dashboard_can_be_read(tmp_path):
    queries = [
        target["expr"].replace("$__rate_interval", "5m").replace("$model", "a|b")
        for panel in dashboard()["panels"]
        for target in panel["targets"]
    ]
    rules = [{"record": f"test:query_{i}", "expr": query} for i, query in enumerate(queries)]
    text = yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]})
    (tmp_path / "queries.yaml").write_text(text, encoding="utf-8")
    promtool("check", "rules", "queries.yaml", folder=tmp_path)
