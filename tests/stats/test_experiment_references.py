"""What experiments rest on, beside the numbers of scipy, statsmodels and gbstats."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from modelyard.stats.bayesian import expected_loss, probability_better
from modelyard.stats.comoments import CoMoments
from modelyard.stats.cuped import cuped_contrast
from modelyard.stats.effects import cohens_d
from modelyard.stats.moments import moments_of
from modelyard.stats.multiplicity import benjamini_hochberg, holm
from modelyard.stats.power import plan, power
from modelyard.stats.proportions import proportions_test
from modelyard.stats.ranks import rank_contrast
from modelyard.stats.ratios import ratio_contrast, relative_lift
from modelyard.stats.sample_ratio import sample_ratio
from modelyard.stats.sequential import always_valid
from modelyard.stats.significance import in_standard_errors, t_test, unpaired

REFERENCE = Path(__file__).parents[1] / "reference"
CASES = json.loads((REFERENCE / "experiments.json").read_text())


def same(expected, rel=1e-9):
    return pytest.approx(expected, rel=rel, abs=1e-12)


def sides_of(case):
    return [moments_of(np.array(case[side])) for side in ("a", "b")]


def lift_of(contrast, sides):
    a, b = (side.variance / side.n for side in sides)
    return relative_lift(contrast, variance_a=a, variance_b=b)


@pytest.mark.parametrize("case", CASES["means"])
def test_welch_and_cohens_d_agree_with_scipy(case):
    a, b = sides_of(case)
    test = t_test(unpaired(a, b))
    assert test.t_statistic == same(case["t_statistic"])
    assert test.df == same(case["df"])
    assert test.p_value == same(case["p_value"])
    assert [test.interval.lower, test.interval.upper] == same(case["interval"])
    assert cohens_d(a, b) == same(case["cohens_d"])


@pytest.mark.parametrize("case", CASES["means"])
def test_relative_lift_agrees_with_gbstats(case):
    sides = sides_of(case)
    lift = lift_of(unpaired(*sides), sides)
    assert lift.value == same(case["lift"])
    assert lift.standard_error == same(case["lift_error"])


@pytest.mark.parametrize("case", [case for case in CASES["means"] if case["anytime"]])
def test_always_valid_intervals_agree_with_gbstats(case):
    sides = sides_of(case)
    contrast = unpaired(*sides)
    found = always_valid(contrast, n_tuned=case["n_tuned"])
    absolute, relative = case["anytime"]["absolute"], case["anytime"]["relative"]
    assert [found.interval.lower, found.interval.upper] == same(absolute["interval"])
    assert found.p_value == same(absolute["p_value"])
    interval = lift_of(contrast, sides).interval(found.critical)
    assert [interval.lower, interval.upper] == same(relative["interval"])


@pytest.mark.parametrize("case", CASES["means"])
def test_chance_to_win_and_risk_agree_with_gbstats(case):
    contrast = unpaired(*sides_of(case))
    assert probability_better(contrast) == same(case["chance_to_win"])
    # gbstats takes its risk from moments of truncated normals, which scipy gives to 8 digits.
    assert expected_loss(contrast) == same(case["expected_loss"], rel=1e-7)


@pytest.mark.parametrize("case", CASES["means"])
def test_rank_test_agrees_with_scipys_brunner_munzel(case):
    contrast = rank_contrast(np.array(case["a"]), np.array(case["b"]))
    assert in_standard_errors(contrast) == same(case["brunner_munzel"])
    assert t_test(contrast).p_value == same(case["brunner_munzel_p_value"])


@pytest.mark.parametrize("case", CASES["proportions"])
def test_proportions_agree_with_statsmodels(case):
    test = proportions_test(*case["counts"])
    assert test.t_statistic == same(case["z"])
    assert test.p_value == same(case["p_value"])
    assert [test.interval.lower, test.interval.upper] == same(case["interval"])


@pytest.mark.parametrize("case", CASES["pairs"])
def test_ratios_agree_with_gbstats(case):
    a, b = co_moments(case["a"]), co_moments(case["b"])
    contrast = ratio_contrast(a, b)
    test = t_test(contrast)
    assert contrast.difference == same(case["ratio_difference"])
    assert math.sqrt(contrast.variance) == same(case["ratio_error"])
    assert [test.interval.lower, test.interval.upper] == same(case["ratio_interval"])
    variances = [contrast_variance(side) for side in (a, b)]
    lift = relative_lift(contrast, variance_a=variances[0], variance_b=variances[1])
    assert lift.value == same(case["ratio_lift"])
    assert lift.standard_error == same(case["ratio_lift_error"])


def contrast_variance(side):
    return ratio_contrast(side, side).variance / 2.0


@pytest.mark.parametrize("case", CASES["pairs"])
def test_cuped_agrees_with_the_regression_and_with_gbstats(case):
    contrast = cuped_contrast([(co_moments(case["a"]), co_moments(case["b"]))])
    assert contrast.difference == same(case["cuped_difference"])
    assert contrast.difference == same(case["cuped_difference_gbstats"])
    assert contrast.variance == same(case["cuped_variance"])


def co_moments(pair):
    total = CoMoments()
    for x, y in zip(*pair, strict=True):
        total = total.with_values(x, y)
    return total


@pytest.mark.parametrize("case", CASES["plans"])
def test_sample_sizes_agree_with_statsmodels(case):
    level, ratio = 1.0 - case["alpha"], case["ratio"]
    found = plan(
        case["effect"],
        std=1.0,
        wanted_power=case["power"],
        confidence_level=level,
        shares=(1.0, ratio),
        inference="fixed_horizon",
    )
    assert found.n_per_variant == (math.ceil(case["n_a"]), math.ceil(case["n_a"] * ratio))
    error = math.sqrt((1.0 + 1.0 / ratio) / case["n_a"])
    reached = power(case["effect"], standard_error=error, critical=found.critical)
    assert reached == pytest.approx(case["power"], abs=1e-6)


@pytest.mark.parametrize("case", CASES["corrections"])
def test_corrections_agree_with_statsmodels(case):
    assert holm(case["p_values"]) == same(case["holm"], rel=1e-12)
    assert benjamini_hochberg(case["p_values"]) == same(case["benjamini_hochberg"], rel=1e-12)


@pytest.mark.parametrize("case", CASES["sample_ratios"])
def test_sample_ratio_agrees_with_gbstats(case):
    assert sample_ratio([(case["counts"], case["shares"])]).p_value == same(case["p_value"])
