"""What the document's order of calls implies, and every name and argument of its reference."""

import importlib
import inspect

import pytest
import torch

REFERENCE = {
    "version_manager.ModelVersionManager": {
        "save_model": "model model_name metrics config description tags",
        "load_model": "version_id model_class load_full",
        "list_versions": "model_name tags sort_by ascending",
        "get_best_version": "model_name metric maximize",
        "compare_versions": "version_id1 version_id2 metrics",
        "rollback_to_version": "version_id",
    },
    "compression.ModelCompressor": {
        "prune_model": "amount method layers_to_prune",
        "make_pruning_permanent": "",
        "quantize_model": "dtype backend",
        "calibrate_quantization": "calibration_data",
        "dynamic_quantization": "dtype",
        "knowledge_distillation": (
            "teacher_model student_model train_loader temperature alpha epochs"
        ),
        "get_compression_stats": "",
        "evaluate_compressed_model": "test_loader metric_fn",
    },
    "inference_optimizer.InferenceOptimizer": {
        "predict": "x",
        "predict_batch": "x_batch",
        "predict_streaming": "x_list return_numpy",
        "optimize_for_inference": "",
        "benchmark": "input_shape num_iterations warmup_iterations",
        "get_performance_stats": "",
        "get_cache_stats": "",
    },
    "export.ModelExporter": {
        "export_to_onnx": "model model_name input_shape opset_version dynamic_axes verify",
        "get_model_info": "onnx_path",
        "compare_outputs": "pytorch_model onnx_path test_input",
        "benchmark_onnx": "onnx_path input_shape num_iterations",
    },
    "monitor.ModelMonitor": {
        "record_prediction": "prediction latency features error",
        "get_summary": "",
        "detect_prediction_drift": "",
        "detect_feature_drift": "",
        "set_baseline": "",
        "get_alerts": "severity since",
        "export_metrics": "output_path",
    },
    "ab_testing.ABTest": {
        "select_variant": "user_id",
        "predict": "data user_id variant_name",
        "record_result": "variant_name metrics",
        "get_variant_stats": "",
        "compare_variants": "variant_a variant_b metric",
        "get_winner": "metric",
        "update_traffic_weights": "weights",
        "stop_test": "",
        "export_results": "filepath",
    },
    "ab_testing.MultiArmedBandit": {
        "select_variant": "",
        "update": "variant reward",
        "get_statistics": "",
    },
    "update_strategy.UpdateStrategy": {
        "should_update": "",
        "update_model": "new_version_id trigger smooth_transition",
        "should_rollback": "",
        "rollback": "",
        "set_baseline": "",
        "get_update_history": "limit",
    },
}


@pytest.mark.parametrize("name", REFERENCE)
def test_every_method_takes_its_arguments_in_their_order(home, name):
    module, cls = name.split(".")
    for method, arguments in REFERENCE[name].items():
        taken = inspect.signature(getattr(getattr(home(module), cls), method)).parameters
        positional = [p.name for p in taken.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
        wanted = arguments.split()
        assert positional[1 : 1 + len(wanted)] == wanted


@pytest.mark.parametrize("name", [*REFERENCE, "ab_testing.ModelVariant"])
def test_both_import_paths_give_the_same_class(name):
    module, cls = name.split(".")
    ours, theirs = (
        getattr(importlib.import_module(f"{prefix}.{module}"), cls)
        for prefix in ("modelyard", "src.models")
    )
    assert ours is theirs


@pytest.fixture
def strategy(home):
    manager = home("version_manager").ModelVersionManager()
    monitor = home("monitor").ModelMonitor(model_name="ppo")
    return home("update_strategy").UpdateStrategy(version_manager=manager, monitor=monitor)


def test_baseline_and_decisions_may_come_before_any_data(strategy):
    strategy.set_baseline()
    assert strategy.should_update()["should_update"] is False
    assert strategy.should_rollback()["should_rollback"] is False
    assert strategy.rollback()["rolled_back"] is False
    assert strategy.get_update_history(limit=10) == []


@pytest.mark.parametrize("n_records", [0, 1])
def test_a_monitor_without_data_answers_everything(home, n_records):
    monitor = home("monitor").ModelMonitor(model_name="ppo")
    for _ in range(n_records):
        monitor.record_prediction(prediction=torch.ones(4), latency=0.001)
    for drift in (monitor.detect_prediction_drift(), monitor.detect_feature_drift()):
        assert (drift["is_drifted"], drift["drift_score"]) == (False, None)
        assert drift["reason"]
    assert monitor.get_summary()["total_predictions"] == n_records
    assert monitor.get_alerts(severity="critical") == []


def test_quantizing_again_starts_from_the_float_model(home, new_policy, state):
    compressor = home("compression").ModelCompressor(new_policy())
    first = compressor.dynamic_quantization()
    again = compressor.dynamic_quantization(dtype=torch.qint8)
    assert again["max_error"] == first["max_error"]
    compressor.quantize_model(dtype=torch.qint8, backend="fbgemm")
    compressor.calibrate_quantization(state(100))
    assert compressor.model(state(2)).shape == (2, 4)
    assert compressor.original_model is not compressor.model


def test_the_cooldown_holds_from_the_first_update(home, strategy, new_policy):
    manager, monitor = strategy._registry, strategy._monitor
    ids = [manager.save_model(new_policy(), "ppo", {"sharpe": 1.0 + i}) for i in range(2)]
    strategy.update_model(ids[0])  # nothing was production: direct
    for _ in range(1000):
        monitor.record_prediction(prediction=None, latency=0.001, error=True)
    decision = strategy.should_update()
    assert decision["reasons"]
    assert not decision["should_update"]
    assert "cooldown" in decision["blocked_by"]


def test_a_class_of_ones_own_is_rebuilt_whole(home, new_policy, state):
    manager = home("version_manager").ModelVersionManager()
    policy = new_policy(16)
    version_id = manager.save_model(policy, "ppo", {}, {"hidden_dim": 16}, "", [])
    whole = manager.load_model(version_id, load_full=True)
    filled = manager.load_model(version_id, model_class=type(policy))
    assert type(whole) is type(filled) is type(policy)
    assert torch.equal(whole(state()), filled(state()))
    assert not whole.training
