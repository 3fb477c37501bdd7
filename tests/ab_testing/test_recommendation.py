import math
from dataclasses import replace

import numpy as np
import pytest

from modelyard.ab_testing.analysis.comparing import compare
from modelyard.ab_testing.analysis.dependence import thinned
from modelyard.ab_testing.analysis.gathering import evidence_of
from modelyard.ab_testing.analysis.recommendation import Advice, advice_for, recommend
from modelyard.ab_testing.analysis.rules import VerdictRules
from modelyard.ab_testing.metrics import Metric, MetricBook
from modelyard.ab_testing.recording.sums import Sums
from modelyard.stats.autocorrelation import Correlogram
from modelyard.stats.moments import Moments

RULES = VerdictRules(confidence_level=0.95, min_samples=100, n_tuned=2000)


class Followed:
    """A stream of which one autocorrelation is known."""

    def __init__(self, lag1):
        self.lag1 = lag1

    def correlogram(self, moments):
        return Correlogram(np.array([self.lag1]), np.array([10.0]))


def evidence(a, b, *, lag1=(0.0, 0.0)):
    """Evidence of two variants whose moments and autocorrelations are known."""
    book = MetricBook((), primary="m", primary_kind="mean", lower_is_better=None)
    snapshot = replace(
        Sums("ab", book).snapshot(),
        samples={("a", 0, "m"): a, ("b", 0, "m"): b},
        streams={(name, "m"): Followed(value) for name, value in zip("ab", lag1, strict=True)},
    )
    return evidence_of(snapshot, "a", "b", Metric(name="m"), is_paired=False)


@pytest.mark.parametrize(
    ("d", "advice"),
    [
        (0.0, Advice.CONSIDER_PRACTICAL_VALUE),
        (0.19, Advice.CONSIDER_PRACTICAL_VALUE),
        (-0.19, Advice.CONSIDER_PRACTICAL_VALUE),
        (0.2, Advice.SWITCH),
        (0.5, Advice.SWITCH),
        (-0.35, Advice.SWITCH),
        (0.51, Advice.STRONGLY_SWITCH),
        (math.inf, Advice.STRONGLY_SWITCH),
    ],
)
def test_effect_bands_are_the_documents(d, advice):
    assert advice_for(d) is advice


@pytest.mark.parametrize(
    ("n", "difference", "advice", "words"),
    [
        (99, 3.0, Advice.COLLECT_MORE, "99 of the 100"),
        (1000, 0.01, Advice.CONTINUE_TESTING, "No significant difference"),
        (100_000, 0.05, Advice.CONSIDER_PRACTICAL_VALUE, "effect is small"),
        (5000, 0.3, Advice.SWITCH, "switching is recommended"),
        (1000, 1.0, Advice.STRONGLY_SWITCH, "strongly recommended"),
    ],
)
def test_table_8_4(n, difference, advice, words):
    sides = Moments(n, 1.0, float(n)), Moments(n, 1.0 + difference, float(n))
    comparison = compare(evidence(*sides), RULES)
    given = recommend(
        comparison, RULES, variant_a="a", variant_b="b", metric="m", lower_is_better=False
    )
    assert given.code is advice
    assert words in given.text
    assert (given.winner == "b") == (advice not in {Advice.COLLECT_MORE, Advice.CONTINUE_TESTING})


def test_dependent_values_are_worth_fewer_and_say_so():
    sides = Moments(200, 0.0, 200.0), Moments(200, 3.0, 200.0)
    comparison = compare(evidence(*sides, lag1=(0.95, 0.0)), RULES)
    assert comparison.evidence.effective_n_a == 5
    assert not comparison.is_significant
    given = recommend(
        comparison, RULES, variant_a="a", variant_b="b", metric="m", lower_is_better=False
    )
    assert "worth 5 and 200 independent ones" in given.text


def test_thinning_keeps_mean_and_variance():
    moments = Moments(100, 2.0, 99.0 * 4.0)
    assert thinned(moments, 0.25) == Moments(25, 2.0, 24.0 * 4.0)
    assert thinned(moments, 1.0) is moments


def test_power_and_detectable_effect_follow_the_sample():
    small, large = (
        compare(evidence(Moments(n, 0.0, n), Moments(n, 0.0, n)), RULES) for n in (200, 20_000)
    )
    assert small.power < 0.2
    assert large.power > 0.99
    assert small.minimum_detectable_effect > 5 * large.minimum_detectable_effect
