"""Differences: exact where equal, infinite where not comparable."""

import dataclasses
import math
from collections import OrderedDict
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


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_values_differ_by_their_imaginary_parts_too(dtype):
    want = torch.tensor([3 + 4j, 1j], dtype=dtype)
    gap = difference(want, want + 0.5j)
    assert gap.max_abs == pytest.approx(0.5)
    assert gap.scale == pytest.approx(5.0)
    assert difference(want, want.conj()).max_abs == pytest.approx(8.0)
    assert difference(want, want.conj().conj()).max_abs == 0.0
    assert difference(want, want.real).max_abs == pytest.approx(4.0)


def test_complex_values_are_equal_where_the_same_parts_are_nan():
    want = torch.tensor([complex(math.nan, 1.0), complex(math.inf, 2.0)])
    assert difference(want, want.clone()).max_abs == 0.0
    assert difference(want, torch.tensor([complex(1.0, math.nan), want[1]])).max_abs == math.inf
    assert difference(want, torch.tensor([want[0], complex(2.0, math.inf)])).max_abs == math.inf


@dataclasses.dataclass
class Ordinary:
    logits: torch.Tensor
    hidden: tuple | None = None
    doubled: torch.Tensor | None = dataclasses.field(default=None, init=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    logits: torch.Tensor
    rest: dict


@dataclasses.dataclass
class Output(OrderedDict):
    """As some libraries answer: a mapping that is a dataclass too."""

    logits: torch.Tensor

    def __post_init__(self):
        self["logits"] = self.logits


def test_dataclasses_come_back_as_their_type_with_every_tensor_changed():
    answer = Ordinary(torch.zeros(1), (torch.ones(2), "text"))
    answer.doubled = torch.zeros(3)
    nested = Frozen(torch.zeros(4), {"inner": answer, "n": 3})
    again = restructured(nested, [tensor + 1 for tensor in flat_outputs(nested)])
    assert type(again) is Frozen
    assert type(again.rest["inner"]) is Ordinary
    assert again.rest["n"] == 3
    assert [t.tolist() for t in flat_outputs(again)] == [[1.0] * 4, [1.0], [2.0, 2.0], [1.0] * 3]
    assert again.rest["inner"].hidden[1] == "text"
    assert [t.tolist() for t in flat_outputs(nested)] == [[0.0] * 4, [0.0], [1.0, 1.0], [0.0] * 3]


def test_mappings_become_dicts_even_where_they_are_dataclasses_too():
    assert map_tensors(OrderedDict(a=torch.zeros(2)), len) == {"a": 2}
    changed = map_tensors(Output(torch.zeros(2)), len)
    assert type(changed) is dict
    assert changed == {"logits": 2}
