"""Answers belong to the caller, and parts are joined only where the batch comes first."""

import numpy as np
import pytest
import torch
from torch import nn

from modelyard import InferenceOptimizer
from modelyard._core.errors import ConfigError


class Weight(nn.Module):
    """Answers with its own parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1, 3))

    def forward(self, x):
        return self.w


def test_changing_an_answer_changes_neither_input_nor_weight():
    x = np.ones((1, 3), dtype=np.float32)
    answer = InferenceOptimizer(nn.Identity(), cache_size=0).predict(x)
    answer += 9
    assert x.tolist() == [[1.0, 1.0, 1.0]]
    model = Weight()
    for given in (x, torch.ones(1, 3)):
        InferenceOptimizer(model, cache_size=0).predict(given)[:] = 9
    assert model.w.tolist() == [[1.0, 1.0, 1.0]]


@pytest.mark.parametrize("batch_first", [True, False])
def test_models_whose_samples_depend_on_each_other_get_the_whole_batch(batch_first):
    torch.manual_seed(0)
    optimizer = InferenceOptimizer(nn.LSTM(3, 4, batch_first=batch_first), batch_size=8)
    x = torch.randn(20, 5, 3)
    expected, (hidden, cell) = optimizer.predict(x)
    answer, (other_hidden, other_cell) = optimizer.predict_batch(x)
    for want, got in ((expected, answer), (hidden, other_hidden), (cell, other_cell)):
        torch.testing.assert_close(got, want)


def test_arrays_of_a_bfloat16_model_come_back_as_float32():
    answer = InferenceOptimizer(nn.Linear(3, 2).bfloat16()).predict(np.zeros((1, 3)))
    assert answer.dtype == np.float32


@pytest.mark.parametrize(
    ("options", "rule"),
    [({"tolerance": -1.0}, "0 or more"), ({"max_latency_ms": -1.0}, "above 0")],
)
def test_limits_below_zero_are_refused(options, rule):
    with pytest.raises(ConfigError, match=rule):
        InferenceOptimizer(nn.Linear(1, 1), **options)
