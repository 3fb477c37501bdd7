import numpy as np
import pytest

from modelyard._core.clock import ManualClock
from modelyard._core.errors import ConfigError, VariantNotFoundError
from modelyard.ab_testing import ABTest, ModelVariant, MultiArmedBandit
from modelyard.storage import open_store


def taught(variants, **options):
    bandit = MultiArmedBandit(variants, seed=0, **options)
    for _ in range(100):
        name = bandit.select_variant()
        bandit.update(name, {"a": 0.0, "b": 1.0, "c": 0.5}[name])
    return bandit


def models(*names):
    return [ModelVariant(name, abs) for name in names]


def test_the_experiment_begins_with_fixed_traffic_and_without_the_bandits_rewards():
    bandit = taught(models("a", "b", "c"))
    test = bandit.to_abtest("after", assignment="random", seed=0)
    assert isinstance(test, ABTest)
    stats = test.get_variant_stats()
    assert {name: s["sample_count"] for name, s in stats.items()} == {"a": 0, "b": 0, "c": 0}
    assert [s["traffic_weight"] for s in stats.values()] == pytest.approx([1 / 3] * 3)
    rng = np.random.default_rng(0)
    for _ in range(3000):
        name = test.select_variant().name
        test.record_result(name, {"reward": rng.normal({"a": 0.0, "b": 0.5, "c": 0.1}[name])})
    assert test.get_winner() == "b"
    assert test.get_variant_stats()["a"]["traffic_weight"] == pytest.approx(1 / 3)


def test_some_variants_models_weights_and_options_can_be_named():
    bandit = taught(["a", "b", "c"])
    test = bandit.to_abtest(
        "after",
        "return",
        models={"a": abs, "b": len},
        variants=["a", "b"],
        weights={"a": 1.0, "b": 3.0},
        min_samples=7,
        assignment="random",
    )
    assert test.names == ("a", "b")
    assert test.primary_metric == "return"
    assert test.get_variant_stats()["b"]["traffic_weight"] == pytest.approx(0.75)


def test_the_experiment_is_stored_where_the_bandit_is(tmp_path):
    store = open_store(tmp_path)
    bandit = taught(models("a", "b"), store=store, name="router", clock=ManualClock())
    test = bandit.to_abtest("after")
    test.record_result("a", {"reward": 1.0})
    test.flush()
    again = ABTest("after", models("a", "b"), "reward", store=store, resume=True)
    assert again.get_variant_stats()["a"]["sample_count"] == 1
    store.close()


def test_what_is_missing_is_named():
    bandit = taught(["a", "b", "c"])
    with pytest.raises(ConfigError, match="model for a, b, c"):
        bandit.to_abtest("after")
    with pytest.raises(VariantNotFoundError, match="'d'"):
        bandit.to_abtest("after", variants=["a", "d"])
    everyone = {"a": abs, "b": abs, "c": abs}
    with pytest.raises(ConfigError, match="No weight for 'b'"):
        bandit.to_abtest("after", models=everyone, weights={"a": 1.0})
    with pytest.raises(VariantNotFoundError, match="'d'"):
        bandit.to_abtest("after", models=everyone, weights={"d": 1.0})
