"""The design document's examples, section by section: the same calls in the same order."""

import json
import random
import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def test_section_3_2_versions(home, new_policy, state):
    manager = home("version_manager").ModelVersionManager(base_dir="models")
    trained = new_policy(512)
    version_id = manager.save_model(
        model=trained,
        model_name="ppo",
        metrics={"sharpe": 1.8, "cagr": 0.25, "max_dd": 0.15, "win_rate": 0.58},
        config={"hidden_dim": 512, "learning_rate": 1e-4},
        description="Better rewards",
        tags=["production", "v2"],
    )
    versions = manager.list_versions(model_name="ppo")
    assert [version["version_id"] for version in versions] == [version_id]
    best = manager.get_best_version(model_name="ppo", metric="sharpe")
    model = manager.load_model(version_id=best["version_id"], load_full=True)
    assert torch.equal(model(state(3)), trained(state(3)))
    second = manager.save_model(new_policy(64), "ppo", {"sharpe": 2.0}, {"hidden_dim": 64}, "", [])
    comparison = manager.compare_versions(version_id, second)
    assert comparison["metrics"]["sharpe"]["difference"] == pytest.approx(0.2)
    assert manager.rollback_to_version(version_id)["version_id"] == version_id
    # Section 3.3: the keys of a version.
    expected = {"version_id", "model_name", "timestamp", "datetime", "metrics", "config"}
    assert expected | {"description", "tags", "path"} <= best.keys()
    assert best["path"] == f"models/ppo/{version_id}"
    json.dumps([versions, best, comparison])


def test_section_4_2_compression(home, new_policy):
    compressor = home("compression").ModelCompressor(new_policy(128))
    assert f"{compressor.original_size:.2f} MB" == "0.14 MB"
    pruned = compressor.prune_model(amount=0.3, method="l1_unstructured", layers_to_prune=None)
    assert f"{pruned['actual_sparsity']:.2%}" == "30.00%"
    assert int(f"{pruned['pruned_params']:,}".replace(",", "")) > 10_000
    compressor.make_pruning_permanent()

    quantized = compressor.dynamic_quantization(dtype=torch.qint8)
    assert quantized["compression_ratio"] > 2.0
    assert f"{quantized['quantized_size_mb']:.2f} MB".endswith(" MB")
    compressor.quantize_model(dtype=torch.qint8, backend="fbgemm")
    compressor.calibrate_quantization(torch.randn(100, 263))

    labels = torch.randint(0, 4, (64,))
    loader = DataLoader(TensorDataset(torch.randn(64, 263), labels), batch_size=32)
    teacher = nn.Sequential(nn.Linear(263, 64), nn.ReLU(), nn.Linear(64, 4))
    student = nn.Sequential(nn.Linear(263, 8), nn.ReLU(), nn.Linear(8, 4))
    student = compressor.knowledge_distillation(
        teacher_model=teacher,
        student_model=student,
        train_loader=loader,
        temperature=3.0,
        alpha=0.5,
        epochs=10,
    )
    assert student(torch.randn(5, 263)).shape == (5, 4)
    json.dumps(compressor.get_compression_stats())


def test_section_5_inference(home):
    model = nn.Sequential(nn.Linear(100, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    x, x_batch = torch.randn(1, 100), torch.randn(70, 100)
    with torch.inference_mode():
        one, batch = model(x), model(x_batch)  # before the model is moved to a GPU
    optimizer = home("inference_optimizer").InferenceOptimizer(
        model=model, device="cuda", batch_size=32, use_amp=True, cache_size=1000
    )
    optimizer.optimize_for_inference()
    bound = {"rtol": 0.05, "atol": 0.05}  # reduced precision was asked for
    torch.testing.assert_close(optimizer.predict(x), one, **bound)
    torch.testing.assert_close(optimizer.predict_batch(x_batch), batch, **bound)
    results = optimizer.predict_streaming([x_batch[i : i + 1] for i in range(70)])
    torch.testing.assert_close(torch.cat(results), batch, **bound)
    assert optimizer.benchmark(input_shape=(1, 100), num_iterations=1000)["throughput_qps"] > 0
    stats = optimizer.get_performance_stats()
    assert float(f"{stats['p99_latency_ms']:.2f}") >= 0.0
    # The stream asked for what the batch had computed.
    assert f"{optimizer.get_cache_stats()['hit_rate']:.2%}" == "49.65%"
    json.dumps(stats)


def test_section_6_export(home, new_policy, state):
    exporter = home("export").ModelExporter(output_dir="models/onnx")
    model = new_policy()
    onnx_path = exporter.export_to_onnx(
        model=model,
        model_name="ppo",
        input_shape=(1, 263),
        opset_version=14,
        dynamic_axes={"input": {0: "batch_size"}, "output": {0: "batch_size"}},
        verify=True,
    )
    info = exporter.get_model_info(onnx_path)
    assert f"{info['file_size_mb']:.2f} MB" == "0.03 MB"
    assert info["opset_version"] == 14
    assert info["inputs"][0] == {"name": "input", "shape": ["batch_size", 263], "dtype": "float32"}
    comparison = exporter.compare_outputs(
        pytorch_model=model, onnx_path=onnx_path, test_input=state(3)
    )
    assert comparison["is_close"]
    results = exporter.benchmark_onnx(
        onnx_path=onnx_path, input_shape=(1, 263), num_iterations=1000
    )
    assert results["p99_latency_ms"] > 0
    json.dumps([info, comparison, results])


def test_section_7_monitoring(home, new_policy, state):
    monitor = home("monitor").ModelMonitor(
        model_name="ppo",
        window_size=1000,
        alert_thresholds={"latency_p99_ms": 100, "error_rate": 0.05, "prediction_drift": 0.3},
    )
    output = new_policy()(state()).detach()
    monitor.record_prediction(prediction=output, latency=0.004, features=state(), error=False)
    monitor.set_baseline()
    summary = monitor.get_summary()
    assert (summary["total_predictions"], summary["baseline"]) == (1, "collecting")
    drift_info = monitor.detect_prediction_drift()
    assert not (drift_info and drift_info["is_drifted"])
    assert monitor.get_alerts(severity="critical") == []
    written = json.loads(Path(monitor.export_metrics("logs/metrics.json")).read_text())
    assert written["summary"]["model_name"] == "ppo"


def test_section_8_experiment(home, new_policy, state):
    ab_testing = home("ab_testing")
    variant_a = ab_testing.ModelVariant(name="model_v1", model=new_policy(), traffic_weight=0.5)
    variant_b = ab_testing.ModelVariant(
        name="model_v2", model=new_policy(seed=1), traffic_weight=0.5
    )
    ab_test = ab_testing.ABTest(
        test_name="model_comparison",
        variants=[variant_a, variant_b],
        primary_metric="sharpe_ratio",
        min_samples=100,
        confidence_level=0.95,
    )
    rng = random.Random(0)  # noqa: S311 - not for secrets
    for i in range(1000):
        prediction, variant_name = ab_test.predict(data=state(), user_id=f"user_{i}")
        assert prediction.shape == (1, 4)
        ab_test.record_result(
            variant_name, {"sharpe_ratio": rng.gauss(1.0 + (variant_name == "model_v2"), 0.5)}
        )
    stats = ab_test.get_variant_stats()
    assert stats["model_v1"]["sample_count"] + stats["model_v2"]["sample_count"] == 1000
    comparison = ab_test.compare_variants("model_v1", "model_v2")
    assert f"{comparison['statistics']['p_value']:.4f}" == "0.0000"
    assert comparison["result"]["winner"] == "model_v2"
    assert f"{comparison['result']['relative_improvement_percent']:.2f}%".endswith("%")
    assert comparison["result"]["recommendation"]
    winner = ab_test.get_winner()
    other = "model_v1" if winner == "model_v2" else "model_v2"
    ab_test.update_traffic_weights({winner: 0.9, other: 0.1})
    ab_test.stop_test()
    json.dumps([stats, comparison])


def test_section_8_bandit(home):
    bandit = home("ab_testing").MultiArmedBandit(
        variants=["model_v1", "model_v2", "model_v3"], algorithm="ucb", epsilon=0.1
    )
    rng = np.random.default_rng(0)
    for _ in range(1000):
        variant = bandit.select_variant()
        reward = rng.normal({"model_v1": 0.0, "model_v2": 0.3, "model_v3": 0.1}[variant], 0.2)
        bandit.update(variant, reward)
    stats = bandit.get_statistics()
    assert max(stats["values"].items(), key=lambda pair: pair[1])[0] == "model_v2"
    json.dumps(stats)


@pytest.fixture
def production(home, new_policy):
    """A registry with a version in production and a better one; a monitor with 1,200 records."""
    manager = home("version_manager").ModelVersionManager(base_dir="models")
    ids = [
        manager.save_model(new_policy(seed=i), "ppo", {"sharpe": 1.0 + i}, {"hidden_dim": 32})
        for i in range(2)
    ]
    manager.rollback_to_version(ids[0])
    monitor = home("monitor").ModelMonitor(model_name="ppo")
    for output in torch.randn(1200, 4):
        monitor.record_prediction(prediction=output, latency=0.001, features=output)
    return SimpleNamespace(manager=manager, monitor=monitor, ids=ids)


CONFIG = {
    "performance_threshold": 0.8,
    "drift_threshold": 0.3,
    "error_rate_threshold": 0.05,
    "min_samples": 1000,
    "cooldown_hours": 24,
    "auto_rollback": True,
}


@pytest.mark.parametrize("is_failing", [False, True])
def test_section_9_updates(home, production, is_failing):
    update_strategy = home("update_strategy")
    strategy = update_strategy.UpdateStrategy(
        version_manager=production.manager, monitor=production.monitor, config=CONFIG
    )
    strategy.set_baseline()
    for _ in range(200 if is_failing else 0):
        production.monitor.record_prediction(prediction=None, latency=0.001, error=True)
    decision = strategy.should_update()
    assert decision["should_update"] is is_failing
    if decision["should_update"]:
        assert any("error rate 20.0% (200 of 1000)" in text for text in decision["reasons"])
        result = strategy.update_model(
            new_version_id=production.ids[1],
            trigger=update_strategy.UpdateTrigger.PERFORMANCE_DEGRADATION,
            smooth_transition=True,
        )
        assert result["shares"] == {production.ids[0]: 0.9, production.ids[1]: 0.1}
    rollback_decision = strategy.should_rollback()
    assert rollback_decision["should_rollback"] is is_failing
    if rollback_decision["should_rollback"]:
        assert strategy.rollback()["rolled_back"]
    history = strategy.get_update_history(limit=10)
    assert [record["status"] for record in history] == (["rolled_back"] if is_failing else [])
    json.dumps([decision, rollback_decision, history])


@pytest.fixture
def deployed(home, new_policy, state, caplog):
    """Section 10.1, which section 10.2 goes on from."""
    version_manager = home("version_manager").ModelVersionManager("models")
    exporter = home("export").ModelExporter("models/onnx")
    ab_testing = home("ab_testing")
    old = ab_testing.ModelVariant("old", new_policy(), 0.5)
    new = ab_testing.ModelVariant("new", new_policy(seed=1), 0.5)

    model = new_policy(64)
    compressor = home("compression").ModelCompressor(model)
    compressor.prune_model(amount=0.3)
    compressor.dynamic_quantization()
    version_id = version_manager.save_model(
        model=model, model_name="ppo", metrics={"sharpe": 1.1}, config={"hidden_dim": 64}
    )
    onnx_path = exporter.export_to_onnx(model=model, model_name="ppo", input_shape=(1, 263))
    optimizer = home("inference_optimizer").InferenceOptimizer(model=model)
    optimizer.optimize_for_inference()
    ab_testing.ABTest(
        test_name="new_model_test", variants=[old, new], primary_metric="sharpe_ratio"
    )
    monitor = home("monitor").ModelMonitor(model_name="ppo")
    monitor.set_baseline()
    strategy = home("update_strategy").UpdateStrategy(
        version_manager=version_manager, monitor=monitor
    )
    said = [record.getMessage() for record in caplog.records if "compressor.model" in record.msg]
    return SimpleNamespace(
        version_manager=version_manager,
        version_id=version_id,
        exporter=exporter,
        onnx_path=onnx_path,
        model=model,
        optimizer=optimizer,
        monitor=monitor,
        strategy=strategy,
        said=said,
    )


def test_section_10_1_whole_flow(deployed, state):
    loaded = deployed.version_manager.load_model(deployed.version_id, load_full=True)
    assert torch.equal(loaded(state()), deployed.model.cpu()(state()))
    assert deployed.exporter.compare_outputs(deployed.model, deployed.onnx_path, state(4))[
        "is_close"
    ]
    # The flow saves and exports the model it has just compressed a copy of: said once.
    assert len(deployed.said) == 1


def test_section_10_2_production_loop(deployed, state):
    traded = []
    for turn in count():
        market_state = state(seed=turn)
        start_time = time.time()
        action = deployed.optimizer.predict(market_state)
        latency = time.time() - start_time
        deployed.monitor.record_prediction(
            prediction=action, latency=latency, features=market_state
        )
        if deployed.strategy.should_update()["should_update"]:
            best = deployed.version_manager.get_best_version("ppo", "sharpe")
            deployed.strategy.update_model(best["version_id"])
        traded.append(action)
        if turn == 200:
            break
    assert len(traded) == 201
    assert deployed.strategy.get_update_history() == []


def test_section_10_2_updates_once_when_requests_fail(deployed):
    for _ in range(1100):
        deployed.monitor.record_prediction(prediction=None, latency=0.001, error=True)
        if deployed.strategy.should_update()["should_update"]:
            best = deployed.version_manager.get_best_version("ppo", "sharpe")
            deployed.strategy.update_model(best["version_id"])
    assert len(deployed.strategy.get_update_history()) == 1


def test_section_12_latency(home):
    optimizer = home("inference_optimizer").InferenceOptimizer
    assert optimizer(batch_size=64).batch_size == 64
    assert optimizer(cache_size=2000).get_cache_stats()["max_size"] == 2000
    optimizer(use_amp=True)


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_section_12_degradation(home, production, shift):
    strategy = home("update_strategy").UpdateStrategy(
        version_manager=production.manager, monitor=production.monitor
    )
    strategy.update_model(production.ids[1], smooth_transition=False)
    production.monitor.set_baseline()
    for output in torch.randn(1200, 4) + shift:
        production.monitor.record_prediction(prediction=output, latency=0.001)

    drift_info = production.monitor.detect_prediction_drift()
    assert drift_info["is_drifted"] is (shift > 0)
    if drift_info["is_drifted"]:
        assert strategy.rollback()["to_version_id"] == production.ids[0]
    best = production.manager.get_best_version("ppo", "sharpe")
    state = strategy.update_model(best["version_id"])
    assert state["status"] == ("running" if shift else "already_running")


def test_section_12_export(home, new_policy):
    exporter = home("export").ModelExporter()
    onnx_path = exporter.export_to_onnx(
        model=new_policy(), model_name="ppo", input_shape=(1, 263), opset_version=14
    )
    assert onnx_path == "models/onnx/ppo.onnx"
