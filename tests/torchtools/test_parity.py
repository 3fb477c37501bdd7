"""Differences: exact where equal, infinite where not comparable."""

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelyard._core.errors import InputError
from modelyard.torchtools.parity import (
    difference,
    differences,
    flat_outputs,
    map_tensors,
    restructured,
)

odd = st.sampled_from([0.0, -0.0, 1.0, -2.5, float("nan"), float("inf"), -float("inf"), 1e-300])


class Pair(NamedTuple):
    a: torch.Tensor
    b: torch.Tensor


@given(values=st.lists(odd, max_size=5))
def test_equal_values_differ_by_nothing_whatever_they_are(values):
    x = torch.tensor(values, dtype=torch.float64)
    assert difference(x, x.clone()).max_abs == 0.0


@pytest.mark.parametrize(
    ("want", "got"),
    [([1.0], [float("nan")]), ([float("inf")], [1.0]), ([float("inf")], [-float("inf")])],
)
def test_values_that_cannot_be_compared_differ_infinitely(want, got):
    assert difference(torch.tensor(want), torch.tensor(got)).max_abs == math.inf
    assert difference(torch.zeros(2), torch.zeros(3)).max_abs == math.inf


def test_figures_agree_with_their_definitions():
    want, got = torch.tensor([3.0, -4.0]), torch.tensor([3.3, -4.0])
    gap = difference(want, got)
    assert gap.max_abs == pytest.approx(0.3, rel=1e-6)
    assert gap.max_rel == pytest.approx(0.1, rel=1e-6)
    assert gap.mean_abs == pytest.approx(0.15, rel=1e-6)
    assert gap.scale == 4.0
    assert gap.relative_rms == pytest.approx(0.3 / 5.0, rel=1e-6)
    assert gap.is_within(rtol=0.1, atol=0.0)
    assert not gap.is_within(rtol=0.01, atol=0.0)


def test_bound_scales_with_the_output():
    want = torch.tensor([1e6])
    assert difference(want, want + 1.0).is_within(rtol=1e-5, atol=1e-5)


def test_nested_answers_are_flattened_and_put_together_again():
    answer = {"x": torch.zeros(1), "y": (Pair(torch.ones(1), torch.ones(2)), [torch.zeros(3)])}
    flat = flat_outputs(answer)
    assert [len(tensor) for tensor in flat] == [1, 1, 2, 3]
    again = restructured(answer, [tensor + 1 for tensor in flat])
    assert isinstance(again["y"][0], Pair)
    assert again["y"][0].b.tolist() == [2.0, 2.0]
    assert map_tensors(answer, len) == {"x": 1, "y": (Pair(1, 2), [3])}


def test_answers_without_tensors_or_of_other_number():
    with pytest.raises(InputError, match="holds no tensor"):
        flat_outputs("text")
    assert differences((torch.zeros(1),), (torch.zeros(1),) * 2)[0].max_abs == math.inf
