"""`modelyard monitor`: what a monitor in another process has stored, told and acted on."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import MetaData, select

from modelyard._core.clock import ManualClock
from modelyard.monitor import ModelMonitor

WINDOW = 250
READING = [
    ["summary", "ppo"],
    ["drift", "ppo"],
    ["drift", "ppo", "--method", "psi"],
    ["alerts", "ppo"],
    ["query", "ppo", "error_rate"],
    ["report", "ppo", "--out", "page.html"],
    ["baseline", "ppo"],
]


@pytest.fixture
def clock():
    # Commands tell the time themselves: windows of long ago would be made fewer.
    return ManualClock(datetime.now(UTC) - timedelta(hours=1))


@pytest.fixture
def recorder(registry, clock):
    """A monitor of the process that records; it has a rule of its own for latency."""
    return ModelMonitor(
        "ppo",
        window_size=WINDOW,
        alert_thresholds={"latency_p99_ms": 1.0},
        feature_names=["spread", "volume", "momentum"],
        store=registry.store,
        clock=clock,
        background=False,
    )


def record(monitor, clock, n, *, shift=0.0, latency_s=0.0005, seed=0):
    rng = np.random.default_rng(seed)
    for row in rng.normal(size=(n, 3)):
        row[2] += shift
        monitor.record_prediction(row.sum(), latency_s, row)
        clock.advance(0.01)
    monitor.flush()


@pytest.fixture
def calm(recorder, clock):
    """Six windows in which nothing happened, the first of them the baseline."""
    record(recorder, clock, WINDOW)
    recorder.set_baseline()
    record(recorder, clock, 5 * WINDOW, seed=1)
    return recorder


@pytest.fixture
def drifted(calm, clock):
    """One feature has moved, which has raised an alert."""
    record(calm, clock, WINDOW, shift=2.0, seed=2)
    calm.get_alerts()
    calm.flush()
    return calm


@pytest.fixture
def rows(registry):
    """Everything in the registry's database."""

    def read():
        tables = MetaData()
        with registry.store.database.reading() as connection:
            tables.reflect(connection)
            return {
                table.name: [tuple(row) for row in connection.execute(select(table))]
                for table in tables.sorted_tables
            }

    return read


def test_the_summary_is_that_of_the_process_that_records(run, run_json, drifted):
    found = run_json("monitor", "summary", "ppo")
    own = drifted.get_summary()
    for key in ("window_size", "n_window", "latency", "error_rate", "prediction"):
        assert found[key] == own[key], key
    assert by_id(found["active_alerts"]) == by_id(own["active_alerts"])
    shown = run("monitor", "summary", "ppo").stdout
    assert f"{WINDOW} of {WINDOW}" in shown
    assert "drifted, " in shown


def test_drift_names_the_feature_that_moved_first(run, run_json, drifted):
    found = run_json("monitor", "drift", "ppo")
    assert found["feature"]["top_features"][0]["name"] == "momentum"
    own = drifted.detect_feature_drift()
    assert found["feature"]["drift_score"] == pytest.approx(own["drift_score"])
    assert found["feature"]["reason"] == own["reason"]
    first_row = run("monitor", "drift", "ppo", "--top", 1).stdout.splitlines()[-2]
    assert "momentum" in first_row
    assert "yes" in first_row


def test_drift_may_be_measured_in_another_way(run_json, drifted):
    found = run_json("monitor", "drift", "ppo", "--method", "psi", "--threshold", 0.5)
    assert "psi" in found["feature"]["method"]
    assert found["feature"]["threshold"] == 0.5


def test_the_exit_code_tells_of_drift_only_where_asked(run, drifted):
    run("monitor", "drift", "ppo")
    run("monitor", "drift", "ppo", "--exit-code", exit_code=1)
    assert json.loads(run("monitor", "drift", "ppo", "--exit-code", "--json", exit_code=1).stdout)[
        "feature"
    ]["is_drifted"]


def test_without_drift_the_exit_code_is_0(run, calm):
    run("monitor", "drift", "ppo", "--exit-code")


@pytest.mark.parametrize("arguments", READING, ids=" ".join)
def test_looking_changes_nothing_in_the_store(run, drifted, rows, arguments):
    # The threshold for latency is the recorder's own: here nothing is over it.
    record_slow(drifted)
    before = rows()
    run("monitor", *arguments)
    assert rows() == before


def by_id(alerts):
    return {alert["alert_id"]: alert for alert in alerts}


def record_slow(monitor):
    """An alert that the defaults would not give, and no evaluation since."""
    for _ in range(WINDOW):
        monitor.record_prediction(0.0, 0.05, [0.0, 0.0, 0.0])
    monitor.get_alerts()
    monitor.flush()


def test_alerts_are_those_of_the_process_that_records(run, run_json, calm):
    record_slow(calm)
    names = [alert["name"] for alert in run_json("monitor", "alerts", "ppo")]
    assert "latency_p99_ms" in names
    assert by_id(run_json("monitor", "alerts", "ppo")) == by_id(calm.get_alerts())
    critical = run_json("monitor", "alerts", "ppo", "--severity", "critical")
    assert by_id(critical) == by_id(calm.get_alerts("critical"))
    assert run_json("monitor", "alerts", "ppo", "--since", "2999-01-01") == []
    assert "latency_p99_ms" in run("monitor", "alerts", "ppo", "--active").stdout


def test_an_acknowledgement_reaches_the_process_that_records(run, run_json, drifted, clock):
    alert_id = run_json("monitor", "alerts", "ppo", "--active")[-1]["alert_id"]
    shown = run("monitor", "ack", "ppo", alert_id, "--by", "anna").stdout
    assert "seen by anna" in shown
    for _ in range(2):
        record(drifted, clock, WINDOW, shift=2.0, seed=3)
        drifted.get_alerts()
    [own] = [one for one in drifted.get_alerts() if one["alert_id"] == alert_id]
    assert own["acknowledged_by"] == "anna"


def test_a_resolved_alert_stays_resolved_while_its_rule_is_in_breach(
    run, run_json, drifted, clock
):
    [alert] = [
        one
        for one in run_json("monitor", "alerts", "ppo", "--active")
        if one["name"] == "feature_drift"
    ]
    found = run_json("monitor", "resolve", "ppo", alert["alert_id"])
    assert not found["is_active"]
    assert found["resolved_by"].endswith("(cli)")
    for _ in range(2):
        record(drifted, clock, WINDOW, shift=2.0, seed=4)
        drifted.get_alerts()
    names = [one["name"] for one in run_json("monitor", "alerts", "ppo", "--active")]
    assert "feature_drift" not in names


def test_acknowledging_stores_no_verdict_of_the_command(run, run_json, drifted, rows):
    alert_id = run_json("monitor", "alerts", "ppo", "--active")[-1]["alert_id"]
    before = rows()
    run("monitor", "ack", "ppo", alert_id)
    after = rows()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"alert"}
    assert len(before["alert"]) == len(after["alert"])


def test_a_query_gives_one_point_a_window(run, run_json, calm):
    points = run_json("monitor", "query", "ppo", "latency.p99_ms")
    assert points == calm.query("latency.p99_ms")
    assert len(points) == 6
    assert run_json("monitor", "query", "ppo", "error_rate", "--until", "2000-01-01") == []
    assert points[-1]["at"][:19] in run("monitor", "query", "ppo", "latency.p99_ms").stdout


def test_the_report_tells_the_alerts_that_are_stored(run, calm, tmp_path):
    record_slow(calm)
    shown = run("monitor", "report", "ppo", "--out", "pages/ppo.html").stdout
    assert shown == "Report: pages/ppo.html\n"
    page = (tmp_path / "pages" / "ppo.html").read_text(encoding="utf-8")
    assert "latency_p99_ms is 50, over the threshold of 1." in page


def test_the_baseline_has_a_history(run, run_json, calm):
    found = run_json("monitor", "baseline", "ppo")
    assert found == {"baseline": "set", "history": calm.baseline_history()}
    assert "window" in run("monitor", "baseline", "ppo").stdout


def test_a_refreshed_baseline_is_used_by_the_next_monitor(run, run_json, calm, registry, rows):
    before = rows()
    run("monitor", "baseline", "ppo", "--refresh")
    again = ModelMonitor("ppo", window_size=WINDOW, store=registry.store, background=False)
    assert again.baseline_history()[-1]["actor"].endswith("(cli)")
    assert len(again.baseline_history()) == len(calm.baseline_history()) + 1
    assert again.detect_feature_drift()["drift_score"] == pytest.approx(0.0, abs=0.05)
    assert rows()["alert"] == before["alert"]


def test_a_window_that_has_drifted_becomes_the_baseline_by_force_only(run, run_json, drifted):
    said = run("monitor", "baseline", "ppo", "--refresh", exit_code=1).stderr
    assert "prediction_drift: 1 of 1 columns moved" in said
    assert "--force" in said
    run("monitor", "baseline", "ppo", "--refresh", "--force")
    last = run_json("monitor", "baseline", "ppo")["history"][-1]
    assert last["forced"]
    assert "prediction_drift" in last["reason"]


def test_too_few_predictions_are_no_baseline(run, recorder, clock):
    record(recorder, clock, 10)
    said = run("monitor", "baseline", "ppo", "--refresh", "--force", exit_code=1).stderr
    assert "too few predictions" in said


def test_options_come_from_the_configuration_file(run_json, calm, tmp_path):
    (tmp_path / "c.yaml").write_text(
        "monitoring: {window_size: 500, log_dir: logs, alert_thresholds: {feature_drift: 0.7}}"
    )
    found = run_json("monitor", "summary", "ppo", "--config", "c.yaml")
    assert found["window_size"] == 500
    assert found["drift"]["feature"]["threshold"] == 0.7
    assert not (tmp_path / "logs").exists()
    other = run_json("monitor", "summary", "ppo", "--config", "c.yaml", "--window-size", 300)
    assert other["window_size"] == 300


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["summary", "dqn"], "Monitored are: ppo."),
        (["alerts", "dqn"], "No monitor of 'dqn' has stored anything here."),
        (["ack", "dqn", "alert_1"], "No monitor of 'dqn'"),
        (["ack", "ppo", "alert_1"], "No alert 'alert_1'"),
        (["resolve", "ppo", "alert_1"], "No alert 'alert_1'"),
        (["query", "ppo", "oops"], "There is no figure 'oops'. There are: latency.mean_ms"),
        (["query", "ppo", "error_rate", "--since", "never"], "got 'never'"),
        (["alerts", "ppo", "--severity", "grave"], "severity must be one of"),
        (["alerts", "ppo", "--since", "never"], "got 'never'"),
        (["drift", "ppo", "--method", "oops"], "'oops'"),
        (["report", "ppo", "--out", "."], "cannot be written"),
        (["report", "ppo", "--since", "never"], "got 'never'"),
        (["summary", "ppo", "--config", "none.yaml"], "'none.yaml' cannot be read"),
        (["summary", "ppo", "--base-dir", "elsewhere"], "There is no registry in 'elsewhere'"),
    ],
)
def test_errors_are_one_line_on_the_error_stream(run, calm, arguments, said):
    result = run("monitor", *arguments, exit_code=1)
    assert result.stdout == ""
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_registry_without_monitors_says_so(run, registry):
    assert "No model is yet." in run("monitor", "summary", "ppo", exit_code=1).stderr
