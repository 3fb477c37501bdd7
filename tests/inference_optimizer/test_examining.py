"""A model that is looked at at its first input: what is learnt, and that nothing is spoilt."""

import pytest
import torch
from torch import nn

from modelyard.inference_optimizer import InferenceOptimizer
from modelyard.inference_optimizer.weights import Weights, same_values


def made(model, **options):
    return InferenceOptimizer(model, device="cpu", **options)


def ones(n=2):
    return torch.ones(n, 4)


class Normalises(nn.Module):
    """Keeps a running mean in a weight, as much of reinforcement learning does."""

    def __init__(self, way, size=4):
        super().__init__()
        self.way = way
        self.mean = nn.Parameter(torch.zeros(size), requires_grad=False)
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        with torch.no_grad():
            mean = 0.9 * self.mean + 0.1 * x.mean()
            if self.way == "in place":
                self.mean.copy_(mean)
            elif self.way == "data in place":
                self.mean.data.copy_(mean)
            else:
                self.mean.data = mean
        return self.layer(x - self.mean[:4])


WAYS = ["in place", "data in place", "data"]
CALLS = {
    "predict": (lambda optimizer: optimizer.predict(ones()), 0.1),
    "optimize": (lambda optimizer: optimizer.optimize_for_inference(ones(), budget_s=0.01), 0.0),
    "benchmark": (lambda optimizer: optimizer.benchmark((1, 4), num_iterations=2), 0.0),
    "swap": (lambda optimizer: optimizer.swap(optimizer.model, ones()), 0.0),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("way", WAYS)
def test_only_what_callers_send_is_written_into_weights(way, call):
    model = Normalises(way)
    ask, mean = CALLS[call]
    optimizer = made(model)
    ask(optimizer)
    assert model.mean.tolist() == pytest.approx([mean] * 4)
    optimizer.predict(ones())
    known = model.mean.clone()
    optimizer.benchmark((1, 4), num_iterations=2)
    assert torch.equal(model.mean, known)
    assert optimizer.get_cache_stats()["max_size"] == 0
    optimizer.predict_streaming([ones(), 2 * ones()])
    assert model.mean.isfinite().all()
    assert not any(optimizer._serving.joinable.values())


def test_large_weights_are_told_by_the_count_of_writes_and_not_copied():
    model = Normalises("in place", size=1 << 17)
    weights = Weights(model)
    assert all(value.numel() < 1000 for _, value in weights._values)
    model(ones())
    assert weights.are_written()
    assert not Weights(model).are_written()


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
def test_a_lazy_module_can_be_trained_after_backends_were_measured():
    model = nn.Sequential(nn.LazyLinear(2))
    optimizer = made(model, backend="eager")
    optimizer.optimize_for_inference(ones(), budget_s=0.01)
    optimizer.predict(ones())
    model(ones()).sum().backward()
    assert model[0].weight.grad is not None


class Constrained(nn.Module):
    """Brings its weights back to what they may be at each call, which changes them once."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        with torch.no_grad():
            self.layer.weight.clamp_(0, 0.1)
        return self.layer(x)


def test_weights_that_stay_what_they_are_after_the_first_call_keep_no_state():
    optimizer = made(Constrained())
    optimizer.predict(ones())
    assert optimizer._serving.writes_weights
    optimizer.predict(ones())
    assert optimizer.get_cache_stats()["hits"] == 1
    optimizer.predict_streaming([3 * ones(), 2 * ones()])
    assert all(optimizer._serving.joinable.values())


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


def test_equal_values_may_be_no_numbers():
    odd = torch.tensor([1.0, torch.nan])
    assert same_values(odd, odd.clone())
    assert not same_values(odd, torch.tensor([torch.nan, 1.0]))
    assert not same_values(odd, odd.double())


class Remembers(nn.Module):
    """Adds half of what it has seen before."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(4))

    def forward(self, x):
        if len(x):
            self.seen = 0.5 * self.seen + x.mean(0)
        return x + self.seen


@pytest.mark.parametrize("as_given", [lambda x: x, torch.Tensor.numpy], ids=["tensor", "array"])
def test_a_first_batch_of_no_samples_shows_nothing_of_the_model(as_given):
    optimizer = made(Remembers())
    assert optimizer.predict(as_given(torch.zeros(0, 4))).shape == (0, 4)
    answers = [float(optimizer.predict(as_given(ones(1)))[0, 0]) for _ in range(3)]
    assert answers == [2.0, 2.5, 2.75]
