"""Predictions: what is cached is not computed, and nothing depends on what was asked before."""

import threading

import numpy as np
import pytest
import torch
from torch import nn

from modelyard._core.errors import InputError
from modelyard.inference_optimizer import InferenceOptimizer


class Counting(nn.Module):
    """Counts the rows it computes."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 3)
        self.rows = 0

    def forward(self, x):
        self.rows += len(x)
        return self.layer(x)


class Slow(nn.Module):
    """Waits for the test before it answers, and counts its calls."""

    def __init__(self):
        super().__init__()
        self.go, self.entered, self.calls = threading.Event(), threading.Event(), 0

    def forward(self, x):
        self.calls += 1
        self.entered.set()
        assert self.go.wait(10)
        if x.isnan().any():
            raise ValueError("no number")
        return x * 2


class Nested(nn.Module):
    """Answers with a dict of tensors."""

    def forward(self, x):
        return {"double": x * 2, "parts": (x[:, :1], x.sum(1))}


def rows(n, width=8, *, seed=0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def warmed(model, **options):
    """An optimizer whose model has shown that it gives one answer to one input."""
    optimizer = InferenceOptimizer(model, device="cpu", **options)
    optimizer.predict(rows(1, seed=999))
    optimizer.clear_cache()
    model.rows = 0
    return optimizer


# ── batches and the cache ───────────────────────────────────────────────────────────────────


def test_batch_computes_only_the_rows_that_are_not_cached():
    model = Counting()
    optimizer = warmed(model)
    x = rows(6)
    for i in (1, 4):
        optimizer.predict(x[i : i + 1])
    model.rows = 0
    optimizer._can_join(optimizer._serving, [x[:1], x[-1:]])  # tries, and so computes, a few
    model.rows = 0
    torch.testing.assert_close(optimizer.predict_batch(x), model.layer(x).detach())
    assert model.rows == 4
    assert optimizer.get_cache_stats()["hits"] == 2
    model.rows = 0
    torch.testing.assert_close(optimizer.predict_batch(x), model.layer(x).detach())
    assert model.rows == 0


def test_equal_rows_of_a_batch_are_computed_once_where_others_are_cached():
    model = Counting()
    optimizer = warmed(model)
    x = rows(2)[torch.tensor([0, 1, 1, 0, 1])]
    optimizer.predict(x[:1])
    optimizer.predict_batch(x)
    model.rows = 0
    optimizer.clear_cache()
    optimizer.predict(x[:1])
    model.rows = 0
    torch.testing.assert_close(optimizer.predict_batch(x), model.layer(x).detach())
    assert model.rows == 1


def test_what_predict_answers_does_not_depend_on_what_was_asked_before():
    """An answer computed among others may differ in its last bits."""
    model = nn.Sequential(nn.Linear(64, 300), nn.Tanh(), nn.Linear(300, 3)).eval()
    fresh = InferenceOptimizer(model, device="cpu", cache_size=0)
    used = InferenceOptimizer(model, device="cpu")
    x = rows(40, 64)
    used.predict_batch(x)
    used.predict_streaming(list(x.split(1)))
    for row in x.split(1):
        assert torch.equal(used.predict(row), fresh.predict(row))
    alone = torch.cat([fresh.predict(row) for row in x.split(1)])
    used.clear_cache()
    used.predict_batch(x)
    assert torch.equal(used.predict_batch(x, exact=True), alone)
    assert torch.equal(used.predict_batch(x, exact=True), alone)  # now from the cache


def test_batches_larger_than_the_cache_keep_the_last():
    model = Counting()
    optimizer = warmed(model, cache_size=3)
    x = rows(10)
    optimizer.predict_batch(x)
    assert optimizer.get_cache_stats()["size"] == 3
    assert optimizer.get_cache_stats()["evictions"] == 0
    assert torch.equal(optimizer.predict_batch(x[-3:]), optimizer.predict_batch(x[-3:]))


@pytest.mark.parametrize("as_array", [False, True])
def test_nested_answers_of_a_partly_cached_batch(as_array):
    optimizer = InferenceOptimizer(Nested(), device="cpu")
    x = rows(5)
    optimizer.predict_batch(x[1:3])
    given = x.numpy() if as_array else x
    answer = optimizer.predict_batch(given)
    want = Nested()(x)
    torch.testing.assert_close(torch.as_tensor(answer["double"]), want["double"])
    torch.testing.assert_close(torch.as_tensor(answer["parts"][0]), want["parts"][0])
    torch.testing.assert_close(torch.as_tensor(answer["parts"][1]), want["parts"][1])
    assert isinstance(answer["double"], np.ndarray if as_array else torch.Tensor)


def test_changing_rows_of_a_batch_does_not_poison_the_cache():
    optimizer = warmed(Counting())
    x = rows(4)
    want = optimizer.predict_batch(x).clone()
    for _ in range(2):
        optimizer.predict_batch(x).add_(1.0)
    assert torch.equal(optimizer.predict_batch(x), want)


def test_changing_the_input_afterwards_changes_no_answer():
    model = Counting()
    optimizer = warmed(model)
    x = rows(1).numpy()
    before = optimizer.predict(x)
    x += 1.0
    assert not np.array_equal(optimizer.predict(x), before)
    x -= 1.0


def test_a_model_in_half_precision_is_cached_and_keeps_its_type():
    model = nn.Linear(8, 3).to(torch.bfloat16)
    optimizer = InferenceOptimizer(model, device="cpu")
    x = rows(2).to(torch.bfloat16)
    for _ in range(2):
        assert optimizer.predict(x).dtype is torch.bfloat16
    assert optimizer.get_cache_stats()["hits"] == 1
    assert optimizer.predict(rows(2).numpy()).dtype == np.float32


@pytest.mark.parametrize(
    "x",
    [
        rows(4)[:, ::2].contiguous(),
        rows(8, 4).T[:4],
        np.asfortranarray(rows(4, 4).numpy()),
        rows(4, 4).numpy().astype(">f4"),
        rows(4, 8).numpy()[:, ::2],
        np.frombuffer(rows(4, 4).numpy().tobytes(), np.float32).reshape(4, 4),  # read-only
    ],
)
def test_layout_of_an_input_in_memory_does_not_matter(x):
    model = nn.Linear(4 if x.shape[1] == 4 else 8, 3)
    optimizer = InferenceOptimizer(model, device="cpu")
    tensor = x if isinstance(x, torch.Tensor) else torch.tensor(x.astype(np.float32))
    for _ in range(2):
        torch.testing.assert_close(
            torch.as_tensor(optimizer.predict(x)), model(tensor.contiguous()).detach()
        )
    assert optimizer.get_cache_stats()["hits"] == 1


# ── at once ─────────────────────────────────────────────────────────────────────────────────


def together(optimizer, x, n=4):
    """What `n` threads get that ask for one input while it is computed."""
    model, answers = optimizer.model, []

    def ask():
        try:
            answers.append(optimizer.predict(x))
        except InputError as error:
            answers.append(error)

    threads = [threading.Thread(target=ask) for _ in range(n)]
    threads[0].start()
    assert model.entered.wait(10)
    for thread in threads[1:]:
        thread.start()
    model.go.set()
    for thread in threads:
        thread.join(10)
    return answers


def test_equal_inputs_at_once_are_computed_once():
    model = Slow()
    optimizer = InferenceOptimizer(model, device="cpu")
    x = rows(1)
    answers = together(optimizer, x)
    assert all(torch.equal(answer, x * 2) for answer in answers)
    assert model.calls == 2  # the second shows that the model gives one answer
    stats = optimizer.get_cache_stats()
    assert (stats["hits"], stats["misses"]) == (3, 1)
    answers[0].add_(1.0)
    assert torch.equal(optimizer.predict(x), x * 2)


def test_each_of_equal_inputs_that_fail_gets_its_error_and_none_is_left_waiting():
    optimizer = InferenceOptimizer(Slow(), device="cpu")
    answers = together(optimizer, torch.full((1, 4), float("nan")))
    assert all(isinstance(answer, InputError) for answer in answers)
    assert torch.equal(optimizer.predict(rows(1)), rows(1) * 2)


# ── what the model takes ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("is_optimized", "told"),
    [
        (False, r"By its first layer it takes \(any, 8\) torch\.float32"),
        (True, r"It was optimised for \(any, 8\) torch\.float32"),
    ],
)
@pytest.mark.parametrize("x", [rows(2, 9), rows(2, 9).numpy(), rows(2).double()])
def test_wrong_width_or_type_is_an_error_that_says_what_was_expected(mlp, is_optimized, told, x):
    optimizer = InferenceOptimizer(mlp, device="cpu")
    if is_optimized:
        optimizer.optimize_for_inference()
    with pytest.raises(InputError, match=told):
        optimizer.predict(x)
    with pytest.raises(InputError, match=told):
        optimizer.predict_batch(x)


# ── exchanging the model ────────────────────────────────────────────────────────────────────


def test_swap_measures_and_warms_up_before_the_new_model_gets_a_request(mlp, new_mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu", backend="onnxruntime")
    optimizer.optimize_for_inference(rows(2))
    other = new_mlp(seed=1)
    found = optimizer.swap(other)
    assert found["backend"] == "onnxruntime"
    assert optimizer.get_performance_stats()["backend"] == "onnxruntime"
    torch.testing.assert_close(optimizer.predict(rows(3)), other(rows(3)).detach())


def test_swap_to_a_model_that_does_not_run_leaves_the_old_one_serving(mlp, new_mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu")
    optimizer.optimize_for_inference(rows(2))
    with pytest.raises(InputError, match="does not run"):
        optimizer.swap(new_mlp(9))
    assert optimizer.model is mlp
    torch.testing.assert_close(optimizer.predict(rows(1)), mlp(rows(1)).detach())


def test_swap_takes_an_example_of_another_form(mlp, new_mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu")
    optimizer.optimize_for_inference(rows(2))
    other = new_mlp(9)
    optimizer.swap(other, rows(2, 9))
    torch.testing.assert_close(optimizer.predict(rows(3, 9)), other(rows(3, 9)).detach())


def test_first_model_may_come_by_swap(mlp):
    optimizer = InferenceOptimizer(device="cpu")
    assert "not measured" in optimizer.swap(mlp)["reason"]
    assert torch.equal(optimizer.predict(rows(1)), mlp(rows(1)).detach())


def test_no_request_fails_while_models_are_swapped(new_mlp):
    models = [new_mlp(seed=seed) for seed in range(2)]
    optimizer = InferenceOptimizer(models[0], device="cpu", cache_size=0)
    x = rows(1)
    allowed = [model(x).detach() for model in models]
    stop, wrong, n_answers = threading.Event(), [], [0]

    def predict():
        while not stop.is_set():
            answer = optimizer.predict(x)
            n_answers[0] += 1
            if not any(torch.allclose(answer, want, atol=1e-5) for want in allowed):
                wrong.append(answer)

    thread = threading.Thread(target=predict)
    thread.start()
    optimizer.optimize_for_inference(x)
    for turn in range(4):
        optimizer.swap(models[turn % 2])
    stop.set()
    thread.join()
    assert not wrong
    assert n_answers[0] > 0


# ── figures ─────────────────────────────────────────────────────────────────────────────────


def test_targets_of_the_optimizer_and_counting_anew(mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu")
    for _ in range(20):
        optimizer.predict(rows(1))
    found = {check["name"]: check["is_met"] for check in optimizer.check_targets()}
    assert found["p99_latency_ms"] is True
    assert found["hit_rate"] is True  # 19 of 20
    assert found["gpu_utilization"] is None
    optimizer.reset_stats()
    assert optimizer.get_performance_stats()["total_predictions"] == 0
