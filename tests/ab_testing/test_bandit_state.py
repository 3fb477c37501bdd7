import json

import numpy as np
import pytest

from modelyard._core.clock import ManualClock
from modelyard._core.errors import ConfigError, StorageError
from modelyard.ab_testing import MultiArmedBandit
from modelyard.ab_testing.bandits.policies import ALGORITHMS
from modelyard.storage import open_store

WAYS = [
    *({"algorithm": algorithm} for algorithm in ALGORITHMS),
    {"algorithm": "epsilon_greedy", "epsilon": 0.5, "epsilon_decay": 0.01},
    {"algorithm": "ucb", "window": 20},
    {"algorithm": "thompson_sampling", "window": 20},
    {"algorithm": "ucb", "discount": 0.9},
    {"algorithm": "thompson_sampling", "discount": 0.9},
    {"algorithm": "kl_ucb", "reward_range": (-100.0, 100.0)},
    {"algorithm": "ucb", "min_probability": 0.1},
]
ABC = ("a", "b", "c")


def play(bandit, n, seed, draw="normal"):
    """Choices with rewards that come one choice late, every tenth never, some not finite."""
    rng = np.random.default_rng(seed)
    chosen = []
    for i in range(n):
        chosen.append(bandit.select_variant(f"{seed}-{i}" if i % 3 == 0 else None))
        reward = rng.normal() if draw == "normal" else float(rng.random() < 0.3)
        if i and i % 10:
            is_named = (i - 1) % 3 == 0
            request_id = f"{seed}-{i - 1}" if is_named else None
            bandit.update(chosen[i - 1], reward if i % 17 else np.nan, request_id=request_id)
    return chosen


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("draw", ["normal", "won"])
def test_what_was_made_plain_goes_on_exactly(way, draw):
    bandit = MultiArmedBandit(ABC, seed=3, clock=ManualClock(), **way)
    play(bandit, 80, 0, draw)
    bandit.remove_variant("b")
    bandit.add_variant("d")
    play(bandit, 30, 1, draw)
    plain = bandit.to_dict()
    again = MultiArmedBandit.from_dict(json.loads(json.dumps(plain)), clock=ManualClock())
    assert again.to_dict() == plain
    assert again.get_statistics() == bandit.get_statistics()
    assert again.choices() == bandit.choices()
    assert play(again, 60, 2, draw) == play(bandit, 60, 2, draw)
    assert again.to_dict() == bandit.to_dict()


def test_variants_that_were_removed_take_no_room_when_a_bandit_is_read_again():
    bandit = MultiArmedBandit(["a", "b"], min_probability=0.5, seed=0)
    bandit.remove_variant("b")
    alone = MultiArmedBandit.from_dict(bandit.to_dict())
    assert alone.names == ("a",)
    bandit.add_variant("c")
    again = MultiArmedBandit.from_dict(bandit.to_dict())
    assert again.names == ("a", "c")
    assert again.get_statistics() == bandit.get_statistics()


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_what_was_stored_goes_on_exactly(way, tmp_path):
    store, clock = open_store(tmp_path), ManualClock()
    options = {"store": store, "name": "router", "clock": clock, **way}
    bandit = MultiArmedBandit(ABC, seed=3, **options)
    play(bandit, 80, 0)
    clock.advance(0.5)
    bandit.remove_variant("b")
    play(bandit, 30, 1)
    bandit.flush()
    again = MultiArmedBandit(ABC, **options)
    assert again.get_statistics() == bandit.get_statistics()
    assert again.choices() == bandit.choices()
    assert play(again, 60, 2) == play(bandit, 60, 2)
    store.close()


def test_a_late_reward_finds_its_choice_after_a_restart(tmp_path):
    store, clock = open_store(tmp_path), ManualClock()
    options = {"store": store, "name": "router", "clock": clock, "pending_timeout_s": 100.0}
    bandit = MultiArmedBandit(ABC, **options)
    bandit.select_variant("r1")
    bandit.select_variant()
    bandit.flush()
    clock.advance(90.0)
    again = MultiArmedBandit(ABC, **options)
    again.update("a", 1.0, request_id="r1")
    again.update("b", 2.0)
    assert [entry["reward"] for entry in again.choices()] == [1.0, 2.0]
    again.flush()
    third = MultiArmedBandit(ABC, **options)
    third.update("a", 1.0, request_id="r1")
    assert third.get_statistics()["duplicates"] == 1
    assert [entry["reward"] for entry in third.choices()] == [1.0, 2.0]
    assert sum(third.get_statistics()["pending"].values()) == 0
    store.close()


def test_waiting_goes_on_over_a_restart_until_its_time_is_up(tmp_path):
    store, clock = open_store(tmp_path), ManualClock()
    options = {"store": store, "name": "router", "pending_timeout_s": 100.0}
    MultiArmedBandit(ABC, clock=clock, **options).flush()
    bandit = MultiArmedBandit(ABC, clock=clock, **options)
    bandit.select_many(2)
    bandit.flush()
    clock.advance(99.0)
    again = MultiArmedBandit(ABC, clock=clock, **options)
    assert again.get_statistics()["expired"] == 0
    clock.advance(1.0)
    assert again.get_statistics()["expired"] == 2
    store.close()


OLD = {
    "variants": ["a", "b"],
    "algorithm": "thompson_sampling",
    "counts": [3, 4],
    "means": [0.6666666666666666, 0.5],
    "m2": [0.6666666666666667, 1.0],
    "least": 0.0,
    "most": 1.0,
    "is_binary": True,
    "non_finite": [1, 0],
    "generator": np.random.default_rng(7).bit_generator.state,
}


def test_what_an_earlier_release_stored_is_taken_up(tmp_path):
    store = open_store(tmp_path)
    store.save_snapshot("bandit", "router", OLD)
    bandit = MultiArmedBandit(["a", "b"], "thompson_sampling", store=store, name="router")
    stats = bandit.get_statistics()
    assert stats["counts"] == {"a": 3, "b": 4}
    assert stats["values"]["a"] == pytest.approx(2 / 3)
    assert stats["non_finite_counts"] == {"a": 1, "b": 0}
    draws = np.random.default_rng(7).standard_gamma([3.0, 3.0, 3.0, 3.0])
    best = "ab"[int(np.argmax(draws[:2] / (draws[:2] + draws[2:])))]
    assert bandit.select_variant() == best
    bandit.update("a", 1.0)
    bandit.flush()
    again = MultiArmedBandit(["a", "b"], "thompson_sampling", store=store, name="router")
    assert again.get_statistics()["counts"]["a"] == 4
    store.close()


@pytest.mark.parametrize(
    ("least", "most", "is_binary"), [(None, None, True), (2.0, 2.0, False), (1.0, 1.0, True)]
)
def test_old_states_of_all_kinds_are_taken_up(tmp_path, least, most, is_binary):
    mean = 0.0 if least is None else least
    n = 0 if least is None else 3
    old = {**OLD, "algorithm": "ucb", "counts": [n, n], "means": [mean, mean], "m2": [0.0, 0.0]}
    store = open_store(tmp_path)
    state = {**old, "least": least, "most": most, "is_binary": is_binary, "non_finite": [0, 0]}
    store.save_snapshot("bandit", "router", state)
    bandit = MultiArmedBandit(["a", "b"], store=store, name="router")
    for _ in range(10):
        bandit.update(bandit.select_variant(), 1.0)
    assert bandit.get_statistics()["total"] == 2 * n + 10
    store.close()


def test_another_bandit_under_the_name_is_refused(tmp_path):
    store = open_store(tmp_path)
    options = {"store": store, "name": "router"}
    MultiArmedBandit(ABC, window=30, **options).flush()
    for variants, others in [
        (("a", "x"), {"window": 30}),
        (ABC, {"window": 31}),
        (ABC, {"discount": 0.9}),
        (ABC, {"window": 30, "algorithm": "kl_ucb"}),
        (ABC, {"window": 30, "reward_range": (0.0, 1.0)}),
    ]:
        with pytest.raises(ConfigError, match="another name"):
            MultiArmedBandit(variants, **others, **options)
    assert MultiArmedBandit(ABC[:2], window=30, epsilon=0.3, **options).names == ABC
    with pytest.raises(ConfigError, match="name of a stored bandit"):
        MultiArmedBandit(ABC, store=store)
    store.close()


@pytest.mark.parametrize("plain", [{}, {"format": 3}, {"variants": ["a"]}, {"format": 2}])
def test_what_is_no_bandit_is_refused(plain):
    with pytest.raises(ConfigError, match="to_dict"):
        MultiArmedBandit.from_dict(plain)


def test_what_a_newer_release_stored_is_refused(tmp_path):
    store = open_store(tmp_path)
    store.save_snapshot("bandit", "router", {"format": 9})
    with pytest.raises(ConfigError, match="newer release"):
        MultiArmedBandit(ABC, store=store, name="router")
    store.close()


def test_sync_stores_before_the_call_returns(tmp_path):
    store = open_store(tmp_path)
    options = {"store": store, "name": "router"}
    bandit = MultiArmedBandit(ABC, durability="sync", **options)
    bandit.update(bandit.select_variant(), 1.0)
    bandit.select_many(2)
    again = MultiArmedBandit(ABC, **options)
    assert again.get_statistics() == bandit.get_statistics()
    store.close()


def test_batched_stores_once_a_second(tmp_path):
    store, clock = open_store(tmp_path), ManualClock()
    options = {"store": store, "name": "router", "clock": clock}
    bandit = MultiArmedBandit(ABC, **options)
    bandit.update("a", 1.0)
    assert MultiArmedBandit(ABC, **options).get_statistics()["total"] == 0
    clock.advance(1.0)
    bandit.update("a", 1.0)
    assert MultiArmedBandit(ABC, **options).get_statistics()["total"] == 2
    store.close()


def test_a_store_that_refuses_loses_nothing(tmp_path, monkeypatch, caplog):
    store, clock = open_store(tmp_path), ManualClock()
    options = {"store": store, "name": "router", "clock": clock}
    bandit = MultiArmedBandit(ABC, **options)

    def refuse(*_args, **_options):
        raise StorageError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(bandit._shared._rows, "exchange", refuse)
        bandit.update("a", 1.0)
        with pytest.raises(StorageError, match="full"):
            bandit.flush()
        clock.advance(1.0)
        bandit.update("a", 3.0)  # goes on, with a warning
        assert "could not be stored" in caplog.text
    bandit.flush()
    again = MultiArmedBandit(ABC, **options)
    assert again.get_statistics()["values"]["a"] == 2.0
    assert len(again.choices()) == 0
    store.close()
