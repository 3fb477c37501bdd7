"""Experiments with planned looks: decided there and nowhere else."""

import numpy as np
import pytest

from modelyard._core.errors import ConfigError
from modelyard.ab_testing import ABTest, ModelVariant


def experiment(names="ab", **options) -> ABTest:
    variants = [ModelVariant(name, lambda x: x) for name in names]
    return ABTest("t", variants, "m", min_samples=10, cycle_s=0.0, **options)


def feed(test, rng, n, shift, names="ab"):
    for _ in range(n):
        for name in names:
            test.record_result(name, {"m": rng.normal(shift * (name == "b"))})


def test_a_fixed_horizon_decides_at_its_end_and_never_again():
    rng = np.random.default_rng(0)
    test = experiment(inference="fixed_horizon", planned_samples=100)
    feed(test, rng, 99, 2.0)
    assert test.get_winner() is None
    assert "planned look" in test.compare_variants("a", "b")["result"]["recommendation"]
    feed(test, rng, 1, 2.0)
    assert test.get_winner() == "b"
    feed(test, rng, 500, -2.0)  # what comes later changes nothing
    assert test.get_winner() == "b"
    assert test.compare_variants("a", "b")["decision"]["look"] == 1


def test_group_sequential_may_stop_early_on_a_large_difference():
    rng = np.random.default_rng(0)
    test = experiment(inference="group_sequential", planned_samples=1000, n_looks=5)
    feed(test, rng, 199, 1.0)
    assert test.get_winner() is None
    feed(test, rng, 1, 1.0)
    assert test.get_winner() == "b"
    decision = test.compare_variants("a", "b")["decision"]
    assert (decision["look"], decision["planned_looks"]) == (1, [200, 400, 600, 800, 1000])
    assert decision["z"] > decision["critical"] == pytest.approx(4.8769, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("names", ["ab", "abc"])
def test_planned_looks_find_false_winners_in_at_most_five_percent(names):
    n_false = {"fixed_horizon": 0, "group_sequential": 0}
    for seed in range(200):
        for inference in n_false:
            rng = np.random.default_rng(seed)
            test = experiment(names, inference=inference, planned_samples=100)
            for _ in range(10):
                feed(test, rng, 10, 0.0, names)
                if test.get_winner() is not None:
                    n_false[inference] += 1
                    break
    assert all(n <= 17 for n in n_false.values())  # 5 % of 200 and two standard errors


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"inference": "bayes"}, "inference must be"),
        ({"inference": "fixed_horizon"}, "planned_samples"),
        ({"inference": "group_sequential", "planned_samples": 0}, "planned_samples"),
        ({"inference": "group_sequential", "planned_samples": 10, "n_looks": 0}, "n_looks"),
        ({"cycle_s": -1.0}, "cycle_s"),
    ],
)
def test_a_plan_that_is_none_says_why(options, said):
    variants = [ModelVariant(name, lambda x: x) for name in "ab"]
    with pytest.raises(ConfigError, match=said):
        ABTest("t", variants, "m", **options)


def test_variants_are_fixed_where_looks_are_planned():
    test = experiment("abc", inference="fixed_horizon", planned_samples=10)
    with pytest.raises(ConfigError, match="fixed"):
        test.add_variant(ModelVariant("d", lambda x: x))
    with pytest.raises(ConfigError, match="fixed"):
        test.remove_variant("c")
