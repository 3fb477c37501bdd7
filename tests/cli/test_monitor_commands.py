"""`modelyard monitor`: what a monitor has stored, for whoever asks."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from modelyard._core.clock import ManualClock
from modelyard.monitor import ModelMonitor
from modelyard.storage import tables as t


@pytest.fixture
def clock():
    # Commands have the machine's clock, by which windows grow old.
    return ManualClock(datetime.now(UTC) - timedelta(hours=1))


@pytest.fixture
def monitored(registry, clock):
    """A monitor that has seen one prediction."""
    monitor = ModelMonitor("ppo", store=registry.store, clock=clock, background=False)
    monitor.record_prediction(1.0, 0.01)
    monitor.flush()


@pytest.fixture
def serving(registry, clock):
    """What a process that serves ppo holds: a monitor that has seen latency rise and drift."""
    monitor = ModelMonitor("ppo", store=registry.store, clock=clock, background=False)
    rng = np.random.default_rng(0)
    for i in range(2400):
        if i == 1000:
            monitor.set_baseline()
        row = rng.normal(1.5 * (i >= 1000), 1.0, size=2)
        monitor.record_prediction(row, 0.5 if i >= 1000 else 0.01, row, version_id="ppo_v1")
        clock.advance(0.02)
    monitor.record_metric("sharpe", 1.5)
    monitor.get_summary()
    monitor.flush()
    return monitor


@pytest.fixture
def calm(registry, clock):
    """A monitor in whose three windows nothing has happened."""
    monitor = ModelMonitor(
        "ppo", window_size=300, store=registry.store, clock=clock, background=False
    )
    rng = np.random.default_rng(0)
    for i in range(900):
        if i == 300:
            monitor.set_baseline()
        monitor.record_prediction(0.0, 0.001, rng.normal(size=2))
        clock.advance(0.01)
    monitor.get_summary()
    monitor.flush()
    return monitor


def test_a_summary_is_that_of_the_monitor(run, run_json, serving):
    found = run_json("monitor", "summary", "ppo")
    assert found["latency"]["p99_ms"] == pytest.approx(500.0)
    assert (found["baseline"], found["model_name"]) == ("set", "ppo")
    shown = run("monitor", "summary", "ppo").stdout
    assert "latency (ms)" in shown
    assert "last prediction" in shown
    assert "UTC, 59 min ago" in shown
    assert 3500 < found["last_prediction_age_s"] < 3700
    assert "critical latency_p99_ms" in shown


def test_drift_is_told_with_its_reason_and_features(run, run_json, serving):
    found = run_json("monitor", "drift", "ppo")
    assert found["prediction"]["is_drifted"]
    assert found["feature"]["is_drifted"]
    shown = run("monitor", "drift", "ppo", "--top", 1).stdout
    assert shown.startswith("predictions: drifted (score")
    assert "feature_0" in shown or "feature_1" in shown


def test_the_exit_code_tells_of_drift_only_where_asked(run, serving):
    run("monitor", "drift", "ppo")
    run("monitor", "drift", "ppo", "--exit-code", exit_code=3)
    said = run("monitor", "drift", "ppo", "--exit-code", "--json", exit_code=3).stdout
    assert json.loads(said)["feature"]["is_drifted"]
    run("monitor", "drift", "nosuch", "--exit-code", exit_code=1)


def test_without_drift_the_exit_code_is_0(run, calm):
    run("monitor", "drift", "ppo", "--exit-code")


def test_drift_may_be_measured_in_another_way(run, run_json, serving):
    found = run_json("monitor", "drift", "ppo", "--method", "psi", "--threshold", 0.5)
    assert "psi" in found["feature"]["method"]
    assert found["feature"]["threshold"] == 0.5
    assert "'oops'" in run("monitor", "drift", "ppo", "--method", "oops", exit_code=1).stderr


def test_as_many_features_are_shown_as_were_asked_for(run, registry, clock):
    monitor = ModelMonitor(
        "ppo", window_size=250, store=registry.store, clock=clock, background=False
    )
    rng = np.random.default_rng(0)
    for i in range(500):
        if i == 250:
            monitor.set_baseline()
        monitor.record_prediction(0.0, 0.001, rng.normal(size=30))
    monitor.flush()
    shown = run("monitor", "drift", "ppo", "--top", 25).stdout
    assert shown.count("feature_") == 25


def test_alerts_can_be_chosen_by_severity_time_and_state(run, run_json, serving):
    every = run_json("monitor", "alerts", "ppo")
    assert "latency_p99_ms" in {alert["name"] for alert in every}
    critical = run_json("monitor", "alerts", "ppo", "--severity", "critical")
    assert {alert["severity"] for alert in critical} == {"critical"}
    assert run_json("monitor", "alerts", "ppo", "--since", "2030-01-01") == []
    assert all(alert["is_active"] for alert in run_json("monitor", "alerts", "ppo", "--active"))
    assert critical[0]["alert_id"] in run("monitor", "alerts", "ppo").stdout
    assert (
        "severity must be"
        in run("monitor", "alerts", "ppo", "--severity", "loud", exit_code=1).stderr
    )


def test_an_alert_is_acknowledged_and_resolved_for_every_process(run, run_json, serving):
    (alert,) = [a for a in run_json("monitor", "alerts", "ppo") if a["name"] == "latency_p99_ms"]
    shown = run("monitor", "ack", "ppo", alert["alert_id"], "--by", "ana").stdout
    assert "active, acknowledged by ana" in shown
    (again,) = [a for a in run_json("monitor", "alerts", "ppo") if a["name"] == "latency_p99_ms"]
    assert again["acknowledged_by"] == "ana"
    resolved = run_json("monitor", "resolve", "ppo", alert["alert_id"], "--by", "ana")
    assert (resolved["is_active"], resolved["resolved_by"]) == (False, "ana")
    assert "No alert 'alert-1'" in run("monitor", "ack", "ppo", "alert-1", exit_code=1).stderr


@pytest.mark.slow
def test_one_figure_over_time(run, run_json, serving):
    points = run_json("monitor", "query", "ppo", "latency.mean_ms")
    assert [point["value"] for point in points] == pytest.approx([10.0, 500.0])
    assert len(run_json("monitor", "query", "ppo", "error_rate", "--until", points[0]["at"])) == 1
    assert run_json("monitor", "query", "ppo", "error_rate", "--since", "2030-01-01") == []
    assert points[0]["at"][:10] in run("monitor", "query", "ppo", "n_predictions").stdout
    said = run("monitor", "query", "ppo", "latency.p42", exit_code=1).stderr
    assert "latency.p99_ms" in said


def test_baselines_are_listed(run, run_json, serving):
    (one,) = run_json("monitor", "baseline", "ppo")
    assert one["source"] == "window"
    assert "window" in run("monitor", "baseline", "ppo").stdout


def test_a_refreshed_baseline_is_that_of_the_next_monitor(run, run_json, calm, registry):
    run("monitor", "baseline", "ppo", "--refresh")
    again = ModelMonitor("ppo", window_size=300, store=registry.store, background=False)
    assert len(again.baseline_history()) == len(calm.baseline_history()) + 1
    assert again.baseline_history()[-1]["actor"].endswith("(cli)")
    assert again.detect_feature_drift()["drift_score"] == pytest.approx(0.0, abs=0.05)


def test_refreshing_a_baseline_stores_nothing_else(run, calm, registry):
    before = _rows(registry)
    run("monitor", "baseline", "ppo", "--refresh")
    after = _rows(registry)
    # Windows, chunks, alerts and deliveries; then the baseline and its audit.
    is_equal = [old == new for old, new in zip(before, after, strict=True)]
    assert is_equal == [True, True, True, True, False, False]


def test_what_has_drifted_becomes_the_baseline_by_force_only(run, run_json, serving):
    said = run("monitor", "baseline", "ppo", "--refresh", exit_code=1).stderr
    assert "prediction_drift: " in said
    assert "--force" in said
    last = run_json("monitor", "baseline", "ppo", "--refresh", "--force")[-1]
    assert last["forced"]
    assert "prediction_drift: " in last["reason"]


def test_too_few_predictions_are_no_baseline(run, monitored):
    said = run("monitor", "baseline", "ppo", "--refresh", "--force", exit_code=1).stderr
    assert "too few predictions" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["alerts", "--since", "never"], "got 'never'"),
        (["query", "error_rate", "--since", "never"], "got 'never'"),
        (["report", "--since", "never"], "got 'never'"),
        (["report", "--out", "."], "cannot be written"),
    ],
)
def test_errors_are_one_line_on_the_error_stream(run, monitored, words, said):
    result = run("monitor", words[0], "ppo", *words[1:], exit_code=1)
    assert result.stdout == ""
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_acknowledgement_reaches_the_process_that_serves(run, run_json, serving, clock):
    alert_id = run_json("monitor", "alerts", "ppo", "--active")[-1]["alert_id"]
    run("monitor", "ack", "ppo", alert_id, "--by", "ana")
    rng = np.random.default_rng(1)
    for _ in range(2):
        for row in rng.normal(1.5, 1.0, size=(500, 2)):
            serving.record_prediction(row, 0.5, row)
        clock.advance(5.0)
        serving.get_alerts()
        serving.flush()
    (own,) = [one for one in serving.get_alerts() if one["alert_id"] == alert_id]
    assert own["acknowledged_by"] == "ana"


def test_a_report_is_written(run, run_json, serving):
    assert run("monitor", "report", "ppo").stdout == "Report: ppo-monitoring.html\n"
    assert run_json("monitor", "report", "ppo", "--out", "out/p.html") == {"report": "out/p.html"}
    assert "Monitor of ppo" in Path("out/p.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "words",
    [
        ["summary", "pp0"],
        ["drift", "pp0"],
        ["alerts", "pp0"],
        ["query", "pp0", "error_rate"],
        ["baseline", "pp0"],
        ["report", "pp0"],
        ["ack", "pp0", "alert-1"],
        ["resolve", "pp0", "alert-1"],
    ],
)
def test_a_model_that_nobody_monitors_is_answered_with_those_that_are(run, monitored, words):
    result = run("monitor", *words, exit_code=1)
    assert result.stdout == ""
    assert "No monitor of 'pp0'" in result.stderr
    assert "Monitored are: ppo." in result.stderr
    assert not Path("pp0-monitoring.html").exists()


def test_where_nothing_is_monitored_that_is_said(run, registry, ids):
    said = run("monitor", "summary", "ppo", exit_code=1).stderr
    assert "No model has been monitored." in said


def test_looking_changes_nothing_that_is_stored(run, run_json, serving, registry):
    def stored():
        with registry.store.database.reading() as connection:
            return [
                connection.execute(table.select()).fetchall()
                for table in (t.alert, t.monitor_window, t.monitor_chunk, t.snapshot)
            ]

    before = stored()
    for words in ("summary", "drift", "alerts", "baseline"):
        run("monitor", words, "ppo")
    assert stored() == before


def test_dashboard_and_rules_are_written_as_files(run, run_json, tmp_path):
    dashboard, rules = tmp_path / "new" / "dashboard.json", tmp_path / "rules.yaml"
    assert run("monitor", "grafana", str(dashboard)).stdout == f"Dashboard: {dashboard}\n"
    assert run_json("monitor", "prometheus-rules", str(rules)) == {"rules": str(rules)}
    assert "modelyard_drift_score" in dashboard.read_text(encoding="utf-8")
    assert "alert:" in rules.read_text(encoding="utf-8")


@pytest.mark.slow
def test_looking_changes_nothing_and_judges_as_the_monitor_does(run_json, registry, clock):
    monitor = ModelMonitor(
        "ppo",
        window_size=300,
        alert_thresholds={"latency_p99_ms": 5.0, "feature_drift": 2.0},
        feature_names=["rsi", "macd"],
        store=registry.store,
        clock=clock,
        background=False,
    )
    rng = np.random.default_rng(0)
    for i in range(700):
        if i == 300:
            monitor.set_baseline()
        monitor.record_prediction(0.0, 0.006, rng.normal(i >= 300, 1.0, size=2))
        clock.advance(1.0)
    monitor.flush()
    before = _rows(registry)
    found = run_json("monitor", "summary", "ppo")
    drift = run_json("monitor", "drift", "ppo")["feature"]
    run_json("monitor", "query", "ppo", "drift.feature")
    run_json("monitor", "report", "ppo", "--out", "page.html")
    assert found["window_size"] == 300
    assert drift["threshold"] == 2.0
    assert not drift["is_drifted"]
    assert {column["name"] for column in drift["per_feature"]} == {"rsi", "macd"}
    assert _rows(registry) == before


def _rows(registry):
    tables = (t.monitor_window, t.monitor_chunk, t.alert, t.alert_delivery, t.snapshot, t.audit)
    with registry.store.database.reading() as connection:
        return [connection.execute(table.select()).all() for table in tables]
