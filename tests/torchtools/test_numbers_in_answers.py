"""The numbers in an answer are found, whatever holds them."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import distributions as d

from modelyard._core.errors import InputError
from modelyard.torchtools.answers import numbers_in

ONE, TWO = torch.tensor([1.0]), torch.tensor([2.0, 3.0])
Pair = namedtuple("Pair", ["mean", "deviation"])  # noqa: PYI024 - as models have it


@dataclass
class Answer:
    mean: Any
    name: str
    deviation: Any


@pytest.mark.parametrize(
    "answer",
    [
        (ONE, TWO),
        [ONE, [TWO]],
        (ONE, (TWO, ())),
        {"policy": (ONE,), "aux": {"value": TWO}, "name": "ppo", "nothing": None},
        OrderedDict(a=ONE, b=TWO),
        Pair(ONE, TWO),
        Answer(ONE, "ppo", {"x": TWO}),
        (ONE.numpy(), TWO.numpy()),
        ([1.0], np.array([3.0, 2.0], np.float32)[::-1]),
        (1, np.array([2.0, 3.0], ">f4")),
        d.Normal(ONE.expand(2), TWO),
        {"policy": d.Independent(d.TransformedDistribution(d.Normal(ONE, TWO), []), 1)},
        d.MixtureSameFamily(d.Categorical(probs=ONE), d.Normal(TWO[:1], TWO[:1])),
    ],
)
def test_they_are_found_in_order(answer):
    found = torch.cat([tensor.double().reshape(-1) for tensor in numbers_in(answer)])
    assert found[0] == 1.0
    assert 2.0 in found


def test_read_only_arrays_are_taken():
    array = np.array([1.0, np.inf])
    array.flags.writeable = False
    assert numbers_in(array)[0].isinf().any()


@pytest.mark.parametrize("answer", ["buy", None, {}, (), {"a": None}, np.array(["buy"]), Answer])
def test_without_one_the_error_tells_what_came(answer):
    with pytest.raises(InputError, match="holds no number"):
        numbers_in(answer)
