"""The same rewards in another unit lead to the same choices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelyard.ab_testing import MultiArmedBandit
from modelyard.ab_testing.bandits.policies import ALGORITHMS

WAYS = [
    *({"algorithm": algorithm} for algorithm in ALGORITHMS),
    {"algorithm": "ucb", "window": 40},
    {"algorithm": "ucb", "discount": 0.97},
    {"algorithm": "thompson_sampling", "window": 40},
    {"algorithm": "thompson_sampling", "discount": 0.97},
    {"algorithm": "thompson_sampling", "min_probability": 0.05},
]
STEPS = 150
NAMES = ("x", "y", "z")


def draw(kind, seed):
    rng = np.random.default_rng(seed)
    means = np.array([0.2, 0.4, 0.5])
    if kind == "won or lost":
        return (rng.random((STEPS, 3)) < means).astype(float)
    return means + 0.5 * (rng.standard_normal if kind == "normal" else _heavy(rng))((STEPS, 3))


def _heavy(rng):
    return lambda shape: rng.standard_t(3, shape)


def play(rewards, way):
    bandit = MultiArmedBandit(NAMES, seed=5, **way)
    chosen = []
    for row in rewards:
        chosen.append(bandit.select_variant())
        bandit.update(chosen[-1], row[NAMES.index(chosen[-1])])
    return chosen


@pytest.mark.parametrize("way", WAYS, ids=str)
@settings(max_examples=8)
@given(
    exponent=st.integers(-40, 40),
    seed=st.integers(0, 1000),
    kind=st.sampled_from(["normal", "heavy tails", "won or lost"]),
)
def test_a_power_of_two_changes_no_choice(way, exponent, seed, kind):
    rewards = draw(kind, seed)
    assert play(rewards, way) == play(rewards * 2.0**exponent, way)


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("kind", ["normal", "heavy tails", "won or lost"])
@pytest.mark.parametrize(("scale", "shift"), [(0.01, 0.0), (100.0, 0.0), (1.0, 5.0), (0.3, -7.0)])
def test_neither_size_nor_level_of_the_rewards_changes_a_choice(way, kind, scale, shift):
    rewards = draw(kind, seed=1)
    assert play(rewards, way) == play(rewards * scale + shift, way)


@settings(max_examples=20)
@given(
    low=st.floats(-1e6, 1e6),
    span=st.floats(1e-3, 1e6),
    way=st.sampled_from(WAYS),
    seed=st.integers(0, 1000),
)
def test_what_won_and_lost_are_worth_changes_no_choice(low, span, way, seed):
    won = draw("won or lost", seed)
    assert play(won, way) == play(np.where(won == 1.0, low + span, low), way)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_ties_among_many_variants_are_ties_in_every_unit(way):
    names = [f"variant_{i}" for i in range(10)]
    won = (np.random.default_rng(3).random((300, 10)) < np.linspace(0.3, 0.7, 10)).astype(float)
    plays = []
    for rewards in (won, won * 0.01, won * 100.0, won + 5.0):
        bandit, chosen = MultiArmedBandit(names, seed=0, **way), []
        for row in rewards:
            chosen.append(bandit.select_variant())
            bandit.update(chosen[-1], row[names.index(chosen[-1])])
        plays.append(chosen)
    assert all(one == plays[0] for one in plays)
