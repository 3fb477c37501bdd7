"""A model that is looked at at its first input: what is learnt, and that nothing is spoilt."""

import pytest
import torch
from torch import nn

from modelyard.inference_optimizer import InferenceOptimizer


def made(model, **options):
    return InferenceOptimizer(model, device="cpu", **options)


def ones(n=2):
    return torch.ones(n, 4)


class Converges(nn.Module):
    """Goes on until it has converged, which it never has with NaN or with large numbers."""

    def forward(self, x):
        z = torch.zeros_like(x)
        for _ in range(1000):
            z, before = 0.5 * z + x, z
            if (z - before).abs().max() < 1e-5:
                return z
        raise AssertionError


def test_a_model_that_iterates_until_it_has_converged_is_looked_at(caplog):
    x = torch.linspace(0.5, 1.0, 4).reshape(1, 4)
    optimizer = made(Converges())
    with pytest.MonkeyPatch.context() as patch:
        asked = []
        forward = Converges.forward
        patch.setattr(Converges, "forward", lambda self, x: (asked.append(x), forward(self, x))[1])
        optimizer.predict(x)
    assert len(asked) == 4
    assert all((one - x).abs().max() < 0.1 for one in asked)
    assert optimizer.get_cache_stats()["max_size"] == 1000
    assert not caplog.text


class Times(nn.Module):
    def forward(self, x, n):
        return x * n


@pytest.mark.parametrize("n", [torch.tensor(3), torch.tensor([True])[0], torch.tensor(1 + 2j)])
def test_a_number_without_dimensions_is_no_reason_to_turn_the_cache_off(n, caplog):
    optimizer = made(Times())
    for _ in range(2):
        optimizer.predict((ones(), n))
    assert optimizer.get_cache_stats()["hits"] == 1
    assert not caplog.text


class Peak(nn.Module):
    """Keeps the largest, or the smallest, that it has seen."""

    def __init__(self, pick):
        super().__init__()
        self.pick, self.kept = pick, None

    def forward(self, x):
        self.kept = x if self.kept is None else self.pick(self.kept, x)
        return x / self.kept


@pytest.mark.parametrize("pick", [torch.maximum, torch.minimum])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_little_more_or_less_shows_what_keeps_an_extreme(pick, sign):
    optimizer = made(Peak(pick))
    optimizer.predict(sign * ones())
    assert optimizer.get_cache_stats()["max_size"] == 0
