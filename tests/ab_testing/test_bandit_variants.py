import numpy as np
import pytest

from modelyard._core.errors import ConfigError, VariantNotFoundError
from modelyard.ab_testing import ModelVariant, MultiArmedBandit
from modelyard.ab_testing.bandits.policies import ALGORITHMS

WAYS = [
    *({"algorithm": algorithm} for algorithm in ALGORITHMS),
    {"algorithm": "ucb", "window": 50},
    {"algorithm": "thompson_sampling", "discount": 0.98},
]
MEANS = {"a": 0.0, "b": 0.2, "c": 1.0, "d": 2.0}


def play(bandit, n, seed=0):
    rng = np.random.default_rng(seed)
    chosen = []
    for _ in range(n):
        chosen.append(bandit.select_variant())
        bandit.update(chosen[-1], rng.normal(MEANS[chosen[-1]], 0.3))
    return chosen


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_variant_that_comes_is_tried_and_wins_if_it_is_better(way):
    bandit = MultiArmedBandit(["a", "b"], seed=0, **way)
    play(bandit, 200)
    bandit.add_variant(ModelVariant("c", abs))
    assert bandit.names == ("a", "b", "c")
    chosen = play(bandit, 300)
    assert chosen[200:].count("c") > 80
    assert bandit.get_statistics()["best_variant"] == "c"


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_variant_that_goes_is_chosen_no_more_and_is_not_forgotten(way):
    bandit = MultiArmedBandit(["a", "b", "c"], seed=0, **way)
    play(bandit, 200)
    before = bandit.get_statistics()
    bandit.remove_variant("c")
    assert "c" not in play(bandit, 100)
    stats = bandit.get_statistics()
    assert set(stats["counts"]) == set(stats["probabilities"]) == {"a", "b"}
    assert stats["removed"]["c"]["count"] == before["counts"]["c"]
    assert stats["removed"]["c"]["value"] == before["values"]["c"]
    bandit.add_variant("c")
    after = bandit.get_statistics()
    assert after["counts"]["c"] == before["counts"]["c"]
    assert after["values"]["c"] == before["values"]["c"]
    assert after["removed"] == {}
    assert play(bandit, 200).count("c") > 100


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_variants_come_and_go_in_any_order(way):
    bandit = MultiArmedBandit(["a", "b"], seed=0, **way)
    total = 0
    for change, name in [("add", "c"), ("remove", "a"), ("add", "d"), ("remove", "b")]:
        total += len(play(bandit, 40))
        getattr(bandit, f"{change}_variant")(name)
    total += len(play(bandit, 40))
    stats = bandit.get_statistics()
    assert bandit.names == ("c", "d")
    assert stats["total"] + sum(r["count"] for r in stats["removed"].values()) == total
    assert sum(stats["probabilities"].values()) == pytest.approx(1.0)


def test_a_reward_that_comes_after_its_variant_went_is_kept():
    bandit = MultiArmedBandit(["a", "b"])
    bandit.select_many(2, request_ids=["r1", "r2"])
    bandit.select_variant()
    bandit.remove_variant("a")
    bandit.update("a", 1.0, request_id="r1")
    bandit.update("a", 3.0)
    stats = bandit.get_statistics()
    assert stats["removed"]["a"] == {
        "count": 2,
        "value": 2.0,
        "std": pytest.approx(2**0.5),
        "non_finite": 0,
    }
    assert stats["pending"] == {"b": 1}
    bandit.add_variant("a")
    assert bandit.get_statistics()["pending"] == {"b": 1, "a": 0}
    assert bandit.select_variant("r1") == "a"  # answered while it was there


def test_a_request_of_a_variant_that_went_is_chosen_for_again():
    bandit = MultiArmedBandit(["a", "b"])
    assert bandit.select_variant("r1") == "a"
    bandit.remove_variant("a")
    assert bandit.select_variant("r1") == "b"
    bandit.update("b", 1.0, request_id="r1")
    assert bandit.get_statistics()["counts"] == {"b": 1}


def test_what_cannot_come_or_go_is_refused():
    bandit = MultiArmedBandit(["a", "b"], min_probability=0.4)
    with pytest.raises(ConfigError, match="already"):
        bandit.add_variant("a")
    with pytest.raises(ConfigError, match="for 3 variants"):
        bandit.add_variant("c")
    with pytest.raises(ConfigError, match="a name or a ModelVariant"):
        bandit.add_variant(3)
    with pytest.raises(VariantNotFoundError, match="'c'"):
        bandit.remove_variant("c")
    bandit.remove_variant("a")
    with pytest.raises(ConfigError, match="last variant"):
        bandit.remove_variant("b")
    with pytest.raises(ConfigError, match="two or more"):
        MultiArmedBandit([])
    with pytest.raises(ConfigError, match="list of names"):
        MultiArmedBandit("ab")
