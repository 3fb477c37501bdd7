"""What stands beside a verdict: sample ratio, posteriors, guardrails, corrections, proportions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from modelyard._core.errors import ConfigError
from modelyard.stats.bayesian import (
    expected_loss,
    probabilities_to_be_best,
    probability_better,
)
from modelyard.stats.moments import Moments
from modelyard.stats.multiplicity import benjamini_hochberg, holm
from modelyard.stats.non_inferiority import non_inferiority
from modelyard.stats.proportions import proportions_test
from modelyard.stats.sample_ratio import sample_ratio
from modelyard.stats.significance import Contrast, combined, no_contrast, stratified, unpaired

sides = st.tuples(st.integers(0, 50), st.floats(-5, 5), st.floats(0.1, 50)).map(
    lambda parts: Moments(parts[0], parts[1] if parts[0] else 0.0, parts[2] * (parts[0] > 1))
)


def contrast_of(difference, error):
    return Contrast(
        difference=difference, variance=error**2, df=99.0, mean_a=1.0, mean_b=1 + difference, n=100
    )


# ── periods together ────────────────────────────────────────────────────────────────────────────


@given(st.lists(st.tuples(sides, sides), max_size=5))
def test_contrasts_of_periods_together_are_the_stratified_one(strata):
    found, expected = combined([unpaired(a, b) for a, b in strata]), stratified(strata)
    for name in ("difference", "variance", "df", "mean_a", "mean_b", "n"):
        assert getattr(found, name) == pytest.approx(
            getattr(expected, name), rel=1e-9, abs=1e-9, nan_ok=True
        )


# ── sample ratio ────────────────────────────────────────────────────────────────────────────────


def test_always_valid_sample_ratio_is_the_average_of_scipys_likelihood_ratios():
    counts, shares = [5120, 4880], [0.5, 0.5]
    null = stats.multinomial.logpmf(counts, 10_000, shares)
    ratios = [
        math.exp(
            stats.dirichlet_multinomial.logpmf(counts, total * np.array(shares), 10_000) - null
        )
        for total in (100.0, 1e4, 1e6)
    ]
    found = sample_ratio([(counts, shares)]).p_value_always_valid
    assert found == pytest.approx(min(1.0, 3.0 / sum(ratios)), rel=1e-6)


@pytest.mark.slow
def test_looking_at_the_sample_ratio_after_every_unit_is_safe():
    rng = np.random.default_rng(11)
    counts = np.cumsum(rng.random((200, 600)) < 0.3, axis=1)
    alarms = 0
    for run in counts:
        alarms += any(
            sample_ratio([((int(k), n + 1 - int(k)), (3, 7))]).p_value_always_valid < 0.1
            for n, k in list(enumerate(run))[9::10]
        )
    assert alarms / len(counts) <= 0.1


def test_epochs_with_other_weights_are_no_mismatch():
    found = sample_ratio([((900, 100), (0.9, 0.1)), ((500, 500), (0.5, 0.5))])
    assert found.p_value == pytest.approx(1.0)
    assert sample_ratio([((1400, 600), (0.5, 0.5))]).p_value_always_valid < 1e-10


def test_units_in_a_variant_without_traffic_are_a_mismatch_and_no_units_are_none():
    assert sample_ratio([((50, 1), (1, 0))]).p_value_always_valid == 0.0
    for strata in ([], [((0, 0), (1, 1))], [((7, 0), (1, 0))]):
        found = sample_ratio(strata)
        assert (found.p_value, found.p_value_always_valid) == (1.0, 1.0)


@pytest.mark.parametrize(
    "stratum", [((1, 2), (1,)), ((-1, 2), (1, 1)), ((1, 2), (-1, 1)), ((0, 0), (0, 0))]
)
def test_impossible_counts_or_shares_are_refused(stratum):
    with pytest.raises(ConfigError):
        sample_ratio([stratum])


# ── posteriors ──────────────────────────────────────────────────────────────────────────────────


@given(st.floats(-3, 3), st.floats(0.01, 3))
def test_the_other_direction_is_the_other_side(difference, error):
    contrast = contrast_of(difference, error)
    up, down = (probability_better(contrast, lower_is_better=lower) for lower in (False, True))
    assert up + down == pytest.approx(1.0)
    losses = expected_loss(contrast)
    assert expected_loss(contrast, lower_is_better=True) == pytest.approx(losses[::-1])
    # What a costs beyond b is the difference itself.
    assert losses[0] - losses[1] == pytest.approx(difference, abs=1e-12)


def test_expected_loss_agrees_with_simulation():
    draws = np.random.default_rng(12).normal(0.3, 0.5, 1_000_000)
    expected = [np.maximum(draws, 0).mean(), np.maximum(-draws, 0).mean()]
    assert expected_loss(contrast_of(0.3, 0.5)) == pytest.approx(expected, abs=2e-3)


def test_without_data_either_may_be_better_and_certainty_costs_nothing():
    assert probability_better(no_contrast()) == 0.5
    assert all(math.isnan(loss) for loss in expected_loss(no_contrast()))
    assert expected_loss(contrast_of(0.5, 0.0)) == (0.5, 0.0)
    assert probability_better(contrast_of(0.5, 0.0), lower_is_better=True) == 0.0


def test_chances_to_be_best_agree_with_the_pairwise_ones():
    rng = np.random.default_rng(13)
    two = probabilities_to_be_best([1.0, 1.2], [0.1, 0.2], rng=rng)
    expected = probability_better(contrast_of(0.2, math.hypot(0.1, 0.2)))
    assert two[1] == pytest.approx(expected, abs=0.015)
    assert two.sum() == pytest.approx(1.0)
    worst = probabilities_to_be_best([1.0, 2.0, 3.0], [0.1] * 3, rng=rng, lower_is_better=True)
    assert worst == pytest.approx([1.0, 0.0, 0.0])
    assert probabilities_to_be_best([1.0, 1.0], [0.0, 0.0], rng=rng) == pytest.approx([0.5, 0.5])
    assert np.isnan(probabilities_to_be_best([1.0, 2.0], [0.1, math.nan], rng=rng)).all()


# ── guardrails ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("difference", "margin", "lower_is_better", "status"),
    [
        (0.0, 0.3, False, "passes"),
        (-0.2, 0.3, False, "undecided"),
        (-0.6, 0.3, False, "fails"),
        (0.6, 0.3, True, "fails"),
        (-0.6, 0.3, True, "passes"),
        (0.0, 0.0, False, "undecided"),
        (0.5, 0.0, False, "passes"),
        (-0.5, 0.0, False, "fails"),
    ],
)
def test_a_guardrail_passes_or_fails_only_with_the_whole_interval(
    difference, margin, lower_is_better, status
):
    found = non_inferiority(
        contrast_of(difference, 0.1), margin=margin, lower_is_better=lower_is_better, critical=2.0
    )
    assert found.status == status
    loss = difference if lower_is_better else -difference
    assert found.bound == pytest.approx(loss + 0.2)


@pytest.mark.parametrize(
    ("contrast", "critical"), [(no_contrast(), 2.0), (contrast_of(1.0, 0.1), math.inf)]
)
def test_a_guardrail_without_data_is_undecided(contrast, critical):
    found = non_inferiority(contrast, margin=1.0, lower_is_better=False, critical=critical)
    assert (found.status, found.bound) == ("undecided", math.inf)


@pytest.mark.parametrize("margin", [-0.1, math.nan])
def test_a_margin_below_nothing_is_refused(margin):
    with pytest.raises(ConfigError, match="margin"):
        non_inferiority(no_contrast(), margin=margin, lower_is_better=False, critical=2.0)


# ── several tests, proportions ──────────────────────────────────────────────────────────────────


@given(st.lists(st.floats(0, 1), max_size=20))
def test_benjamini_hochberg_lies_between_the_plain_p_value_and_holm(p_values):
    adjusted = benjamini_hochberg(p_values)
    assert np.all(adjusted >= np.array(p_values) - 1e-15)
    assert np.all(adjusted <= holm(p_values) + 1e-12)


@given(st.integers(0, 40), st.integers(0, 60))
def test_swapping_proportions_turns_the_interval(successes_a, successes_b):
    one = proportions_test(successes_a, 40, successes_b, 60)
    other = proportions_test(successes_b, 60, successes_a, 40)
    assert one.p_value == pytest.approx(other.p_value)
    assert one.interval.lower == pytest.approx(-other.interval.upper, abs=1e-12)
    assert -1.0 <= one.interval.lower <= one.interval.upper <= 1.0


def test_proportions_without_values_or_without_failures_are_no_evidence():
    assert proportions_test(0, 0, 3, 5).p_value == 1.0
    assert proportions_test(5, 5, 9, 9).p_value == 1.0
    with pytest.raises(ConfigError, match="cannot be"):
        proportions_test(6, 5, 1, 5)
