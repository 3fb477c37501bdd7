"""Section 7.2's example and section 12.1's, call by call, through both import paths."""

import importlib
import json
import time

import pytest
import torch


@pytest.fixture(params=["modelyard.monitor", "src.models.monitor"])
def module(request):
    return importlib.import_module(request.param)


@pytest.mark.parametrize("n", [1, 1000])
def test_the_example_of_section_7_2(module, n, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monitor = module.ModelMonitor(
        model_name="ppo",
        window_size=1000,
        alert_thresholds={"latency_p99_ms": 100, "error_rate": 0.05, "prediction_drift": 0.3},
    )
    for _ in range(n):
        start = time.time()
        output, input_features = torch.rand(1, 4), torch.rand(1, 263)
        inference_time = time.time() - start
        monitor.record_prediction(
            prediction=output, latency=inference_time, features=input_features, error=False
        )
    monitor.set_baseline()
    summary = monitor.get_summary()
    assert summary["baseline"] == ("set" if n == 1000 else "collecting")
    drift_info = monitor.detect_prediction_drift()
    assert not drift_info["is_drifted"]
    if n == 1000:
        assert f"{drift_info['drift_score']:.3f}" == "0.000"
    assert monitor.get_alerts(severity="critical") == []
    assert monitor.export_metrics("logs/metrics.json") == "logs/metrics.json"
    json.loads((tmp_path / "logs" / "metrics.json").read_text())


def test_the_baseline_of_section_10_1_comes_before_any_data(module):
    monitor = module.ModelMonitor(model_name="ppo")
    monitor.set_baseline()
    assert monitor.detect_prediction_drift()["is_drifted"] is False
    assert monitor.detect_feature_drift()["is_drifted"] is False
    assert monitor.get_summary()["baseline"] == "collecting"
