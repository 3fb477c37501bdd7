"""Sections 8.2's examples, call by call, through both import paths."""

import importlib

import numpy as np
import pytest
import torch


@pytest.fixture(params=["modelyard.ab_testing", "src.models.ab_testing"])
def module(request):
    return importlib.import_module(request.param)


def test_the_experiment_of_section_8_2(module, caplog):
    model_v1, model_v2 = torch.nn.Linear(4, 1), torch.nn.Linear(4, 1)
    market_state = torch.ones(1, 4)
    rng = np.random.default_rng(0)
    variant_a = module.ModelVariant(name="model_v1", model=model_v1, traffic_weight=0.5)
    variant_b = module.ModelVariant(name="model_v2", model=model_v2, traffic_weight=0.5)
    ab_test = module.ABTest(
        test_name="model_comparison",
        variants=[variant_a, variant_b],
        primary_metric="sharpe_ratio",
        min_samples=100,
        confidence_level=0.95,
    )
    for i in range(1000):
        user_id = f"user_{i}"
        prediction, variant_name = ab_test.predict(data=market_state, user_id=user_id)
        assert prediction.shape == (1, 1)
        metrics = {"sharpe_ratio": rng.normal(1.0 + 0.5 * (variant_name == "model_v2"))}
        ab_test.record_result(variant_name, metrics)
    stats = ab_test.get_variant_stats()
    assert stats["model_v1"]["sample_count"] + stats["model_v2"]["sample_count"] == 1000
    comparison = ab_test.compare_variants("model_v1", "model_v2")
    assert f"P-value: {comparison['statistics']['p_value']:.4f}" == "P-value: 0.0000"
    assert comparison["result"]["winner"] == "model_v2"
    assert f"{comparison['result']['relative_improvement_percent']:.2f}%".endswith("%")
    assert isinstance(comparison["result"]["recommendation"], str)
    winner = ab_test.get_winner()
    assert winner == "model_v2"
    ab_test.update_traffic_weights(
        {winner: 0.9, "model_v1" if winner == "model_v2" else "model_v2": 0.1}
    )
    assert not caplog.records


def test_the_bandit_of_section_8_2(module):
    rng = np.random.default_rng(1)
    bandit = module.MultiArmedBandit(
        variants=["model_v1", "model_v2", "model_v3"], algorithm="ucb", epsilon=0.1
    )
    means = {"model_v1": 0.00, "model_v2": 0.02, "model_v3": 0.01}
    for _ in range(1000):
        variant = bandit.select_variant()
        bandit.update(variant, rng.normal(means[variant], 0.02))
    stats = bandit.get_statistics()
    assert max(stats["values"].items(), key=lambda x: x[1])[0] == "model_v2"
