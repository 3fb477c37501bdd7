import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from modelyard._core.errors import ConfigError
from modelyard.ab_testing.bandits.kl import KullbackLeibler, divergence, upper_share
from modelyard.ab_testing.bandits.optimism import Adaptive, Tuned, UpperConfidenceBound
from modelyard.ab_testing.bandits.policies import ALGORITHMS, PolicyRules
from modelyard.ab_testing.bandits.sums import Sums
from modelyard.ab_testing.bandits.thompson import ThompsonSampling

RNG = np.random.default_rng(0)


def sums_of(*variants):
    sums = Sums(len(variants))
    for index, rewards in enumerate(variants):
        for reward in rewards:
            sums.add(index, reward)
    return sums


NORMAL = sums_of([1.0, 2.0, 4.0], [0.5, 0.7], [3.0, 1.0, 2.0, 2.5, 1.5])
WON = sums_of([0.0, 1.0, 1.0], [0.0, 0.0], [1.0, 1.0, 0.0, 1.0])
T = 10


def test_ucb_adds_pooled_spreads_to_the_mean():
    within = sum(NORMAL.m2)
    scale = math.sqrt(within / (T - 3))
    assert NORMAL.scale == pytest.approx(scale)
    bounds = [
        mean + scale * math.sqrt(2 * math.log(T) / n)
        for mean, n in zip(NORMAL.means, NORMAL.counts, strict=True)
    ]
    assert UpperConfidenceBound().choose(NORMAL, RNG) == (int(np.argmax(bounds)), None)


def test_ucb_tuned_goes_by_what_the_variance_could_be():
    log_t = math.log(9)
    bounds = []
    for share, n in [(2 / 3, 3), (0.0, 2), (3 / 4, 4)]:
        variance = min(0.25, share * (1 - share) + math.sqrt(2 * log_t / n))
        bounds.append(share + math.sqrt(log_t / n * variance))
    assert Tuned().bounds(WON, WON.scale) == pytest.approx(bounds)
    s2, n = NORMAL.scale**2, 3
    variance = np.var([1.0, 2.0, 4.0]) + s2 * math.sqrt(2 * math.log(T) / n)
    assert Tuned().bounds(NORMAL, NORMAL.scale)[0] == pytest.approx(
        7 / 3 + math.sqrt(math.log(T) / n * variance)
    )


def test_kl_ucb_of_normal_rewards_has_a_closed_form():
    bounds = KullbackLeibler().bounds(NORMAL, NORMAL.scale)
    for bound, mean, n in zip(bounds, NORMAL.means, NORMAL.counts, strict=True):
        assert bound == pytest.approx(mean + NORMAL.scale * math.sqrt(2 * math.log(T / n) / n))


@given(st.floats(0, 1), st.one_of(st.just(0.0), st.floats(1e-9, 20)))
def test_upper_share_is_where_the_divergence_reaches_its_level(share, level):
    bound = upper_share(share, level)
    assert share <= bound <= 1.0
    # Beside 1 the divergence rises by more than that from one float to the next.
    assert divergence(share, max(share, bound - 1e-8)) <= level
    if bound < 1.0 - 1e-8:
        assert divergence(share, bound + 1e-8) >= level


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 50)), min_size=2, max_size=6))
def test_kl_ucb_finds_the_largest_bound_without_working_out_the_others(counts):
    wins = [min(won, n) for won, n in counts]
    assume(0 < sum(wins) < sum(n for _, n in counts))
    sums = sums_of(*([1.0] * w + [0.0] * (n - w) for w, (_, n) in zip(wins, counts, strict=True)))
    t = sums.n_pulls
    every = [
        upper_share(w / n, math.log(t / n) / n) for w, (_, n) in zip(wins, counts, strict=True)
    ]
    chosen = int(np.argmax(KullbackLeibler().bounds(sums, 1.0)))
    assert every[chosen] == pytest.approx(max(every), abs=1e-9)


def test_kl_ucb_takes_a_known_range_for_won_and_lost():
    sums = sums_of([2.0, 6.0, 3.0], [5.0, 4.5, 2.2])
    sums.least, sums.most = 2.0, 10.0
    bounds = KullbackLeibler((2.0, 10.0)).bounds(sums, 1.0)
    mean = (5.0 + 4.5 + 2.2) / 3
    expected = 2.0 + 8.0 * upper_share((mean - 2.0) / 8.0, math.log(2.0) / 3)
    assert 2.0 + 8.0 * max(bounds) == pytest.approx(expected)


def test_ada_ucb_weighs_effort_by_how_well_the_others_are_known():
    pulls = NORMAL.pulls
    bounds = Adaptive().bounds(NORMAL, NORMAL.scale)
    for bound, mean, n in zip(bounds, NORMAL.means, pulls, strict=True):
        effort = sum(min(n, math.sqrt(n * other)) for other in pulls)
        level = max(0.0, math.log(T / effort))
        assert bound == pytest.approx(mean + NORMAL.scale * math.sqrt(2 * level / n))


def test_thompson_sampling_knows_beta_and_normal_posteriors():
    beta = ThompsonSampling().posterior(WON)
    assert (beta.kind, beta.first, beta.second) == ("beta", (3, 1, 4), (2, 3, 2))
    normal = ThompsonSampling().posterior(NORMAL)
    assert normal.kind == "normal"
    assert normal.first == pytest.approx(NORMAL.means)
    expected = [NORMAL.scale / math.sqrt(n) for n in NORMAL.counts]
    assert normal.second == pytest.approx(expected)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_variant_is_tried_before_any_is_preferred(algorithm):
    policy, sums = PolicyRules(algorithm=algorithm, epsilon=0.0).policy(), Sums(3)
    for expected in (0, 1, 2):
        assert policy.choose(sums, RNG)[0] == expected
        sums.pull(expected)


def test_exploration_falls_with_use_but_not_below_the_floor():
    rules = PolicyRules(
        algorithm="epsilon_greedy", epsilon=0.2, epsilon_decay=0.1, min_probability=0.01
    )
    assert rules.exploration(0, 4) == 0.2
    assert rules.exploration(30, 4) == pytest.approx(0.05)
    assert rules.exploration(10_000, 4) == pytest.approx(0.04)
    assert PolicyRules(min_probability=0.02).exploration(5, 3) == pytest.approx(0.06)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"algorithm": "softmax"}, "epsilon_greedy, ucb"),
        ({"epsilon": math.nan}, "10 %"),
        ({"epsilon_decay": -1.0}, "epsilon_decay"),
        ({"window": 1}, "window"),
        ({"window": 2.5}, "window"),
        ({"window": True}, "window"),
        ({"discount": 1.0}, "0.99"),
        ({"window": 10, "discount": 0.9}, "one of both"),
        ({"reward_range": (1.0, 1.0)}, "reward_range"),
        ({"reward_range": 3}, "reward_range"),
        ({"reward_range": (0.0, math.inf)}, "reward_range"),
    ],
)
def test_rules_that_make_no_sense_are_refused(options, match):
    with pytest.raises(ConfigError, match=match):
        PolicyRules(**options)


def test_the_least_chance_leaves_room_for_every_variant():
    PolicyRules(min_probability=0.25).check_number(4)
    with pytest.raises(ConfigError, match="for 5 variants"):
        PolicyRules(min_probability=0.25).check_number(5)
