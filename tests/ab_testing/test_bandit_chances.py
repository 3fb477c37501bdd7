import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.ab_testing.bandits.chances import Posterior, chances_of_best

CASES = json.loads((Path(__file__).parents[1] / "reference" / "bandit_chances.json").read_text())


def posterior_of(case):
    return Posterior(case["kind"], tuple(case["first"]), tuple(case["second"]))


@pytest.mark.parametrize("case", CASES)
def test_chance_to_be_best_agrees_with_adaptive_quadrature(case):
    assert chances_of_best([posterior_of(case)])[0] == pytest.approx(case["chances"], abs=1e-6)


def test_many_at_once_are_as_one_by_one():
    posteriors = [posterior_of(case) for case in CASES]
    together = chances_of_best(posteriors)
    for posterior, chances in zip(posteriors, together, strict=True):
        assert chances == pytest.approx(chances_of_best([posterior])[0], abs=1e-12)
    assert chances_of_best([]) == []


@given(st.lists(st.tuples(st.floats(1, 1e6), st.floats(1, 1e6)), min_size=2, max_size=6))
def test_chances_of_any_wins_and_losses_add_up_and_follow_the_draws(counts):
    posterior = Posterior("beta", *(tuple(column) for column in zip(*counts, strict=True)))
    (chances,) = chances_of_best([posterior])
    assert sum(chances) == pytest.approx(1.0)
    rng = np.random.default_rng(0)
    drawn = np.bincount([posterior.draw(rng) for _ in range(400)], minlength=len(counts)) / 400
    assert drawn == pytest.approx(chances, abs=0.13)  # more than five standard errors


def test_two_normal_posteriors_have_a_closed_form():
    (chances,) = chances_of_best([Posterior("normal", (0.3, 0.1), (0.2, 0.5))])
    z = (0.3 - 0.1) / math.hypot(0.2, 0.5)
    assert chances[0] == pytest.approx(0.5 * math.erfc(-z / math.sqrt(2.0)), abs=1e-7)


def test_a_variant_that_is_worth_nothing_yet_has_no_chance():
    posterior = Posterior("normal", (0.0, -math.inf, 0.0), (1.0, 1.0, 1.0))
    assert chances_of_best([posterior])[0] == pytest.approx([0.5, 0.0, 0.5])
    assert posterior.draw(np.random.default_rng(0)) != 1
