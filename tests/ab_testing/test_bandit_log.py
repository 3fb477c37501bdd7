import json
import math
from collections import Counter

import numpy as np
import pytest

from modelyard._core.clock import ManualClock
from modelyard._core.errors import ConfigError
from modelyard.ab_testing import MultiArmedBandit
from modelyard.ab_testing.bandits.log import read_log
from modelyard.ab_testing.bandits.policies import ALGORITHMS

ABC = ("a", "b", "c")
WAYS = [
    {"algorithm": "epsilon_greedy", "epsilon": 0.3},
    {"algorithm": "epsilon_greedy", "epsilon": 0.5, "epsilon_decay": 0.02},
    {"algorithm": "epsilon_greedy", "epsilon": 0.01, "min_probability": 0.1},
    {"algorithm": "ucb", "min_probability": 0.1},
    {"algorithm": "thompson_sampling"},
    {"algorithm": "thompson_sampling", "min_probability": 0.1},
    {"algorithm": "thompson_sampling", "window": 30},
    {"algorithm": "thompson_sampling", "discount": 0.9},
]


def taught(way, draw="normal", seed=0, n=60):
    rng = np.random.default_rng(seed)
    bandit = MultiArmedBandit(ABC, seed=seed, **way)
    for _ in range(n):
        name = bandit.select_variant()
        mean = {"a": 0.2, "b": 0.4, "c": 0.5}[name]
        bandit.update(name, rng.normal(mean) if draw == "normal" else float(rng.random() < mean))
    return bandit


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("draw", ["normal", "won"])
def test_propensities_are_the_frequencies_of_choices(way, draw):
    plain = taught(way, draw).to_dict()
    counts, logged = Counter(), {}
    for seed in range(400):
        bandit = MultiArmedBandit.from_dict(plain)
        bandit._learner.rng = np.random.default_rng(seed)
        name = bandit.select_variant()
        counts[name] += 1
        logged[name] = bandit.choices()[-1]["propensity"]
    probabilities = MultiArmedBandit.from_dict(plain).get_statistics()["probabilities"]
    for name, propensity in logged.items():
        assert propensity == pytest.approx(probabilities[name], abs=1e-9)
        assert counts[name] / 400 == pytest.approx(propensity, abs=0.1)  # four standard errors


@pytest.mark.parametrize("algorithm", ["ucb", "ucb_tuned", "kl_ucb", "ada_ucb"])
def test_a_certain_choice_has_propensity_one(algorithm):
    bandit = taught({"algorithm": algorithm})
    assert {entry["propensity"] for entry in bandit.choices()} == {1.0}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_variant_has_less_than_its_least_chance(algorithm):
    bandit = taught({"algorithm": algorithm, "min_probability": 0.07})
    assert min(bandit.get_statistics()["probabilities"].values()) >= 0.07 - 1e-12
    assert min(entry["propensity"] for entry in bandit.choices()) >= 0.07 - 1e-12


def test_a_choice_made_elsewhere_is_logged_with_its_chance():
    bandit = MultiArmedBandit(ABC)
    bandit.update("a", 1.0, propensity=0.25)
    bandit.update("b", 2.0, propensity=0.5, request_id="r1")
    bandit.update("b", 2.0, propensity=0.5, request_id="r1")
    log = bandit.choices()
    assert [(e["variant"], e["propensity"], e["reward"]) for e in log] == [
        ("a", 0.25, 1.0),
        ("b", 0.5, 2.0),
    ]
    assert bandit.get_statistics()["duplicates"] == 1
    assert sum(bandit.get_statistics()["pending"].values()) == 0


@pytest.mark.parametrize("propensity", [0.0, -0.1, 1.1, math.nan, "x", True])
def test_an_impossible_propensity_is_refused(propensity):
    with pytest.raises(ConfigError, match="propensity"):
        MultiArmedBandit(ABC).update("a", 1.0, propensity=propensity)


def test_the_log_says_when_what_was_chosen_among_which_and_what_came_of_it():
    clock = ManualClock()
    bandit = MultiArmedBandit(("a", "b"), clock=clock)
    bandit.select_variant("r1")
    clock.advance(90.5)
    bandit.update("a", math.nan, request_id="r1")
    bandit.add_variant("c")
    bandit.select_variant()
    assert bandit.choices() == [
        {
            "at": "2024-01-01T00:00:00+00:00",
            "variant": "a",
            "among": ["a", "b"],
            "propensity": 1.0,
            "has_reward": True,
            "reward": None,
            "request_id": "r1",
        },
        {
            "at": "2024-01-01T00:01:30.500000+00:00",
            "variant": "b",
            "among": ["a", "b", "c"],
            "propensity": 1.0,
            "has_reward": False,
            "reward": None,
            "request_id": None,
        },
    ]


def test_the_log_in_memory_is_bounded():
    bandit = taught({"algorithm": "ucb", "log_size": 10}, n=50)
    assert len(bandit.choices()) == 10


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_written_log_is_read_as_it_was(kind, tmp_path):
    bandit = MultiArmedBandit(("a", "b, or\n'c'"), "thompson_sampling", seed=0)
    for i, reward in enumerate([1.0, 0.0, 1 / 3, math.inf]):
        name = bandit.select_variant(f"r{i}" if i % 2 else None)
        bandit.update(name, reward, request_id=f"r{i}" if i % 2 else None)
    bandit.select_variant()
    path = bandit.export_choices(tmp_path / "new" / f"log.{kind}")
    assert read_log(path) == bandit.choices()


def test_a_log_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"\.jsonl or \.csv"):
        MultiArmedBandit(ABC).export_choices(tmp_path / "log.parquet")
    assert list(tmp_path.iterdir()) == []


def test_json_lines_are_one_choice_each(tmp_path):
    bandit = taught({"algorithm": "ucb"}, n=5)
    lines = (tmp_path / "log.jsonl", bandit.export_choices(tmp_path / "log.jsonl"))[0]
    assert [json.loads(line)["variant"] for line in lines.read_text().splitlines()] == [
        entry["variant"] for entry in bandit.choices()
    ]
