"""Running moments of pairs, and what is made of them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.stats.comoments import CoMoments, merge_all_co
from modelyard.stats.cuped import cuped_contrast, variance_reduction
from modelyard.stats.moments import Moments, moments_of
from modelyard.stats.ratios import ratio_contrast, relative_lift
from modelyard.stats.significance import Contrast, no_contrast, stratified, t_test, unpaired

numbers = st.floats(-1e6, 1e6)
samples = st.lists(st.tuples(numbers, numbers), max_size=30)


def of_pairs(pairs):
    total = CoMoments()
    for x, y in pairs:
        total = total.with_values(x, y)
    return total


@given(samples)
def test_running_moments_are_numpys(pairs):
    found = of_pairs(pairs)
    assert found.n == len(pairs)
    if len(pairs) < 2:
        assert math.isnan(found.variance_x)
        assert math.isnan(found.covariance)
        return
    expected = np.cov(np.array(pairs).T)
    tolerance = 1e-9 * max(1.0, float(np.abs(expected).max()), float(np.square(pairs).max()))
    assert found.variance_x == pytest.approx(expected[0, 0], abs=tolerance)
    assert found.variance_y == pytest.approx(expected[1, 1], abs=tolerance)
    assert found.covariance == pytest.approx(expected[0, 1], abs=tolerance)
    assert [found.mean_x, found.mean_y] == pytest.approx(np.mean(pairs, axis=0), abs=1e-6)


@given(samples, samples)
def test_merging_is_taking_all_values_in_any_order(first, second):
    together, reverse = of_pairs(first + second), of_pairs(second).merged(of_pairs(first))
    merged = merge_all_co([of_pairs(first), CoMoments(), of_pairs(second)])
    scale = max([1.0, *(x * x + y * y for x, y in first + second)])
    for found in (merged, reverse):
        assert found.n == together.n
        for name in ("mean_x", "mean_y", "m2_x", "m2_y", "c_xy"):
            assert getattr(found, name) == pytest.approx(
                getattr(together, name), rel=1e-9, abs=1e-9 * scale
            )


def test_a_large_offset_loses_no_digits():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 1000))
    found = of_pairs(zip(x + 1e9, y + 1e9, strict=True))
    assert found.covariance == pytest.approx(np.cov(x, y)[0, 1], abs=1e-6)


@given(samples)
def test_both_sides_alone_are_moments(pairs):
    found = of_pairs(pairs)
    assert found.x == Moments(found.n, found.mean_x, found.m2_x)
    assert found.y == Moments(found.n, found.mean_y, found.m2_y)


def test_one_over_a_constant_is_the_mean_itself():
    rng = np.random.default_rng(1)
    x = rng.normal(1, 1, size=(2, 50))
    a, b = (of_pairs((value, 1.0) for value in side) for side in x)
    found, expected = ratio_contrast(a, b), unpaired(moments_of(x[0]), moments_of(x[1]))
    assert found.variance == pytest.approx(expected.variance, rel=1e-12)
    assert found.df == pytest.approx(expected.df, rel=1e-12)
    assert found.n == expected.n


def test_a_ratio_over_nothing_is_no_evidence():
    a = of_pairs([(1.0, 0.0), (2.0, 0.0)])
    assert t_test(ratio_contrast(a, a)).p_value == 1.0
    assert t_test(ratio_contrast(CoMoments(), of_pairs([(1, 1)] * 5))).p_value == 1.0


@pytest.mark.slow
def test_intervals_of_ratios_cover():
    rng = np.random.default_rng(2)
    inside = 0
    for _ in range(1000):
        sides = []
        for _ in range(2):
            y = rng.gamma(2.0, 1.0, 200)
            sides.append(of_pairs(zip(y * rng.gamma(3.0, 1.0, 200), y, strict=True)))
        interval = t_test(ratio_contrast(*sides)).interval
        inside += interval.lower <= 0.0 <= interval.upper
    assert 0.93 <= inside / 1000 <= 0.97


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_lift_is_positive_for_more_whatever_the_sign_of_the_mean(sign):
    contrast = Contrast(
        difference=0.5, variance=0.02, df=9.0, mean_a=sign, mean_b=sign + 0.5, n=20.0
    )
    lift = relative_lift(contrast, variance_a=0.01, variance_b=0.01)
    assert lift.value == 0.5
    interval = lift.interval(2.0)
    assert interval.upper - lift.value == pytest.approx(lift.value - interval.lower)


@pytest.mark.parametrize(
    "contrast",
    [
        no_contrast(),
        Contrast(difference=1.0, variance=0.1, df=9.0, mean_a=0.0, mean_b=1.0, n=20.0),
    ],
)
def test_a_lift_over_nothing_is_unknown(contrast):
    lift = relative_lift(contrast, variance_a=0.1, variance_b=0.1)
    assert math.isnan(lift.value)
    assert math.isnan(lift.interval(1.96).lower)


def pre_and_post(rng, n, effect, slope):
    y = rng.normal(10, 2, n)
    return of_pairs(zip(slope * y + rng.normal(effect, 1, n), y, strict=True))


def test_cuped_finds_the_effect_with_a_fraction_of_the_variance():
    rng = np.random.default_rng(3)
    strata = [
        (pre_and_post(rng, 400, 0.0, 1.0), pre_and_post(rng, 100, 0.3, 1.0)),
        (pre_and_post(rng, 100, 0.0, 1.0), pre_and_post(rng, 400, 0.3, 1.0)),
    ]
    contrast = cuped_contrast(strata)
    assert contrast.difference == pytest.approx(0.3, abs=0.15)
    assert variance_reduction(strata) == pytest.approx(0.8, abs=0.05)  # 1 - 1 / (1 + 4)
    assert contrast.mean_b - contrast.mean_a == contrast.difference
    assert contrast.mean_a == pytest.approx(10, abs=0.5)


def test_a_covariate_that_says_nothing_changes_nothing():
    rng = np.random.default_rng(4)
    constant = [tuple(of_pairs((x, 3.0) for x in side) for side in rng.normal(size=(2, 30)))]
    assert cuped_contrast(constant) == stratified([(a.x, b.x) for a, b in constant])
    assert variance_reduction(constant) == 0.0
    independent = [(pre_and_post(rng, 500, 0, 0.0), pre_and_post(rng, 500, 0, 0.0))]
    assert variance_reduction(independent) == pytest.approx(0.0, abs=0.02)


def test_without_units_cuped_knows_nothing():
    for strata in ([], [(CoMoments(), CoMoments())], [(of_pairs([(1, 2)]), of_pairs([(1, 2)]))]):
        assert math.isnan(cuped_contrast(strata).variance)
        assert math.isnan(variance_reduction(strata))
