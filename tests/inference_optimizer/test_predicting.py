"""Predictions: what is cached is not computed, and nothing depends on what was asked before."""

import threading
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from modelyard._core.errors import ConflictError, InputError
from modelyard.inference_optimizer import InferenceOptimizer
from modelyard.inference_optimizer.serving import Serving


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
        rows(4, 4).numpy()[:, ::-1],
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
    assert model.calls == 1  # whether the model repeats itself is seen on a copy
    stats = optimizer.get_cache_stats()
    assert (stats["hits"], stats["misses"]) == (3, 1)
    answers[0].add_(1.0)
    assert torch.equal(optimizer.predict(x), x * 2)


def test_each_of_equal_inputs_that_fail_gets_its_error_and_none_is_left_waiting():
    optimizer = InferenceOptimizer(Slow(), device="cpu")
    answers = together(optimizer, torch.full((1, 4), float("nan")))
    assert all(isinstance(answer, InputError) for answer in answers)
    assert torch.equal(optimizer.predict(rows(1)), rows(1) * 2)


def test_a_model_that_asks_for_its_own_answer_is_an_error_and_not_a_hang():
    class AsksItself(nn.Module):
        def forward(self, x):
            return optimizer.predict(x) if optimizer.is_asked else x * 2

    optimizer = InferenceOptimizer(AsksItself(), device="cpu")
    optimizer.is_asked = False
    optimizer.predict(rows(1))
    optimizer.is_asked = True
    with pytest.raises(ConflictError, match="is computing"):
        optimizer.predict(rows(1, seed=1))
    optimizer.is_asked = False
    assert torch.equal(optimizer.predict(rows(1, seed=1)), rows(1, seed=1) * 2)


def test_interrupted_computation_leaves_nobody_waiting(mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu")
    optimizer.predict(rows(1))
    run = Serving.run

    def interrupted(self, inputs):
        raise KeyboardInterrupt

    Serving.run = interrupted
    try:
        with pytest.raises(KeyboardInterrupt):
            optimizer.predict(rows(1, seed=1))
    finally:
        Serving.run = run
    assert torch.equal(optimizer.predict(rows(1, seed=1)), mlp(rows(1, seed=1)).detach())


# ── models that do odd things ───────────────────────────────────────────────────────────────


class WritesIntoItsInput(nn.Module):
    def forward(self, x):
        return x.add_(1.0).sum(1, keepdim=True)


@pytest.mark.parametrize("cache_size", [0, 100])
@pytest.mark.parametrize("as_array", [False, True])
def test_a_model_that_writes_into_its_input_answers_right_and_spoils_nothing(cache_size, as_array):
    optimizer = InferenceOptimizer(WritesIntoItsInput(), device="cpu", cache_size=cache_size)
    x = rows(6)
    want = (x + 1).sum(1, keepdim=True)
    given = x.clone().numpy() if as_array else x.clone()
    for answers in (
        optimizer.predict_batch(given),
        np.concatenate([np.asarray(optimizer.predict(given[i : i + 1])) for i in range(6)]),
        np.concatenate(
            [
                np.asarray(answer)
                for answer in optimizer.predict_streaming([given[i : i + 1] for i in range(6)])
            ]
        ),
    ):
        torch.testing.assert_close(torch.as_tensor(answers), want)
        assert torch.equal(torch.as_tensor(given), x)


class ShutsDownOnNaN(nn.Module):
    """One row that is no number changes the answer to all."""

    def forward(self, x):
        return torch.zeros(len(x), 3) if x.isnan().any() else x[:, :3] * 2


@pytest.mark.parametrize("asks", ["stream", "engine"])
def test_a_row_of_nan_changes_no_neighbours_answer(asks):
    optimizer = InferenceOptimizer(ShutsDownOnNaN(), device="cpu")
    xs = [rows(1, seed=seed) for seed in range(8)]
    xs[5] = torch.full((1, 8), float("nan"))
    want = [optimizer.model(x) for x in xs]
    if asks == "stream":
        answers = optimizer.predict_streaming(xs)
    else:
        with optimizer.engine() as engine:
            futures = [engine.submit(x) for x in xs]
            answers = [future.result(10) for future in futures]
    for answer, expected in zip(answers, want, strict=True):
        assert torch.equal(answer, expected)


class RefusesNaN(nn.Module):
    """As a distribution that checks its arguments."""

    def forward(self, x):
        if x.isnan().any():
            raise ValueError("no number")
        return x * 2


def test_a_model_that_refuses_what_is_no_number_is_still_computed_in_batches():
    optimizer = InferenceOptimizer(RefusesNaN(), device="cpu")
    assert optimizer._can_join(optimizer._serving, [rows(1), rows(1, seed=1)])


def test_what_holds_for_a_few_lengths_is_not_tried_anew_for_each(mlp):
    model = nn.Sequential(nn.Linear(4, 4), nn.Flatten(0, 0)).eval()
    optimizer = InferenceOptimizer(model, device="cpu", cache_size=0)
    for length in range(2, 300):
        x = torch.randn(3, length, 4)
        torch.testing.assert_close(optimizer.predict_batch(x), model(x).detach())
    assert len(optimizer._serving.joinable) == 3


def test_a_models_own_precision_is_not_that_of_a_callers_block(mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu")
    want = mlp(rows(2)).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(optimizer.predict(rows(2)), want)
    assert torch.equal(optimizer.predict(rows(2)), want)


class GivesADistribution(nn.Module):
    def forward(self, x):
        return torch.distributions.Normal(x, torch.ones_like(x))


def test_an_answer_that_holds_no_tensor_is_given_and_not_cached(caplog):
    optimizer = InferenceOptimizer(GivesADistribution(), device="cpu")
    for _ in range(2):
        assert torch.equal(optimizer.predict(rows(2)).mean, rows(2))
    assert [record.message for record in caplog.records] == [
        "GivesADistribution answers with a Normal, which cannot be copied: the cache is off."
    ]


def test_an_answer_that_holds_no_tensor_keeps_eager_and_says_why():
    optimizer = InferenceOptimizer(GivesADistribution(), device="cpu", cache_size=0)
    found = optimizer.optimize_for_inference(rows(2))
    assert (found["backend"], found["candidates"]) == ("eager", [])
    assert "answers with a Normal, which holds no tensors" in found["reason"]
    assert torch.equal(optimizer.predict(rows(2)).mean, rows(2))
    asked = InferenceOptimizer(GivesADistribution(), device="cpu", backend="torchscript")
    with pytest.raises(InputError, match="holds no tensor"):
        asked.optimize_for_inference(rows(2))


@dataclass
class Output:
    logits: torch.Tensor
    label: str


class GivesADataclass(nn.Module):
    def forward(self, x):
        return Output(logits=x * 2, label="policy")


@pytest.mark.parametrize("as_array", [False, True])
def test_dataclass_answers_are_copied_joined_and_given_as_the_caller_asked(as_array):
    optimizer = InferenceOptimizer(GivesADataclass(), device="cpu")
    x = rows(70)
    given = x.numpy() if as_array else x
    for exact in (False, True):
        answer = optimizer.predict_batch(given, exact=exact)
        assert answer.label == "policy"
        assert torch.equal(torch.as_tensor(answer.logits), x * 2)
        assert isinstance(answer.logits, np.ndarray if as_array else torch.Tensor)
    first = optimizer.predict(given)
    first.logits = None
    assert torch.equal(torch.as_tensor(optimizer.predict(given).logits), x * 2)


def test_a_random_models_stream_is_computed_input_by_input():
    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    answers = InferenceOptimizer(Noisy(), device="cpu").predict_streaming([rows(1)] * 8)
    assert len({float(answer.sum()) for answer in answers}) == 8


@pytest.mark.parametrize("width", [64, 1024])
def test_rounding_in_batches_is_no_reason_to_turn_the_cache_off(width, new_mlp, caplog):
    optimizer = InferenceOptimizer(new_mlp(8, width, 4), device="cpu")
    optimizer.predict_streaming([rows(1, seed=seed) for seed in range(8)])
    assert not caplog.records
    assert optimizer.get_cache_stats()["size"] == 8


def test_cache_that_was_turned_off_while_backends_were_measured_stays_off():
    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    optimizer = InferenceOptimizer(Noisy(), device="cpu", backend="eager")
    tuned = optimizer._tuned

    def meanwhile(*arguments):
        found = tuned(*arguments)
        optimizer.predict(rows(1))  # which finds out
        return found

    optimizer._tuned = meanwhile
    optimizer.optimize_for_inference(rows(2))
    assert optimizer.get_cache_stats()["max_size"] == 0
    assert not torch.equal(optimizer.predict(rows(1)), optimizer.predict(rows(1)))


def test_memory_that_runs_out_is_not_the_inputs_fault():
    class Hungry(nn.Module):
        def forward(self, x):
            raise MemoryError

    with pytest.raises(MemoryError):
        InferenceOptimizer(Hungry(), device="cpu").predict(rows(1))


@pytest.mark.parametrize("x", [(rows(1), None), {"x": None}, None, "text", object()])
def test_what_is_no_input_is_an_input_error(mlp, x):
    with pytest.raises(InputError):
        InferenceOptimizer(mlp, device="cpu").predict(x)


@pytest.mark.parametrize("cache_size", [0, 10])
@pytest.mark.parametrize("ask", ["predict", "predict_batch", "stream", "submit"])
def test_an_empty_dict_is_no_input(mlp, ask, cache_size):
    with InferenceOptimizer(mlp, device="cpu", cache_size=cache_size) as optimizer:
        asks = {
            "predict": optimizer.predict,
            "predict_batch": optimizer.predict_batch,
            "stream": lambda x: optimizer.predict_streaming([rows(1), x]),
            "submit": lambda x: optimizer.submit(x).result(10),
        }
        with pytest.raises(InputError, match="got an empty dict"):
            asks[ask]({})


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
        optimizer.swap(new_mlp(9), rows(2))
    assert optimizer.model is mlp
    assert optimizer.benchmark(num_iterations=2)["median_latency_ms"] > 0
    torch.testing.assert_close(optimizer.predict(rows(1)), mlp(rows(1)).detach())


def test_swap_to_a_model_of_another_width_finds_an_example_by_its_layers(mlp, new_mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu")
    optimizer.optimize_for_inference(rows(2))
    other = new_mlp(9)
    optimizer.swap(other)
    torch.testing.assert_close(optimizer.predict(rows(3, 9)), other(rows(3, 9)).detach())


def test_swap_computes_each_batch_size_before_the_first_request(mlp):
    class Sizes(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.seen = nn.Linear(8, 2), []

        def forward(self, x):
            self.seen.append(len(x))
            return self.layer(x)

    optimizer = InferenceOptimizer(mlp, device="cpu", batch_size=4, backend="eager")
    optimizer.optimize_for_inference(rows(2))
    model = Sizes()
    optimizer._tuned = lambda serving, *_: (serving, {})  # what measuring computes does not count
    optimizer.swap(model)
    assert model.seen[-1:] == [1]


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


@pytest.mark.slow
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
