"""A model that is swapped in has done before what its first requests would have waited for."""

import logging
import threading

import pytest
import torch
from torch import nn

from modelyard.inference_optimizer import InferenceOptimizer


class Counting(nn.Module):
    """Notes the size of each batch; `noise` makes two answers to one input differ."""

    def __init__(self, *, noise=0.0, writes=False):
        super().__init__()
        self.layer, self.seen = nn.Linear(8, 2), []
        self.noise, self.writes = noise, writes

    def forward(self, x):
        self.seen.append(len(x))
        answer = self.layer(x) + self.noise * torch.rand(1)
        if self.writes:
            x.zero_()
        return answer


def rows(n, value=1.0):
    return torch.full((n, 8), value)


@pytest.mark.parametrize("cache_size", [0, 1000])
@pytest.mark.parametrize("example", [rows(2), rows(1).numpy(), None])
def test_first_request_after_a_swap_is_computed_once(cache_size, example):
    optimizer = InferenceOptimizer(Counting(), device="cpu", cache_size=cache_size)
    optimizer.predict(rows(1))
    model = Counting()
    optimizer.swap(model, example)
    model.seen.clear()
    optimizer.predict(rows(1, 3.0))
    assert model.seen == [1]
    assert optimizer.get_cache_stats()["hits"] == 0


@pytest.mark.parametrize("has_measured", [False, True])
def test_first_request_does_not_wait_for_a_look_at_the_model(has_measured):
    optimizer = InferenceOptimizer(Counting(), device="cpu", backend="eager")
    if has_measured:
        optimizer.optimize_for_inference(rows(2), batch_sizes=[1], budget_s=0.01)
    optimizer.swap(Counting(), rows(2))
    answered = threading.Thread(target=optimizer.predict, args=(rows(1, 2.0),), daemon=True)
    with optimizer._examining:  # as if another thread were looking
        answered.start()
        answered.join(10)
        assert not answered.is_alive()


def test_what_is_joined_is_tried_before_if_the_model_before_was_asked_for_many():
    optimizer = InferenceOptimizer(Counting(), device="cpu", cache_size=0)
    optimizer.predict_streaming([rows(1), rows(1, 2.0)])
    model = Counting()
    optimizer.swap(model, rows(2))
    model.seen.clear()
    optimizer.predict_streaming([rows(1), rows(1, 2.0)])
    assert model.seen == [2]


def test_what_the_look_shows_holds_from_the_first_request_on(caplog):
    optimizer = InferenceOptimizer(Counting(), device="cpu")
    with caplog.at_level(logging.WARNING):
        optimizer.swap(Counting(noise=1.0), rows(2))
    assert "gives two answers to one input: the cache is off" in caplog.text
    assert not torch.equal(optimizer.predict(rows(1)), optimizer.predict(rows(1)))
    optimizer.swap(Counting(writes=True), rows(2))
    x = rows(1)
    optimizer.predict(x)
    assert torch.equal(x, rows(1))
    assert optimizer.get_cache_stats()["max_size"] == 1000


def test_without_an_example_the_first_request_does_the_looking():
    class Sum(nn.Module):
        def forward(self, x):
            return x.sum(1, keepdim=True)

    optimizer = InferenceOptimizer(Counting(), device="cpu")
    optimizer.swap(Sum())
    assert optimizer.predict(rows(1)).item() == 8
