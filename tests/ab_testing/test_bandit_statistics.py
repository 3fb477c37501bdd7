import json
import math

import numpy as np
import pytest

from modelyard.ab_testing import MultiArmedBandit
from modelyard.ab_testing.bandits.policies import ALGORITHMS
from modelyard.stats.moments import moments_of
from modelyard.stats.significance import t_test, unpaired


def play(bandit, means, n, seed=0, sd=1.0):
    rng = np.random.default_rng(seed)
    rewards = {name: [] for name in means}
    for _ in range(n):
        name = bandit.select_variant()
        reward = float(rng.normal(means[name], sd))
        rewards[name].append(reward)
        bandit.update(name, reward)
    return rewards


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_everything_is_there_and_plain(algorithm):
    bandit = MultiArmedBandit(["a", "b"], algorithm, seed=0)
    play(bandit, {"a": 0.0, "b": 0.5}, 50)
    bandit.add_variant("c")
    bandit.remove_variant("a")
    stats = bandit.get_statistics()
    json.dumps(stats, allow_nan=False)
    assert set(stats) >= {
        "algorithm",
        "total",
        "counts",
        "values",
        "std",
        "best_variant",
        "probabilities",
        "lower_bounds",
        "upper_bounds",
        "pending",
        "regret",
        "removed",
    }
    assert set(stats["lower_bounds"]) == set(stats["pending"]) == {"b", "c"}
    assert sum(stats["probabilities"].values()) == pytest.approx(1.0)


def test_bounds_hold_the_means_however_the_traffic_went():
    held = looks = naive = 0
    for seed in range(60):
        bandit = MultiArmedBandit(["a", "b"], "thompson_sampling", seed=seed)
        rewards = play(bandit, {"a": 0.0, "b": 0.0}, 1000, seed)
        stats = bandit.get_statistics()
        for name in ("a", "b"):
            if stats["lower_bounds"][name] is not None:
                held += stats["lower_bounds"][name] <= 0.0 <= stats["upper_bounds"][name]
                looks += 1
        sides = [moments_of(np.array(values)) for values in rewards.values()]
        naive += t_test(unpaired(*sides)).p_value < 0.05
    assert looks >= 60
    assert held / looks >= 0.95
    # Why: a plain t-test on the same rewards finds differences that are not there.
    assert naive / 60 > 0.07


def test_without_a_spread_there_are_no_bounds():
    bandit = MultiArmedBandit(["a", "b"])
    bandit.update_many(["a", "a", "b"], [1.0, 1.0, 2.0])
    stats = bandit.get_statistics()
    assert stats["lower_bounds"] == stats["upper_bounds"] == {"a": None, "b": None}
    assert stats["regret"] == {"estimate": 2.0, "lower": 0.0, "upper": None}


def test_regret_is_near_what_was_lost_and_between_its_bounds():
    bandit = MultiArmedBandit(["a", "b", "c"], "epsilon_greedy", 0.3, seed=0)
    means = {"a": 0.0, "b": 0.5, "c": 1.0}
    rewards = play(bandit, means, 4500)
    true = sum(len(values) * (1.0 - means[name]) for name, values in rewards.items())
    regret = bandit.get_statistics()["regret"]
    assert regret["estimate"] == pytest.approx(true, rel=0.1)
    assert 0.0 < regret["lower"] < true < regret["upper"]
    # What was lost stays lost when the variant goes.
    bandit.remove_variant("a")
    assert bandit.get_statistics()["regret"]["estimate"] == pytest.approx(regret["estimate"])


def test_a_bandit_that_forgets_says_what_it_goes_by():
    bandit = MultiArmedBandit(["a", "b"], window=20, seed=0)
    play(bandit, {"a": 1.0, "b": 0.0}, 200, sd=0.1)
    play(bandit, {"a": 0.0, "b": 1.0}, 400, sd=0.1)
    stats = bandit.get_statistics()
    assert stats["total"] == 600
    assert sum(stats["recent"]["counts"].values()) == 20
    assert stats["recent"]["values"]["b"] == pytest.approx(1.0, abs=0.1)
    assert stats["best_variant"] == "b"
    assert MultiArmedBandit(["a", "b"]).get_statistics()["recent"] is None


@pytest.mark.parametrize("way", [{}, {"window": 20}, {"discount": 0.9}], ids=str)
def test_exploration_falls_with_all_uses_not_only_with_those_remembered(way):
    bandit = MultiArmedBandit(["a", "b"], "epsilon_greedy", 1.0, epsilon_decay=0.1, seed=0, **way)
    play(bandit, {"a": 0.0, "b": 5.0}, 500)
    bandit.select_variant()  # pending, and a use
    assert bandit.get_statistics()["probabilities"]["a"] == pytest.approx(0.5 / (1 + 0.1 * 501))


@pytest.mark.parametrize(
    "way",
    [
        {"algorithm": "ucb", "window": 300},
        {"algorithm": "ucb", "discount": 0.99},
        {"algorithm": "thompson_sampling", "window": 300},
        {"algorithm": "thompson_sampling", "discount": 0.99},
    ],
    ids=str,
)
def test_variants_that_change_are_followed(way):
    bandit = MultiArmedBandit(["a", "b"], seed=0, **way)
    play(bandit, {"a": 1.0, "b": 0.0}, 1500)
    after = play(bandit, {"a": 0.0, "b": 1.0}, 1500, seed=1)
    assert len(after["b"]) > 1100


def test_a_known_range_is_kept_to():
    bandit = MultiArmedBandit(["a", "b"], "kl_ucb", reward_range=(0.0, 10.0), seed=0)
    for reward in (10.5, -0.1):
        with pytest.raises(ValueError, match="reward_range"):
            bandit.update("a", reward)
    rng = np.random.default_rng(0)
    for _ in range(300):
        name = bandit.select_variant()
        bandit.update(name, float(rng.beta(2, 4 if name == "a" else 2)) * 10.0)
    bandit.update("a", math.nan)
    assert bandit.get_statistics()["best_variant"] == "b"


@pytest.mark.parametrize("reward", ["1.0", b"1", True, np.True_])
def test_text_and_truth_are_no_rewards(reward):
    with pytest.raises(ValueError, match=r"1\.0 and 0\.0"):
        MultiArmedBandit(["a", "b"]).update("a", reward)


@pytest.mark.parametrize("reward", [1, np.float32(1), np.int64(1), np.array(1.0)])
def test_numbers_of_any_kind_are_rewards(reward):
    bandit = MultiArmedBandit(["a", "b"])
    bandit.update("a", reward)
    assert type(bandit.get_statistics()["values"]["a"]) is float
