import json
import threading

import numpy as np
import pytest

from modelyard._core.errors import ConfigError, VariantNotFoundError
from modelyard.ab_testing import ModelVariant, MultiArmedBandit
from modelyard.ab_testing.bandits.policies import ALGORITHMS
from modelyard.storage import open_store

MEANS = (0.1, 0.3, 0.6)


def play(algorithm, *, scale=1.0, shift=0.0, steps=600, seed=0, normal=True):
    """The arms chosen over time."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 0.3, steps) if normal else None
    luck = rng.random(steps)
    bandit = MultiArmedBandit(["x", "y", "z"], algorithm, seed=seed)
    chosen = []
    for i in range(steps):
        name = bandit.select_variant()
        mean = MEANS["xyz".index(name)]
        reward = mean + noise[i] if normal else float(luck[i] < mean)
        bandit.update(name, shift + scale * reward)
        chosen.append(name)
    return chosen, bandit


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_choices_do_not_depend_on_the_size_of_rewards(algorithm, scale):
    assert play(algorithm)[0] == play(algorithm, scale=scale)[0]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_choices_do_not_depend_on_the_level_of_rewards(algorithm):
    assert play(algorithm)[0] == play(algorithm, shift=8.0)[0]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("normal", [True, False])
def test_the_best_arm_is_learnt(algorithm, normal):
    chosen, bandit = play(algorithm, normal=normal, steps=1500)
    assert chosen[500:].count("z") > 750
    assert bandit.get_statistics()["best_variant"] == "z"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_returns_of_a_hundredth_are_not_played_at_random(algorithm):
    chosen, _ = play(algorithm, scale=0.01, steps=1500)
    assert chosen.count("z") > 900


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_statistics_are_plain_and_add_up(algorithm):
    _, bandit = play(algorithm, steps=200)
    stats = bandit.get_statistics()
    assert stats["total"] == sum(stats["counts"].values()) == 200
    assert sum(stats["probabilities"].values()) == pytest.approx(1.0)
    assert max(stats["values"].items(), key=lambda item: item[1])[0] == stats["best_variant"]
    json.dumps(stats, allow_nan=False)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_looking_changes_no_later_choice(algorithm):
    _, one = play(algorithm, steps=100)
    _, two = play(algorithm, steps=100)
    two.get_statistics()
    for _ in range(20):
        name = one.select_variant()
        assert two.select_variant() == name
        one.update(name, 0.5)
        two.update(name, 0.5)


def test_probabilities_are_those_of_the_choice():
    _, bandit = play("epsilon_greedy", steps=100)
    assert bandit.get_statistics()["probabilities"] == pytest.approx(
        {"x": 0.1 / 3, "y": 0.1 / 3, "z": 0.9 + 0.1 / 3}
    )


def test_before_any_reward_nothing_is_best():
    stats = MultiArmedBandit([ModelVariant("a", abs), "b"]).get_statistics()
    assert stats["best_variant"] is None
    assert stats["values"] == {"a": 0.0, "b": 0.0}
    assert stats["std"] == {"a": None, "b": None}


def test_constant_rewards_do_not_stop_the_search():
    bandit = MultiArmedBandit(["a", "b"], "ucb")
    for _ in range(200):
        name = bandit.select_variant()
        bandit.update(name, {"a": 0.0, "b": 1.0}[name])
    assert bandit.get_statistics()["counts"]["b"] > 150


def test_what_is_not_finite_is_counted_and_left_out():
    bandit = MultiArmedBandit(["a", "b"])
    bandit.update("a", float("nan"))
    bandit.update("a", 1.0)
    assert bandit.get_statistics()["values"]["a"] == 1.0
    assert bandit.get_statistics()["non_finite"] == 1


def test_wrong_arguments_say_what_is_right():
    with pytest.raises(ConfigError, match="epsilon_greedy, ucb, thompson_sampling"):
        MultiArmedBandit(["a", "b"], "softmax")
    with pytest.raises(ConfigError, match="10 %"):
        MultiArmedBandit(["a", "b"], epsilon=10)
    with pytest.raises(ConfigError, match="two or more"):
        MultiArmedBandit(["a", "a"])
    with pytest.raises(VariantNotFoundError, match="'c'"):
        MultiArmedBandit(["a", "b"]).update("c", 1.0)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda bandit: bandit.select_many(-3), "n must be .* 0 or more; got -3"),
        (lambda bandit: bandit.select_many(2.5), "n must be .* got 2.5"),
        (lambda bandit: bandit.select_many(True), "n must be .* got True"),
        (lambda bandit: bandit.select_many(2, request_ids=["x"]), "needs 2 request_ids, got 1"),
        (lambda bandit: bandit.select_many(2, request_ids="xy"), "request_ids .* the text 'xy'"),
        (lambda bandit: bandit.update_many("ab", [1, 2]), "variants .* the text 'ab'"),
        (
            lambda bandit: bandit.update_many(["a", "b"], [1, 2], request_ids="xy"),
            "request_ids .* the text 'xy'",
        ),
        (lambda bandit: bandit.evaluate_policy("a", foo=1), "no option foo.*confidence_level"),
        (lambda _: MultiArmedBandit(["a", "b"], seed=-1), "seed .* got -1"),
        (lambda _: MultiArmedBandit(["a", "b"], seed="x"), "seed .* got 'x'"),
    ],
)
def test_calls_that_make_no_sense_are_refused_and_change_nothing(call, told):
    bandit = MultiArmedBandit(["a", "b"], min_probability=0.2, seed=0)
    with pytest.raises(ConfigError, match=told):
        call(bandit)
    assert bandit.choices() == []
    assert bandit.get_statistics()["total"] == 0


def test_many_choices_may_be_none_and_counted_by_numpy():
    bandit = MultiArmedBandit(["a", "b"])
    assert bandit.select_many(0) == []
    assert len(bandit.select_many(np.int64(3))) == 3


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_stored_bandit_goes_on_exactly(algorithm, tmp_path):
    store = open_store(tmp_path)
    options = {"store": store, "name": "router"}
    bandit = MultiArmedBandit(["a", "b"], algorithm, seed=3, **options)
    rng = np.random.default_rng(0)
    for reward in rng.normal(size=50):
        bandit.update(bandit.select_variant(), reward)
    bandit.flush()
    again = MultiArmedBandit(["a", "b"], algorithm, **options)
    assert again.get_statistics() == bandit.get_statistics()
    assert [again.select_variant() for _ in range(20)] == [
        bandit.select_variant() for _ in range(20)
    ]
    with pytest.raises(ConfigError, match="another name"):
        MultiArmedBandit(["a", "c"], algorithm, **options)
    store.close()


def test_threads_lose_no_reward():
    bandit = MultiArmedBandit(["a", "b"], "thompson_sampling")

    def work():
        for _ in range(300):
            bandit.update(bandit.select_variant(), 1.0)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bandit.get_statistics()["total"] == 1200


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("rewards", ["noisy", "constant", "binary", "one"])
def test_a_variant_without_a_finite_reward_is_given_up(algorithm, rewards):
    rng = np.random.default_rng(0)
    draw = {
        "noisy": lambda: rng.normal(-5.0, 1.0),
        "constant": lambda: -2.5,
        "binary": lambda: float(rng.random() < 0.5),
        "one": lambda: 1.0,
    }[rewards]
    bandit = MultiArmedBandit(["broken", "good"], algorithm, seed=0)
    chosen = []
    for _ in range(500):
        chosen.append(bandit.select_variant())
        bandit.update(chosen[-1], float("nan") if chosen[-1] == "broken" else draw())
    stats = bandit.get_statistics()
    assert chosen.count("good") > 400
    assert stats["best_variant"] == "good"
    assert stats["non_finite_counts"] == {"broken": chosen.count("broken"), "good": 0}
    assert stats["values"]["broken"] == 0.0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rewards_that_are_never_finite_pin_the_traffic_on_no_variant(algorithm):
    bandit = MultiArmedBandit(["a", "b"], algorithm, seed=0)
    for _ in range(200):
        bandit.update(bandit.select_variant(), float("inf"))
    assert min(bandit.get_statistics()["non_finite_counts"].values()) > 50
    assert bandit.get_statistics()["best_variant"] is None


def test_a_variant_that_often_fails_is_not_the_best_for_one_lucky_reward():
    bandit = MultiArmedBandit(["lucky", "steady"], seed=0)
    for reward in (5.0, *[float("nan")] * 50):
        bandit.update("lucky", reward)
    for reward in (1.0, 2.0) * 20:
        bandit.update("steady", reward)
    assert bandit.get_statistics()["best_variant"] == "steady"


@pytest.mark.parametrize("reward", ["x", None, [1, 2], 10**400])
def test_a_reward_that_is_no_number_is_refused_by_name(reward):
    with pytest.raises(ConfigError, match="reward of 'a'"):
        MultiArmedBandit(["a", "b"]).update("a", reward)


def test_rewards_that_were_not_finite_are_stored(tmp_path):
    store = open_store(tmp_path / "bandit")
    first = MultiArmedBandit(["a", "b"], store=store, name="n")
    first.update("a", float("nan"))
    first.flush()
    second = MultiArmedBandit(["a", "b"], store=store, name="n")
    assert second.get_statistics()["non_finite_counts"] == {"a": 1, "b": 0}
