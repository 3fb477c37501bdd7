"""The second tensor of a form takes the way that the first one found: it may change nothing."""

import pytest
import torch
from torch import nn

from modelyard._core.errors import InputError
from modelyard.inference_optimizer import InferenceOptimizer


class Odd(nn.Module):
    """Answers with something that is not its own alone."""

    def __init__(self, what):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 3))
        self.what = what

    def forward(self, x):
        if self.what == "writes":
            return x.add_(1.0)
        return {"input": x, "weight": self.weight, "view": self.weight[:1], "pair": (x, x)}[
            self.what
        ]


@pytest.mark.parametrize("what", ["input", "weight", "view"])
def test_answers_belong_to_the_caller_each_time(what):
    model = Odd(what)
    optimizer = InferenceOptimizer(model, device="cpu", cache_size=0)
    x = torch.ones(2, 3)
    for _ in range(3):
        answer = optimizer.predict(x)
        assert not answer.requires_grad
        assert not answer.is_inference()
        answer.fill_(7.0)
    assert x.eq(1.0).all()
    assert model.weight.eq(1.0).all()


def test_several_answers_are_copies_too():
    optimizer = InferenceOptimizer(Odd("pair"), device="cpu", cache_size=0)
    x = torch.ones(2, 3)
    for _ in range(3):
        for part in optimizer.predict(x):
            part.fill_(7.0)
    assert x.eq(1.0).all()


def test_a_model_that_writes_into_its_input_gets_copies_each_time():
    optimizer = InferenceOptimizer(Odd("writes"), device="cpu", cache_size=0)
    x = torch.ones(2, 3)
    for _ in range(3):
        assert optimizer.predict(x).eq(2.0).all()
    assert x.eq(1.0).all()


def test_another_model_answers_the_next_call(new_mlp):
    models = [new_mlp(seed=0), new_mlp(seed=1)]
    optimizer = InferenceOptimizer(models[0], device="cpu", cache_size=0)
    x = torch.randn(2, 8)
    for model in (*models, *models):
        optimizer.set_model(model)
        for _ in range(3):
            with torch.no_grad():
                assert torch.equal(optimizer.predict(x), model(x))


def test_the_backend_chosen_later_answers_from_then_on(mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu", backend="torchscript", cache_size=0)
    x = torch.randn(1, 8)
    for _ in range(3):
        optimizer.predict(x)
    before = optimizer._serving.ways[x.dtype, x.shape][0].name
    optimizer.optimize_for_inference(torch.randn(2, 8), budget_s=0.05)
    for _ in range(3):
        optimizer.predict(x)
    assert (before, optimizer._serving.ways[x.dtype, x.shape][0].name) == ("eager", "torchscript")


def test_the_callers_autocast_is_not_the_models(mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu", cache_size=0)
    x = torch.randn(4, 8)
    want = [optimizer.predict(x) for _ in range(2)][1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(optimizer.predict(x), want)


def test_what_does_not_fit_is_refused_each_time_and_forms_are_not_kept_for_ever(mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu", cache_size=0)
    optimizer.predict(torch.randn(1, 8))
    for _ in range(3):
        with pytest.raises(InputError):
            optimizer.predict(torch.randn(1, 9))
        with pytest.raises(InputError):
            optimizer.predict(torch.randn(1, 8).double())
    for n in range(1, 600):
        assert optimizer.predict(torch.randn(n, 8)).shape == (n, 4)
    assert len(optimizer._serving.ways) <= 256
    assert optimizer.get_performance_stats()["total_predictions"] > 0
