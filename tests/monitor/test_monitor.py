"""`ModelMonitor`: recording, summary, alerts, baseline, export."""

import json
import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import torch

from modelyard._core.clock import ManualClock
from modelyard._core.errors import ConfigError, RequestNotFoundError, StorageError
from modelyard.monitor import ModelMonitor


@pytest.fixture
def clock():
    return ManualClock()


def record(monitor, clock, n, *, shift=0.0, latency=0.002, seed=0, error=False, width=4):
    rng = np.random.default_rng(seed)
    for _ in range(n):
        monitor.record_prediction(
            rng.normal(shift, 1, width), latency, rng.normal(shift, 1, 3), error=error
        )
        clock.advance(0.1)


# Recording


@pytest.mark.parametrize(
    ("prediction", "n_rows", "width"),
    [
        (0.5, 1, 1),
        (np.float32(0.5), 1, 1),
        ([0.1, 0.9], 1, 2),
        (np.ones((1, 4), dtype=np.float32), 1, 4),
        (np.ones((8, 4)), 8, 4),
        (torch.ones(3, 2, requires_grad=True), 3, 2),
        (torch.ones(2, dtype=torch.bfloat16), 1, 2),
        (np.ones((2, 3, 5)), 2, 15),
        (np.array([True, False]), 1, 2),
    ],
)
def test_numbers_of_every_form_are_predictions(prediction, n_rows, width, clock):
    monitor = ModelMonitor("ppo", clock=clock)
    monitor.record_prediction(prediction, 0.01)
    summary = monitor.get_summary()
    assert summary["total_predictions"] == 1
    assert summary["prediction"]["n"] == n_rows
    assert len(summary["prediction"]["per_output"]["mean"]) == width
    assert not any(summary["odd_values"].values())


@pytest.mark.parametrize(
    "odd",
    [
        float("nan"),
        np.array([1.0, np.inf, 0.0, 0.0]),
        np.ones(5),
        "text",
        object(),
        {},
        [],
        [[1, 2], [3]],
        1 + 2j,
        10**400,
        np.array(["a"]),
    ],
)
def test_odd_values_are_counted_and_never_raised(odd, clock):
    monitor = ModelMonitor("ppo", clock=clock)
    record(monitor, clock, 3)
    monitor.record_prediction(odd, "soon", odd)
    record(monitor, clock, 3)
    summary = monitor.get_summary()
    assert summary["total_predictions"] == 7
    assert sum(summary["odd_values"].values()) >= 2
    assert monitor.get_alerts(severity="info")[0]["name"] == "odd_values"
    json.dumps(summary, allow_nan=False)


def test_a_failed_prediction_may_have_no_value(clock):
    monitor = ModelMonitor("ppo", clock=clock)
    monitor.record_prediction(None, 0.01, error=True)
    monitor.record_prediction(None, 0.01)
    summary = monitor.get_summary()
    assert summary["error_rate"] == 0.5
    assert summary["odd_values"]["missing_prediction"] == 1


def test_the_recorded_array_may_be_reused_by_its_owner(clock):
    monitor = ModelMonitor("ppo", clock=clock)
    state = np.zeros(3)
    for i in range(5):
        state[:] = i
        monitor.record_prediction(state, 0.01, state)
    assert monitor.get_summary()["prediction"]["per_output"]["mean"] == [2.0, 2.0, 2.0]


def test_rows_too_wide_to_keep_are_counted(clock):
    monitor = ModelMonitor("ppo", clock=clock)
    monitor.record_prediction(1.0, 0.01, np.zeros(5000))
    assert monitor.get_summary()["odd_values"]["wrong_width_features"] == 1


def test_threads_lose_no_record():
    monitor = ModelMonitor("ppo", window_size=300, evaluate_every=50)

    def work():
        for i in range(400):
            monitor.record_prediction(np.ones(2) * i, 0.001, np.ones(3))
            if i % 100 == 0:
                monitor.get_summary()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert monitor.total_predictions == 1600
    assert monitor.health().n_predictions == 300


# Health


def test_summary_and_health_describe_the_last_window(clock):
    monitor = ModelMonitor("ppo", window_size=100, clock=clock)
    record(monitor, clock, 500, latency=9.0, error=True)
    for i in range(100):
        monitor.record_prediction(float(i), (i + 1) / 1000, error=i < 3, version_id="v1")
        clock.advance(0.5)
    summary, health = monitor.get_summary(), monitor.health()
    assert summary["latency"]["median_ms"] == pytest.approx(50.5)
    assert summary["latency"]["p99_ms"] == pytest.approx(np.quantile(np.arange(1, 101), 0.99))
    assert summary["throughput_qps"] == pytest.approx(2.0)
    assert summary["last_prediction_age_s"] == pytest.approx(0.5)
    assert datetime.fromisoformat(summary["last_prediction_at"]) == clock.now() - timedelta(
        seconds=0.5
    )
    clock.advance(1560.0)
    assert monitor.get_summary()["last_prediction_age_s"] == pytest.approx(1560.5)
    assert monitor.get_summary()["last_prediction_at"] == summary["last_prediction_at"]
    assert summary["error_rate"] == health.error_rate == 0.03
    assert health.n_errors == 3
    assert summary["versions"] == {"v1": 100}


def test_metrics_come_directly_or_as_outcomes(clock):
    monitor = ModelMonitor("ppo", window_size=50, clock=clock)
    request_id = monitor.record_prediction(1.0, 0.01)
    own = monitor.record_prediction(1.0, 0.01, request_id="mine")
    assert own == "mine"
    monitor.record_outcome(request_id, {"return": 0.02})
    monitor.record_outcome(request_id, {"return": 0.99})
    monitor.record_outcome("mine", {"return": np.float32(0.04)})
    monitor.record_metric("sharpe", 1.5)
    monitor.record_metric("sharpe", float("nan"))
    metrics = monitor.health().metrics
    assert (metrics["return"].n, metrics["return"].mean) == (2, pytest.approx(0.03))
    assert metrics["sharpe"].n == 1
    assert monitor.get_summary()["odd_values"]["non_finite_metrics"] == 1
    with pytest.raises(RequestNotFoundError, match="'other'"):
        monitor.record_outcome("other", {"return": 1.0})
    with pytest.raises(ConfigError, match="'sharpe'"):
        monitor.record_metric("sharpe", "high")


def test_metrics_keep_the_last_window(clock):
    monitor = ModelMonitor("ppo", window_size=10, clock=clock)
    for i in range(25):
        monitor.record_metric("sharpe", float(i))
    assert monitor.health().metrics["sharpe"].mean == 19.5


# Baseline


def test_a_baseline_before_any_data_is_the_next_full_window(clock):
    monitor = ModelMonitor("ppo", window_size=300, clock=clock)
    assert monitor.baseline_status == "none"
    monitor.set_baseline()
    assert monitor.get_summary()["baseline"] == "collecting"
    record(monitor, clock, 299)
    assert monitor.baseline_status == "collecting"
    assert monitor.baseline_health() is None
    record(monitor, clock, 1)
    assert monitor.baseline_status == "set"
    assert monitor.baseline_health().n_predictions == 300
    record(monitor, clock, 300, seed=1)
    assert not monitor.detect_prediction_drift()["is_drifted"]
    record(monitor, clock, 300, shift=1.0, seed=2)
    assert monitor.detect_prediction_drift()["is_drifted"]
    assert monitor.detect_feature_drift()["is_drifted"]


def test_a_baseline_from_data_is_used_at_once(clock):
    rng = np.random.default_rng(0)
    monitor = ModelMonitor("ppo", window_size=300, clock=clock)
    monitor.set_baseline(predictions=rng.normal(size=5000), features=torch.zeros(400, 2))
    for value in rng.normal(2.0, 1, 300):
        monitor.record_prediction(value, 0.01, [0.0, 0.0])
        clock.advance(0.1)
    assert monitor.detect_prediction_drift()["drift_score"] == pytest.approx(2.0, abs=0.2)
    assert monitor.detect_feature_drift()["drift_score"] == 0.0
    with pytest.raises(ConfigError, match="200 rows"):
        monitor.set_baseline(predictions=[1.0, 2.0])
    with pytest.raises(ConfigError, match="numbers"):
        monitor.set_baseline(features="all")


def test_a_baseline_travels_as_json_and_gives_the_same_verdict(clock):
    # Each evaluates when it records: a thread's verdict could be a few records old.
    one, two = (
        ModelMonitor("ppo", window_size=300, clock=clock, background=False) for _ in range(2)
    )
    assert one.baseline_state() is None
    record(one, clock, 300)
    one.record_metric("sharpe", 1.2)
    one.set_baseline()
    two.load_baseline(json.loads(json.dumps(one.baseline_state(), allow_nan=False)))
    for monitor in (one, two):
        record(monitor, clock, 300, shift=0.4, seed=3)
    drifts = [monitor.detect_feature_drift() for monitor in (one, two)]
    assert drifts[0]["drift_score"] == pytest.approx(drifts[1]["drift_score"], rel=1e-4)
    assert two.baseline_health().metrics["sharpe"].mean == 1.2
    with pytest.raises(ConfigError, match="baseline_state"):
        two.load_baseline({"predictions": 3})


def test_a_window_of_another_width_than_the_baseline_says_so(clock):
    monitor = ModelMonitor("ppo", window_size=300, clock=clock)
    monitor.set_baseline(predictions=np.random.default_rng(0).normal(size=(300, 7)))
    record(monitor, clock, 300)
    drift = monitor.detect_prediction_drift()
    assert drift["drift_score"] is None
    assert "7 columns, the window 4" in drift["reason"]


# Drift and alerts


def test_one_record_and_then_everything_answers(clock, tmp_path):
    monitor = ModelMonitor("ppo", clock=clock, log_dir=tmp_path / "logs")
    monitor.set_baseline()
    record(monitor, clock, 1)
    drift = monitor.detect_prediction_drift()
    assert drift["is_drifted"] is False
    assert drift["drift_score"] is None
    assert "No baseline yet" in drift["reason"]
    assert monitor.get_alerts() == []
    assert monitor.get_summary()["throughput_qps"] is None
    path = monitor.export_metrics(tmp_path / "new" / "metrics.json")
    assert json.loads((tmp_path / "new" / "metrics.json").read_text())["summary"]["n_window"] == 1
    assert path.endswith("metrics.json")


def test_below_two_hundred_samples_there_is_no_verdict(clock):
    monitor = ModelMonitor("ppo", window_size=300, clock=clock)
    monitor.set_baseline(predictions=np.zeros((300, 4)))
    record(monitor, clock, 199, shift=9.0)
    drift = monitor.detect_prediction_drift()
    assert drift["drift_score"] is None
    assert "199 samples in the window; a verdict needs 200" in drift["reason"]


def test_features_that_moved_most_come_first_by_name(clock):
    rng = np.random.default_rng(0)
    names = ["rsi", "macd", "volume"]
    monitor = ModelMonitor("ppo", window_size=300, clock=clock, feature_names=names)
    monitor.set_baseline(features=rng.normal(size=(300, 3)))
    for row in rng.normal([0.0, 2.0, 0.5], 1, size=(300, 3)):
        monitor.record_prediction(0.0, 0.01, row)
    drift = monitor.detect_feature_drift()
    assert [column["name"] for column in drift["top_features"]] == ["macd", "volume", "rsi"]
    assert [column["is_drifted"] for column in drift["per_feature"]] == [False, True, True]


@pytest.mark.parametrize(
    ("latency", "severity"), [(0.05, None), (0.15, "warning"), (0.25, "critical")]
)
def test_latency_over_the_threshold_warns_and_over_twice_is_critical(latency, severity, clock):
    monitor = ModelMonitor("ppo", alert_thresholds={"latency_p99_ms": 100}, clock=clock)
    record(monitor, clock, 60, latency=latency)
    assert [alert["severity"] for alert in monitor.get_alerts()] == (
        [severity] if severity else []
    )


def test_a_few_predictions_raise_no_alarm(clock):
    monitor = ModelMonitor("ppo", clock=clock)
    record(monitor, clock, 5, latency=3.0, error=True)
    assert monitor.get_alerts() == []


def test_an_alert_is_said_once_with_count_and_times_and_resolved(clock):
    monitor = ModelMonitor(
        "ppo",
        window_size=100,
        evaluate_every=10,
        alert_cooldown_s=0,
        background=False,
        clock=clock,
    )
    record(monitor, clock, 100, error=True)
    (alert,) = monitor.get_alerts(severity="critical")
    assert alert["name"] == "error_rate"
    assert alert["count"] > 1
    assert alert["first_seen"] < alert["last_seen"]
    assert alert["is_active"]
    record(monitor, clock, 200)
    (alert,) = monitor.get_alerts()
    assert not alert["is_active"]
    record(monitor, clock, 100, error=True)
    assert len(monitor.get_alerts()) == 2
    assert len(monitor.get_alerts(since=alert["resolved_at"])) == 1
    tomorrow = datetime(2024, 1, 2, tzinfo=UTC) + timedelta(days=1)
    assert monitor.get_alerts(since=tomorrow) == []
    assert len(monitor.get_alerts(since=datetime(2023, 1, 1))) == 2  # noqa: DTZ001 - taken as UTC


def test_verdicts_are_read_from_memory_until_they_are_old(clock, monkeypatch):
    monitor = ModelMonitor("ppo", window_size=300, clock=clock)
    record(monitor, clock, 300)
    calls = []
    real = monitor._evaluate
    monkeypatch.setattr(monitor, "_evaluate", lambda: calls.append(1) or real())
    for _ in range(5):
        monitor.get_summary()
    first = len(calls)
    monitor.record_prediction(np.zeros(4), 0.01)
    monitor.get_summary()
    assert len(calls) == first <= 1
    clock.advance(1.0)
    monitor.get_summary()
    assert len(calls) == first + 1


def test_evaluations_are_logged_as_lines(clock, tmp_path):
    monitor = ModelMonitor("ppo", clock=clock, log_dir=tmp_path / "monitoring", background=False)
    record(monitor, clock, 250)
    lines = (tmp_path / "monitoring" / "ppo.jsonl").read_text().splitlines()
    assert len(lines) == 2
    assert json.loads(lines[0])["event"] == "evaluation"
    assert json.loads(lines[1])["n_predictions"] == 200


def test_a_log_that_cannot_be_written_stops_nobody(clock, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    monitor = ModelMonitor("ppo", clock=clock, log_dir=tmp_path / "file", background=False)
    record(monitor, clock, 150)
    assert "cannot be written" in caplog.text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"window_size": 0}, "window_size"),
        ({"evaluate_every": 0}, "evaluate_every"),
        ({"alert_thresholds": {"latency": 3}}, "latency_p99_ms"),
        ({"alert_thresholds": {"error_rate": -1}}, "above 0"),
        ({"durability": "maybe"}, "sync"),
    ],
)
def test_arguments_that_break_a_rule_say_which(options, said):
    with pytest.raises(ConfigError, match=said):
        ModelMonitor("ppo", **options)


def test_names_and_severities_are_checked():
    with pytest.raises(ConfigError, match="model_name"):
        ModelMonitor("../ppo")
    with pytest.raises(ConfigError, match="info, warning, critical"):
        ModelMonitor("ppo").get_alerts(severity="high")


def test_a_threshold_of_none_raises_no_alert(clock):
    thresholds = {"latency_p99_ms": None, "error_rate": 0.5}
    monitor = ModelMonitor("ppo", alert_thresholds=thresholds, clock=clock)
    record(monitor, clock, 100, latency=5.0)
    assert monitor.get_alerts() == []


# What has stopped, and what is old


def watched(clock, **options):
    """A monitor with a baseline of 500 predictions, four outputs and three features wide."""
    monitor = ModelMonitor("ppo", window_size=500, clock=clock, **options)
    record(monitor, clock, 500)
    monitor.set_baseline()
    return monitor


def alert_names(monitor, severity):
    return {alert["name"] for alert in monitor.get_alerts(severity=severity)}


@pytest.mark.parametrize("n", [100, 500])
@pytest.mark.parametrize(
    "stopped", [np.full(4, np.nan), np.full(4, np.inf), np.zeros(5)], ids=["nan", "inf", "width"]
)
def test_predictions_that_stop_being_comparable_are_an_alert_and_no_verdict(stopped, n, clock):
    monitor = watched(clock)
    rng = np.random.default_rng(1)
    for _ in range(n):
        monitor.record_prediction(stopped, 0.01, rng.normal(size=3))
        clock.advance(0.1)
    found = monitor.detect_prediction_drift()
    assert found["drift_score"] is None
    assert not found["is_drifted"]
    assert "4 of 4 columns" in found["reason"] or "4 columns, the window 5" in found["reason"]
    names = alert_names(monitor, "warning") | alert_names(monitor, "critical")
    assert names == {"prediction_data"}


def test_one_feature_that_stops_is_a_warning_and_not_within_the_threshold(clock):
    monitor = watched(clock)
    rng = np.random.default_rng(1)
    for _ in range(100):
        features = rng.normal(size=3)
        features[1] = np.nan
        monitor.record_prediction(rng.normal(size=4), 0.01, features)
        clock.advance(0.1)
    found = monitor.detect_feature_drift()
    assert not found["is_drifted"]
    assert "1 of 3 columns" in found["reason"]
    assert "within" not in found["reason"]
    assert alert_names(monitor, "warning") == {"feature_data"}


def test_a_window_of_another_width_than_the_loaded_baseline_is_a_warning(clock):
    state = watched(clock).baseline_state()
    other = ModelMonitor("ppo", window_size=500, clock=clock)
    other.load_baseline(state)
    record(other, clock, 300, width=6)
    assert "The baseline has 4 columns, the window 6" in other.detect_prediction_drift()["reason"]
    assert alert_names(other, "warning") == {"prediction_data"}


def test_columns_that_return_resolve_the_alert(clock):
    monitor = watched(clock)
    rng = np.random.default_rng(1)
    for n, scale in ((100, np.nan), (60, 1.0), (400, 1.0)):
        for _ in range(n):
            monitor.record_prediction(scale * rng.normal(size=4), 0.01)
            clock.advance(0.1)
        monitor.detect_prediction_drift()
        if n == 60:  # a fifth of the window is missing still
            assert "miss up to 20% of rows" in monitor.detect_prediction_drift()["reason"]
    alerts = [a for a in monitor.get_alerts() if a["name"] == "prediction_data"]
    assert [alert["is_active"] for alert in alerts] == [False]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_baseline_without_a_finite_value_is_refused(value, clock):
    with pytest.raises(ConfigError, match="finite"):
        ModelMonitor("ppo", clock=clock).set_baseline(predictions=np.full((500, 2), value))


def test_a_window_too_small_for_a_verdict_says_so_at_once_and_in_every_reason(clock, caplog):
    monitor = ModelMonitor("ppo", window_size=100, clock=clock)
    assert "window_size 100 is below the 200 samples" in caplog.text
    monitor.set_baseline(predictions=np.random.default_rng(0).normal(size=(300, 4)))
    record(monitor, clock, 150)
    reason = monitor.detect_prediction_drift()["reason"]
    assert "window_size is below the 200 samples a verdict needs" in reason


def test_the_summary_counts_are_those_of_now_while_the_clock_stands_still(clock):
    monitor = ModelMonitor("ppo", clock=clock)
    monitor.record_prediction(1.0, 0.01)
    monitor.get_summary()
    monitor.record_prediction(None, 0.01, error=True)
    summary = monitor.get_summary()
    assert (summary["total_predictions"], summary["n_window"]) == (2, 2)
    assert summary["error_rate"] == 0.5


def test_a_read_is_evaluated_anew_after_a_tenth_of_a_window(clock):
    monitor = watched(clock, evaluate_every=10_000)
    before = monitor.detect_prediction_drift()
    for _ in range(50):
        monitor.record_prediction(np.full(4, 9.0), 0.01)
    assert monitor.detect_prediction_drift()["drift_score"] > before["drift_score"]


# Arguments


@pytest.mark.parametrize("value", ["a", [1], -1, float("nan")])
def test_a_threshold_that_is_no_positive_number_is_refused(value):
    with pytest.raises(ConfigError, match="error_rate"):
        ModelMonitor("ppo", alert_thresholds={"error_rate": value})


@pytest.mark.parametrize("since", ["zz", 5])
def test_a_since_that_is_no_time_is_refused(since, clock):
    with pytest.raises(ConfigError, match="since"):
        ModelMonitor("ppo", clock=clock).get_alerts(since=since)


def test_metrics_that_cannot_be_written_are_a_storage_error(tmp_path, clock):
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "metrics.json"):
        with pytest.raises(StorageError, match="cannot be written"):
            ModelMonitor("ppo", clock=clock).export_metrics(path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "odd",
    [np.full(4, np.inf), np.array([np.inf, -np.inf, 1.0, np.nan]), np.full(4, 1e200)],
    ids=["infinite", "mixed", "huge"],
)
def test_infinite_and_huge_values_warn_nobody(odd, clock):
    monitor = ModelMonitor("ppo", window_size=300, clock=clock)
    for seed in range(2):
        record(monitor, clock, 250, seed=seed)
        for _ in range(100):
            monitor.record_prediction(odd, 1e308, odd[:3])
        monitor.set_baseline()
        json.dumps(monitor.get_summary(), allow_nan=False)
    monitor.set_baseline(predictions=np.vstack([np.tile(odd, (300, 1)), np.ones((4000, 4))]))
    json.dumps(monitor.get_summary(), allow_nan=False)
    json.dumps(monitor.baseline_state(), allow_nan=False)
