"""Modules that engines, caches and batches get wrong: small answers, states, branches on sizes."""

import threading

import numpy as np
import pytest
import torch
from torch import nn

from modelyard._core.errors import ConfigError, InputError
from modelyard.inference_optimizer import InferenceOptimizer
from modelyard.torchtools.conversion import to_runnable
from modelyard.torchtools.onnx_module import OnnxModule


def made(model, **options):
    return InferenceOptimizer(model.eval(), device="cpu", **{"cache_size": 0, **options})


def rows(n=2, width=8, seed=0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


class SmallLogReturns(nn.Module):
    """Of 1e-5 in size: `log(1 + x)` has lost half of its digits there, `log1p` none."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 8))

    def forward(self, x):
        return torch.log1p(self.net(x) * 1e-5)


@pytest.mark.slow
def test_the_tolerance_holds_for_small_answers_too():
    torch.manual_seed(0)
    optimizer = made(SmallLogReturns())
    found = optimizer.optimize_for_inference(torch.randn(4, 64), budget_s=0.5)
    x = torch.randn(32, 64)
    want = optimizer.model(x).detach()
    assert (optimizer.predict(x) - want).abs().max() <= 1e-5 * want.abs().max()
    onnx = [row for row in found["candidates"] if row["name"] == "onnxruntime"]
    assert all("the tolerance is 1e-05 of the output's size" in row["reason"] for row in onnx)


class Cancels(nn.Module):
    """Small as the difference of large numbers: of it, PyTorch's own rounding is over 1e-5."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 8))

    def forward(self, x):
        y = 0.2 * self.net(x)
        return (y + 0.05) - (y * 1.0001 + 0.05)


@pytest.mark.slow
def test_what_eager_itself_is_off_by_is_no_reason_against_an_engine():
    torch.manual_seed(0)
    optimizer = made(Cancels(), backend="onnxruntime")
    found = optimizer.optimize_for_inference(torch.randn(4, 64), budget_s=0.5)
    assert found["backend"] == "onnxruntime"


class BranchesOnTheNumber(nn.Module):
    def __init__(self, number):
        super().__init__()
        self.few, self.many = nn.Linear(8, 2), nn.Linear(8, 2)
        self.number = number

    def forward(self, x):
        return self.few(x) if self.number(x) <= 64 else self.many(x)


NUMBERS = {
    "len": len,
    "shape": lambda x: x.shape.numel() // 8,
    "bytes": lambda x: x.nbytes // 32,
    "unbind": lambda x: len(x.unbind(0)),
    "turns": lambda x: sum(1 for _ in x),
}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["auto", "torchscript", "onnxruntime"])
@pytest.mark.parametrize("kind", NUMBERS)
def test_many_samples_may_be_something_else_than_few(kind, backend):
    model = BranchesOnTheNumber(NUMBERS[kind])
    optimizer = made(model, backend=backend)
    try:
        optimizer.optimize_for_inference(rows(4), batch_sizes=(1, 4), budget_s=0.2)
    except ConfigError:  # a backend that is asked for by name may refuse it
        return
    for n in (1, 4, 50, 64, 65, 100, 70, 200):
        for x in (rows(n), rows(n).numpy()):
            got = torch.as_tensor(optimizer.predict(x))
            torch.testing.assert_close(got, model(rows(n)).detach(), rtol=1e-5, atol=1e-5)


def test_a_batch_larger_than_any_is_computed_by_both_once():
    calls = []

    class Counts(nn.Linear):
        def forward(self, x):
            calls.append(len(x.detach()))
            return super().forward(x)

    optimizer = made(Counts(8, 2), backend="onnxruntime")
    optimizer.optimize_for_inference(rows(4), batch_sizes=(1, 4), budget_s=0.2)
    calls.clear()
    for _ in range(3):
        optimizer.predict(rows(100))
        optimizer.predict(rows(90).numpy())
    assert calls == [100]


class RunningMean(nn.Module):
    def __init__(self, speed):
        super().__init__()
        self.layer = nn.Linear(8, 1)
        self.speed = speed
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x):
        self.mean.lerp_(x.detach().mean(0), self.speed)
        return self.layer(x - self.mean)


@pytest.mark.parametrize("speed", [0.1, 1e-7])
@pytest.mark.parametrize("cache_size", [0, 100])
def test_no_probe_writes_into_the_state_of_the_model(speed, cache_size):
    model = RunningMean(speed)
    optimizer = made(model, cache_size=cache_size)
    found = optimizer.optimize_for_inference(rows(), budget_s=0.2)
    assert found["backend"] == "eager"
    assert any("keeps a state" in row["reason"] for row in found["candidates"])
    assert model.mean.eq(0).all()
    optimizer.predict(rows())
    optimizer.predict_batch(rows(40))
    optimizer.predict_streaming([rows(1, seed=i) for i in range(9)])
    optimizer.benchmark(num_iterations=3)
    assert model.mean.isfinite().all()


class Smoothed(nn.Module):
    """Keeps a state that the same input twice in a row does not show."""

    def __init__(self):
        super().__init__()
        self.held = None

    def forward(self, x):
        self.held = x.clone() if self.held is None else 0.9 * self.held + 0.1 * x
        return x - self.held


class Largest(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("most", torch.ones(()))

    def forward(self, x):
        self.most.copy_(torch.maximum(self.most, x.abs().max()))
        return x / self.most


@pytest.mark.parametrize("kind", [Smoothed, Largest])
def test_what_keeps_a_state_has_no_cache(kind):
    bare, optimizer = kind(), made(kind(), cache_size=100)
    for value in (1, 2, 3, 1, 2, 3, 1, 9, 1):
        x = torch.full((1, 2), float(value))
        assert torch.equal(optimizer.predict(x), bare(x))
    assert optimizer.get_cache_stats()["hits"] == 0


class KeepsWhatItSaw(nn.Module):
    """Writes down what it was asked, and never reads it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 2)
        self.last = None

    def forward(self, x):
        self.last = x.detach().abs().mean()
        return self.layer(x)


def test_what_only_writes_down_is_cached_and_joined():
    optimizer = made(KeepsWhatItSaw(), cache_size=100)
    optimizer.predict(rows(1))
    optimizer.predict(rows(1))
    assert optimizer.get_cache_stats()["hits"] == 1


class DemeanedBasisPoints(nn.Module):
    """A signal less its mean over the batch, of a size below any absolute bound."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 1)

    def forward(self, x):
        alpha = self.layer(torch.nan_to_num(x).clamp(-3, 3)) * 1e-6
        return alpha - alpha.mean(0, keepdim=True)


def test_samples_that_depend_on_each_other_are_not_joined_however_small():
    torch.manual_seed(0)
    model, x = DemeanedBasisPoints(), rows(40)
    optimizer = made(model, batch_size=8)
    want = model(x).detach()
    assert (optimizer.predict_batch(x) - want).abs().max() <= 1e-6 * want.abs().max()
    alone = optimizer.predict_streaming([row[None] for row in x])
    assert all(answer.abs().max() == 0 for answer in alone)


class DecidesForAll(nn.Module):
    """Takes one way or the other for a whole batch, by a number of it that has a sign."""

    def __init__(self, decide):
        super().__init__()
        self.decide = decide

    def forward(self, x):
        return x * 2 if self.decide(x) else x * 3


DECISIONS = {
    "sum": lambda x: x.sum() > 0,
    "any": lambda x: bool((x > 3.5).any()),
    "all": lambda x: bool((x > -3.5).all()),
    "median": lambda x: x.median() >= 0,
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("decision", DECISIONS)
def test_samples_that_are_decided_for_together_are_not_joined(decision, seed):
    decide = DECISIONS[decision]
    # The first ones are decided alike.
    samples = sorted(rows(40, width=3, seed=seed).split(1), key=lambda x: bool(decide(x)))
    answers = made(DecidesForAll(decide)).predict_streaming(samples)
    want = [x * (2 if decide(x) else 3) for x in samples]
    assert all(torch.equal(a, b) for a, b in zip(answers, want, strict=True))


def test_arrays_of_a_module_without_weights_stay_what_they_are():
    class Shifts(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.tensor([1e9], dtype=torch.float64))

        def forward(self, x):
            return x - self.mean

    class Returns(nn.Module):
        def forward(self, prices):
            return prices[:, 1:] / prices[:, :-1] - 1

    x = np.array([[1e9 + 1.25]])
    prices = np.array([[1e8, 1e8 + 1, 1e8 + 3]])
    for cache_size in (0, 10):
        assert made(Shifts(), cache_size=cache_size).predict(x) == [[1.25]]
        optimizer = made(Returns(), cache_size=cache_size)
        np.testing.assert_allclose(optimizer.predict(prices), [[1e-8, 2e-8]], rtol=1e-6)
        np.testing.assert_allclose(optimizer.predict_batch(prices), [[1e-8, 2e-8]], rtol=1e-6)
        small = optimizer.predict(prices.astype(np.float32))
        assert small.dtype == np.float32


def test_arrays_of_a_graph_are_in_the_type_it_declares():
    layer = nn.Linear(4, 2).double().eval()
    graph = OnnxModule(to_runnable(layer, torch.randn(2, 4, dtype=torch.float64)).data)
    x = np.random.default_rng(0).standard_normal((3, 4))
    np.testing.assert_allclose(
        made(graph).predict(x), layer(torch.from_numpy(x)).detach().numpy(), rtol=1e-14
    )


class Doubles(nn.Module):
    """Writes into its input."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x):
        return self.layer(x.mul_(2))


def test_the_callers_example_is_not_written_into():
    example = torch.ones(2, 4)
    optimizer = made(Doubles(), backend="torchscript")
    optimizer.optimize_for_inference(example, budget_s=0.2)
    assert example.eq(1).all()
    x = torch.ones(3, 4)
    got = optimizer.predict(x)
    assert x.eq(1).all()
    torch.testing.assert_close(got, optimizer.model(x.clone()).detach())


@pytest.mark.slow
def test_a_model_that_serves_can_be_optimized_meanwhile():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(16, 2)).eval()
    optimizer = made(model)
    x = torch.randn(1, 8, 16)
    want = optimizer.predict(x)
    wrong, over = [], threading.Event()

    def ask():
        while not over.is_set():
            try:
                got = optimizer.predict(x)
            except Exception as error:  # noqa: BLE001 - any is what the test looks for
                wrong.append(error)
                return
            if type(got) is not torch.Tensor or not torch.allclose(got, want, atol=1e-4):
                wrong.append(got)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            optimizer.optimize_for_inference(torch.randn(2, 8, 16), budget_s=0.2)
            optimizer.set_model(model)
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 2)), torch.tensor([[1, 2]])),
        (nn.Linear(2, 3).double(), torch.ones(1, 2, dtype=torch.float64)),
    ],
)
def test_a_shape_alone_is_enough_whatever_the_type(model, example):
    graph = OnnxModule(to_runnable(model.eval(), example.repeat(2, 1)).data)
    for one in (model, graph):
        optimizer = made(one)
        assert optimizer.benchmark((1, 2), num_iterations=3)["median_latency_ms"] > 0
    assert made(graph).benchmark(num_iterations=3)["median_latency_ms"] > 0
    assert made(graph).optimize_for_inference(budget_s=0.2)["backend"]


@pytest.mark.parametrize("shape", [5, (-1, 8), "1,8", (), (1.5, 8), (True, 8)])
def test_what_is_no_shape_is_refused(shape):
    with pytest.raises(ConfigError, match="input_shape must be whole numbers"):
        made(nn.Linear(8, 2)).benchmark(shape)


@pytest.mark.parametrize("n", [0, 1.5, "3", None, True])
def test_what_is_no_number_of_calls_is_refused(n):
    optimizer = made(nn.Linear(8, 2))
    with pytest.raises(ConfigError, match="num_iterations must be 1 or more, a whole number"):
        optimizer.benchmark((1, 8), num_iterations=n)
    with pytest.raises(ConfigError, match="warmup_iterations must be 0 or more"):
        optimizer.benchmark((1, 8), num_iterations=1, warmup_iterations=n or -1)


class AnswersOnce(nn.Module):
    def __init__(self):
        super().__init__()
        self.is_used = False

    def forward(self, x):
        if self.is_used:
            raise RuntimeError("only once")
        self.is_used = True
        return x * 2


def test_a_model_that_answers_once_has_answered():
    optimizer = made(AnswersOnce(), cache_size=10)
    assert torch.equal(optimizer.predict(torch.ones(1, 2)), torch.full((1, 2), 2.0))
    with pytest.raises(InputError, match="only once"):
        optimizer.predict(torch.ones(1, 2))
