"""How large an experiment must be."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from modelyard._core.errors import ConfigError
from modelyard.stats.group_sequential import boundaries, crossing_probability
from modelyard.stats.moments import Moments
from modelyard.stats.power import plan, plan_proportion, plan_sharpe, power, samples_per_variant
from modelyard.stats.sequential import critical_at
from modelyard.stats.significance import unpaired


def test_a_balanced_fixed_horizon_plan_is_the_textbook_one():
    found = plan(0.1, std=1.0, inference="fixed_horizon")
    assert found.n_per_variant == (1570, 1570)
    assert found.n_per_variant[0] == samples_per_variant(0.1, std=1.0)
    assert found.critical == pytest.approx(stats.norm.isf(0.025))


@settings(max_examples=40)
@given(
    st.floats(0.02, 0.5),
    st.floats(0.5, 0.95),
    st.floats(0.1, 0.9),
    st.one_of(st.none(), st.floats(100, 1e5)),
)
def test_an_always_valid_plan_reaches_the_power_where_the_contrast_stands(
    effect, wanted, share, n_tuned
):
    found = plan(effect, std=1.0, wanted_power=wanted, shares=(1 - share, share), n_tuned=n_tuned)
    n_a, n_b = found.n_per_variant
    contrast = unpaired(Moments(n_a, 0.0, n_a - 1.0), Moments(n_b, 0.0, n_b - 1.0))
    critical = critical_at(contrast.n, n_tuned=n_tuned or contrast.n)
    assert critical == pytest.approx(found.critical, rel=0.02)
    reached = power(effect, standard_error=math.sqrt(contrast.variance), critical=critical)
    assert wanted - 1e-9 <= reached <= wanted + 0.05


def test_looking_always_costs_more_than_a_few_looks_and_those_more_than_one():
    sizes = [
        plan(0.1, std=1.0, inference=inference).n_total
        for inference in ("fixed_horizon", "group_sequential", "always_valid")
    ]
    assert sizes == sorted(sizes)
    assert sizes[1] / sizes[0] == pytest.approx(1.025, abs=0.01)  # known for five looks
    assert sizes[2] / sizes[0] == pytest.approx(1.9, abs=0.1)


def test_a_group_sequential_plan_reaches_its_power():
    found = plan(0.1, std=1.0, inference="group_sequential", n_looks=3, wanted_power=0.9)
    fractions = [1 / 3, 2 / 3, 1.0]
    drift = 0.1 * math.sqrt(found.n_per_variant[0] / 2)
    reached = crossing_probability(fractions, boundaries(fractions), drift=drift)
    assert reached == pytest.approx(0.9, abs=1e-3)
    once = plan(0.1, std=1.0, inference="group_sequential", n_looks=1)
    assert once.n_total == plan(0.1, std=1.0, inference="fixed_horizon").n_total


def test_more_than_two_variants_are_planned_for_the_smallest_two():
    three = plan(0.1, std=1.0, shares=(2, 1, 1), inference="fixed_horizon")
    assert three.n_per_variant == (3140, 1570, 1570)
    assert three.n_total == 6280


def test_proportions_are_planned_with_the_variance_of_each():
    found = plan_proportion(0.05, 0.01, inference="fixed_horizon")
    # Fleiss, Levin and Paik's formula without pooling, computed by hand.
    needed = (1.959964 + 0.841621) ** 2 * (0.05 * 0.95 + 0.06 * 0.94) / 0.01**2
    assert found.n_per_variant[0] == math.ceil(needed)
    assert plan_proportion(0.05, -0.01).n_total < found.n_total * 2.0
    with pytest.raises(ConfigError, match="rates"):
        plan_proportion(0.05, -0.05)


def test_sharpe_ratios_take_years_apart_and_months_in_pairs():
    apart = plan_sharpe(1.0, 1.8, inference="fixed_horizon")
    pairs = plan_sharpe(1.0, 1.8, correlation=0.98, inference="fixed_horizon")
    assert apart.n_per_variant == (6207, 6207)
    assert pairs.n_per_variant == (129, 129)  # 128.4
    assert apart.effect == pytest.approx(0.8)
    always = plan_sharpe(1.0, 1.8, correlation=0.98)
    assert 1.5 < always.n_total / pairs.n_total < 2.5


def test_planned_pairs_find_the_difference_as_often_as_wanted():
    periods = plan_sharpe(1.0, 3.0, correlation=0.9, inference="fixed_horizon").n_per_variant[0]
    rng = np.random.default_rng(10)
    from modelyard.stats.sharpe_difference import paired_sharpe_contrast
    from modelyard.stats.significance import t_test

    found = 0
    for _ in range(300):
        z = rng.normal(size=(2, periods))
        a = z[0] + 1.0 / math.sqrt(252)
        b = 0.9 * z[0] + math.sqrt(1 - 0.81) * z[1] + 3.0 / math.sqrt(252)
        found += t_test(paired_sharpe_contrast(a, b)).p_value < 0.05
    assert found / 300 == pytest.approx(0.8, abs=0.07)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"effect": 0.0}, "effect"),
        ({"effect": math.nan}, "effect"),
        ({"std": 0.0}, "std"),
        ({"wanted_power": 0.05}, "wanted_power"),
        ({"wanted_power": 1.0}, "wanted_power"),
        ({"confidence_level": 95.0}, "95 %"),
        ({"shares": (1.0,)}, "shares"),
        ({"shares": (1.0, 0.0)}, "shares"),
        ({"inference": "peeking"}, "inference"),
        ({"inference": "group_sequential", "n_looks": 0}, "n_looks"),
        ({"n_tuned": 0.0}, "n_tuned"),
    ],
)
def test_what_cannot_be_planned_says_why(options, words):
    with pytest.raises(ConfigError, match=words):
        plan(**{"effect": 0.1, "std": 1.0, **options})


def test_a_badly_tuned_plan_is_long_but_found():
    best = plan(0.1, std=1.0).n_total
    assert best < plan(0.1, std=1.0, n_tuned=1e9).n_total < 1e7
    assert best < plan(0.1, std=1.0, n_tuned=2.0).n_total < 3 * best


def test_a_power_that_is_no_chance_is_refused():
    with pytest.raises(ConfigError, match="wanted_power"):
        samples_per_variant(0.1, std=1.0, wanted_power=1.0)


@pytest.mark.parametrize("correlation", [-1.0, 1.0, 2.0])
def test_a_correlation_of_identical_streams_is_refused(correlation):
    with pytest.raises(ConfigError, match="correlation"):
        plan_sharpe(1.0, 2.0, correlation=correlation)
    with pytest.raises(ConfigError, match="periods_per_year"):
        plan_sharpe(1.0, 2.0, periods_per_year=0.0)
