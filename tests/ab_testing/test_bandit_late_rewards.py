from collections import Counter

import numpy as np
import pytest

from modelyard._core.clock import ManualClock
from modelyard._core.errors import ConfigError, RequestNotFoundError, VariantNotFoundError
from modelyard.ab_testing import MultiArmedBandit
from modelyard.ab_testing.bandits import choices as choices_module
from modelyard.ab_testing.bandits import learner as learner_module
from modelyard.ab_testing.bandits.policies import ALGORITHMS

ABC = ["a", "b", "c"]


@pytest.fixture
def clock():
    return ManualClock()


def taught(algorithm, means=(0.0, 0.1, 0.2), n=300, **options):
    bandit = MultiArmedBandit(ABC, algorithm, seed=0, **options)
    rng = np.random.default_rng(0)
    for _ in range(n):
        name = bandit.select_variant()
        bandit.update(name, rng.normal(means[ABC.index(name)]))
    return bandit


@pytest.mark.parametrize("algorithm", ["ucb", "ucb_tuned", "kl_ucb", "ada_ucb"])
def test_choices_without_any_reward_are_spread_over_the_variants(algorithm):
    chosen = Counter(MultiArmedBandit(ABC, algorithm).select_many(10))
    assert sorted(chosen.values()) == [3, 3, 4]


def test_many_choices_at_once_do_not_all_go_to_one_variant():
    batch = Counter(taught("ucb").select_many(200))
    assert len(batch) == 3
    alone = taught("ucb")
    repeated = []
    for _ in range(3):
        name = alone.select_variant()
        alone.update(name, 0.2)
        repeated.append(name)
    assert len(set(repeated)) == 1  # what one choice at a time would do


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_batch_of_rewards_leads_where_single_ones_lead(algorithm):
    bandit = MultiArmedBandit(ABC, algorithm, seed=0)
    rng = np.random.default_rng(0)
    for _ in range(60):
        chosen = bandit.select_many(20)
        bandit.update_many(chosen, [rng.normal(ABC.index(name), 1.0) for name in chosen])
    stats = bandit.get_statistics()
    assert stats["best_variant"] == "c"
    assert stats["counts"]["c"] > 800
    assert stats["pending"] == {"a": 0, "b": 0, "c": 0}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("level", [-5.0, 0.0, 5.0])
def test_a_variant_whose_rewards_are_slow_is_neither_lost_nor_drowned(algorithm, level):
    bandit = MultiArmedBandit(ABC, algorithm, seed=0)
    rng = np.random.default_rng(0)
    for _ in range(200):
        name = bandit.select_variant()
        if name != "c":
            bandit.update(name, rng.normal(level))
    pending = bandit.get_statistics()["pending"]
    assert pending["a"] == pending["b"] == 0
    assert 1 <= pending["c"] < 40
    for _ in range(pending["c"]):
        bandit.update("c", rng.normal(level + 3.0))
    # Its rewards count as soon as they come.
    assert bandit.get_statistics()["best_variant"] == "c"


def test_a_reward_that_comes_late_finds_its_request(clock):
    bandit = MultiArmedBandit(ABC, clock=clock)
    names = bandit.select_many(3, request_ids=["r1", "r2", "r3"])
    assert names == ABC
    bandit.update("b", 2.0, request_id="r2")
    assert bandit.get_statistics()["pending"] == {"a": 1, "b": 0, "c": 1}
    entry = bandit.choices()[1]
    assert (entry["request_id"], entry["variant"], entry["reward"]) == ("r2", "b", 2.0)


def test_the_same_request_is_one_choice():
    bandit = MultiArmedBandit(ABC)
    assert bandit.select_variant("r1") == bandit.select_variant("r1") == "a"
    assert sum(bandit.get_statistics()["pending"].values()) == 1


def test_a_second_reward_of_a_request_is_counted_and_ignored():
    bandit = MultiArmedBandit(ABC)
    bandit.select_variant("r1")
    for reward in (1.0, 5.0):
        bandit.update("a", reward, request_id="r1")
    stats = bandit.get_statistics()
    assert (stats["values"]["a"], stats["counts"]["a"], stats["duplicates"]) == (1.0, 1, 1)


def test_a_reward_of_a_request_that_was_never_made_is_refused():
    bandit = MultiArmedBandit(ABC)
    with pytest.raises(RequestNotFoundError, match="'r9'"):
        bandit.update("a", 1.0, request_id="r9")
    bandit.select_variant("r1")
    with pytest.raises(ConfigError, match="answered by 'a', not by 'b'"):
        bandit.update("b", 1.0, request_id="r1")
    assert bandit.get_statistics()["total"] == 0


def test_rewards_that_never_come_are_waited_for_no_longer(clock):
    bandit = MultiArmedBandit(ABC, clock=clock, pending_timeout_s=60.0)
    bandit.select_variant()
    bandit.select_variant("r1")
    clock.advance(59.0)
    bandit.select_variant()
    assert sum(bandit.get_statistics()["pending"].values()) == 3
    clock.advance(1.0)
    stats = bandit.get_statistics()
    assert (stats["pending"], stats["expired"]) == ({"a": 0, "b": 0, "c": 1}, 2)
    # One that comes all the same is taken, once.
    bandit.update("b", 1.0, request_id="r1")
    bandit.update("b", 1.0, request_id="r1")
    stats = bandit.get_statistics()
    assert (stats["counts"]["b"], stats["duplicates"], stats["pending"]["b"]) == (1, 1, 0)
    bandit.update("a", 1.0)
    assert bandit.get_statistics()["pending"] == {"a": 0, "b": 0, "c": 1}


def test_without_a_timeout_rewards_are_waited_for_for_ever(clock):
    bandit = MultiArmedBandit(ABC, clock=clock, pending_timeout_s=None)
    bandit.select_variant()
    clock.advance(1e9)
    assert bandit.get_statistics()["pending"]["a"] == 1


def test_a_variant_whose_choices_all_expired_is_tried_again(clock):
    bandit = MultiArmedBandit(["a", "b"], clock=clock, pending_timeout_s=10.0)
    assert bandit.select_many(4) == ["a", "b", "a", "b"]
    clock.advance(10.0)
    assert bandit.select_variant() == "a"


def test_what_waits_is_bounded_in_number(monkeypatch):
    for module in (choices_module, learner_module):
        monkeypatch.setattr(module, "MOST_PENDING", 50)
    bandit = MultiArmedBandit(["a", "b"], "thompson_sampling", seed=0, pending_timeout_s=None)
    bandit.select_many(500)
    bandit.select_many(300, request_ids=[str(i) for i in range(300)])
    stats = bandit.get_statistics()
    assert sum(stats["pending"].values()) <= 3 * 50
    assert stats["expired"] == 800 - sum(stats["pending"].values())
    for i in range(250, 300):
        bandit.update(bandit.select_variant(str(i)), 1.0, request_id=str(i))
    assert bandit.get_statistics()["total"] == 50


def test_rewards_without_a_choice_warm_a_bandit_up():
    bandit = MultiArmedBandit(ABC)
    bandit.update_many(
        ["a"] * 5 + ["b"] * 5 + ["c"] * 5, [0.0, 0.1] * 5 + [1.0, 1.1, 0.9, 1.0, 1.0]
    )
    assert bandit.select_variant() == "c"
    assert bandit.get_statistics()["counts"] == {"a": 5, "b": 5, "c": 5}


def test_many_rewards_are_taken_whole_or_not_at_all():
    bandit = MultiArmedBandit(ABC)
    bandit.select_variant("r1")
    for columns, error in [
        ((["a", "d"], [1.0, 1.0]), VariantNotFoundError),
        ((["a", "b"], [1.0, "x"]), ConfigError),
        ((["a", "b"], [1.0]), ConfigError),
    ]:
        with pytest.raises(error):
            bandit.update_many(*columns)
    with pytest.raises(RequestNotFoundError):
        bandit.update_many(["a", "a"], [1.0, 1.0], request_ids=["r1", "r2"])
    with pytest.raises(ConfigError, match="3 request_ids"):
        bandit.select_many(3, request_ids=["x"])
    assert bandit.get_statistics()["total"] == 0
    bandit.update_many(np.array(["a", "b"]), np.array([1.0, 2.0]), request_ids=["r1", None])
    assert bandit.get_statistics()["values"] == {"a": 1.0, "b": 2.0, "c": 0.0}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"pending_timeout_s": 0.0}, "pending_timeout_s"),
        ({"pending_timeout_s": float("nan")}, "pending_timeout_s"),
        ({"log_size": 0}, "log_size"),
        ({"durability": "never"}, "batched, sync"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, match):
    with pytest.raises(ConfigError, match=match):
        MultiArmedBandit(ABC, **options)


def test_a_request_id_may_be_a_number():
    bandit = MultiArmedBandit(ABC)
    name = bandit.select_variant(17)
    bandit.update(name, 1.0, request_id=17)
    bandit.update(name, 1.0, request_id="17")
    assert bandit.get_statistics()["duplicates"] == 1
