"""Tests of differences: significance, effects, power, multiplicity, and many looks."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard._core.errors import ConfigError
from modelyard.stats import sequential
from modelyard.stats.effects import cohens_d, relative_change
from modelyard.stats.intervals import alpha_of
from modelyard.stats.moments import Moments, merge, moments_of
from modelyard.stats.multiplicity import holm
from modelyard.stats.power import minimum_detectable_effect, power, samples_per_variant
from modelyard.stats.significance import paired, stratified, t_test, unpaired

REFERENCE = Path(__file__).parents[1] / "reference"
CASES = json.loads((REFERENCE / "significance.json").read_text())
SEQUENTIAL = json.loads((REFERENCE / "sequential.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_welch_agrees_with_scipy(case):
    a, b = moments_of(np.array(case["a"])), moments_of(np.array(case["b"]))
    test = t_test(unpaired(a, b), confidence_level=0.9)
    assert test.t_statistic == pytest.approx(case["t_statistic"], rel=1e-7)
    assert test.df == pytest.approx(case["df"], rel=1e-9)
    assert test.p_value == pytest.approx(case["p_value"], rel=1e-7)
    assert [test.interval.lower, test.interval.upper] == pytest.approx(
        case["interval_90"], rel=1e-6
    )


@pytest.mark.parametrize("case", CASES)
def test_paired_test_agrees_with_scipy(case):
    k = min(len(case["a"]), len(case["b"]))
    differences = moments_of(np.array(case["b"][:k]) - np.array(case["a"][:k]))
    test = t_test(paired(differences, mean_a=0.0, mean_b=0.0))
    assert test.t_statistic == pytest.approx(case["paired_t_statistic"], rel=1e-9)
    assert test.p_value == pytest.approx(case["paired_p_value"], rel=1e-9)


@pytest.mark.parametrize("case", SEQUENTIAL)
def test_confidence_sequence_agrees_with_growthbook(case):
    sides = [
        Moments(case["n"], mean, m2) for mean, m2 in zip(case["mean"], case["m2"], strict=True)
    ]
    result = sequential.mean_difference(*sides, n_tuned=case["n_tuned"])
    assert result.p_value == pytest.approx(case["p_value"], rel=1e-9)
    assert [result.interval.lower, result.interval.upper] == pytest.approx(
        case["interval"], rel=1e-9
    )


@given(st.floats(-3, 3), st.integers(2, 5000))
def test_p_value_is_below_alpha_exactly_when_zero_is_outside_the_interval(mean, n):
    a, b = Moments(n, 0.0, float(n)), Moments(n, mean, float(n))
    result = sequential.mean_difference(a, b, n_tuned=1000)
    outside = not result.interval.lower <= 0.0 <= result.interval.upper
    assert outside == (result.p_value < 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("draw", ["normal", "bernoulli", "student"])
def test_a_hundred_looks_give_false_winners_in_at_most_five_percent(draw):
    rng = np.random.default_rng(11)
    found = sum(_any_look_is_significant(_draws(rng, draw), _draws(rng, draw)) for _ in range(200))
    assert found <= 10


def _draws(rng, kind):
    if kind == "bernoulli":
        return (rng.random(2000) < 0.2).astype(float)
    return rng.standard_t(3, 2000) if kind == "student" else rng.normal(size=2000)


def _any_look_is_significant(x, y):
    a = b = Moments()
    for start in range(0, 2000, 20):
        a = merge(a, moments_of(x[start : start + 20]))
        b = merge(b, moments_of(y[start : start + 20]))
        looked = a.n >= 100
        if looked and sequential.mean_difference(a, b, n_tuned=2000).p_value < 0.05:
            return True
    return False


def test_strata_protect_from_simpsons_paradox():
    good, bad = Moments(90, 10.0, 90.0), Moments(10, 0.0, 10.0)
    few_good, many_bad = Moments(10, 10.0, 10.0), Moments(90, 0.0, 90.0)
    contrast = stratified([(good, few_good), (bad, many_bad)])
    assert contrast.difference == 0.0
    assert unpaired(merge(good, bad), merge(few_good, many_bad)).difference == pytest.approx(-8.0)


def test_one_stratum_is_welch_and_an_empty_one_changes_nothing():
    a, b = Moments(50, 1.0, 12.25), Moments(60, 1.2, 20.0)
    assert stratified([(a, b), (Moments(), Moments(5, 3.0, 1.0))]) == unpaired(a, b)


@pytest.mark.parametrize(
    ("a", "b"), [(Moments(), Moments()), (Moments(1, 2.0), Moments(50, 3.0, 9.0))]
)
def test_too_few_values_are_no_evidence(a, b):
    contrast = unpaired(a, b)
    assert t_test(contrast).p_value == 1.0
    assert sequential.always_valid(contrast, n_tuned=100).p_value == 1.0


def test_two_constants_that_differ_are_certain_and_equal_ones_are_not():
    assert t_test(unpaired(Moments(9, 1.0), Moments(9, 2.0))).p_value < 1e-200
    assert t_test(unpaired(Moments(9, 1.0), Moments(9, 1.0))).p_value == 1.0


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, 95.0])
def test_a_level_outside_its_range_says_what_is_meant(level):
    with pytest.raises(ConfigError, match="means 95 %"):
        alpha_of(level)


def test_a_tuning_size_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="n_tuned"):
        sequential.mixture_precision(0.05, 0)


def test_effect_sizes():
    assert cohens_d(Moments(50, 1.0, 49.0), Moments(50, 1.5, 49.0)) == pytest.approx(0.5)
    assert cohens_d(Moments(5, 1.0), Moments(5, 2.0)) == math.inf
    assert math.isnan(cohens_d(Moments(1, 1.0), Moments(5, 2.0)))
    assert relative_change(-0.5, -0.4) == pytest.approx(0.2)
    assert relative_change(0.0, 0.0) == 0.0
    assert math.isnan(relative_change(0.0, 1.0))


def test_power_at_the_minimum_detectable_effect_is_the_wanted_power():
    effect = minimum_detectable_effect(standard_error=0.1, critical=1.96)
    assert power(effect, standard_error=0.1, critical=1.96) == pytest.approx(0.8, abs=1e-4)


def test_sample_size_of_cohens_textbook_case():
    # Cohen (1988), table 2.4.1: 64 for d = .5 with t; the normal approximation gives 63.
    assert samples_per_variant(0.5, std=1.0) == 63
    with pytest.raises(ConfigError, match="effect"):
        samples_per_variant(0.0, std=1.0)


def test_holm_agrees_with_r():
    # The numbers are those of p.adjust(..., "holm") in R.
    assert holm([0.04, 0.01, 0.03, 0.02, 0.05]) == pytest.approx([0.09, 0.05, 0.09, 0.08, 0.09])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_never_lowers_a_p_value_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    assert np.all(adjusted >= np.array(p_values) - 1e-15)
    assert np.all(np.diff(adjusted[np.argsort(p_values, kind="stable")]) >= 0)
