"""The optimizer: equal answers whatever serves them, for every kind of input."""

import json
import logging
import threading

import numpy as np
import pytest
import torch
from torch import nn

from modelyard._core.errors import ConfigError, InputError, NotReadyError
from modelyard.compression import ModelCompressor
from modelyard.inference_optimizer import InferenceOptimizer


class Noisy(nn.Module):
    """Gives another answer at every call."""

    def forward(self, x):
        return x + torch.rand(x.shape)


class TwoInputs(nn.Module):
    """Takes two tensors and answers with a dict."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, state, scale):
        return {"value": self.layer(state) * scale, "mean": (state.mean(1), scale)}


class FollowsLength(nn.Module):
    """Depends on the length of the sequence, which tracing freezes."""

    def forward(self, x):
        return x.sum(1) / x.shape[1]


class MixesBatch(nn.Module):
    """Each answer depends on the whole batch."""

    def forward(self, x):
        return torch.softmax(x, dim=0)


class ShapeOfItsOwn(nn.Module):
    """Answers with something that is no batch."""

    def forward(self, x):
        return x.sum(0)


@pytest.fixture
def optimizer(mlp):
    return InferenceOptimizer(mlp, device="cpu")


def rows(n, width=8, *, seed=0):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


# ── the model ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "call",
    [
        lambda o: o.predict(rows(1)),
        lambda o: o.predict_batch(rows(1)),
        lambda o: o.predict_streaming([rows(1)]),
        lambda o: o.submit(rows(1)),
        lambda o: o.benchmark((1, 8)),
        lambda o: o.optimize_for_inference(),
    ],
)
def test_without_a_model_every_call_says_how_to_attach_one(call):
    with pytest.raises(NotReadyError, match=r"set_model\(model\)"):
        call(InferenceOptimizer())


def test_model_may_be_attached_later(mlp):
    optimizer = InferenceOptimizer(device="cpu")
    assert optimizer.model is None
    assert optimizer.get_performance_stats()["backend"] == "none"
    optimizer.set_model(mlp)
    assert torch.equal(optimizer.predict(rows(2)), mlp(rows(2)))


def test_new_model_forgets_the_old_answers(optimizer, new_mlp):
    x = rows(1)
    optimizer.predict(x)
    other = new_mlp(seed=1)
    optimizer.set_model(other)
    assert torch.equal(optimizer.predict(x), other(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be 1"),
        ({"cache_size": -1}, "cache_size must be 0"),
        ({"backend": "magic"}, "backend 'magic' is not one of auto, eager"),
        ({"device": "abacus"}, "device 'abacus' is unknown"),
    ],
)
def test_wrong_settings_are_named(mlp, options, message):
    with pytest.raises(ConfigError, match=message):
        InferenceOptimizer(mlp, **options)


def test_what_is_no_module_is_refused():
    with pytest.raises(ConfigError, match=r"nn\.Module, got dict"):
        InferenceOptimizer({"weights": 1})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_gpu_that_is_not_there_is_the_cpu_with_one_warning(mlp, caplog):
    optimizer = InferenceOptimizer(mlp, device="cuda")
    optimizer.predict(rows(1))
    assert optimizer.get_performance_stats()["device"] == "cpu"
    assert [r.message for r in caplog.records] == [
        "device='cuda', but there is no CUDA GPU here: running on the CPU."
    ]


def test_model_left_in_train_mode_gives_one_answer():
    optimizer = InferenceOptimizer(nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5)).train())
    x = rows(4)
    assert torch.equal(optimizer.predict(x), optimizer.predict(x))
    assert optimizer.get_cache_stats()["hits"] == 1


# ── optimize_for_inference ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("backend", ["auto", "eager", "torchscript", "onnxruntime"])
def test_every_backend_answers_like_eager(mlp, backend):
    optimizer = InferenceOptimizer(mlp, device="cpu", backend=backend, cache_size=0)
    found = optimizer.optimize_for_inference(rows(2))
    json.dumps(found, allow_nan=False)
    if backend != "auto":
        assert set(found["backend_by_batch"].values()) == {backend}
    for n in (1, 3, 32, 50):
        torch.testing.assert_close(optimizer.predict(rows(n)), mlp(rows(n)), rtol=1e-5, atol=1e-5)


def test_every_candidate_has_a_reason(optimizer):
    found = optimizer.optimize_for_inference()
    names = {c["name"] for c in found["candidates"]}
    assert names == {"eager", "torchscript", "onnxruntime", "openvino"}
    assert all(c["reason"] for c in found["candidates"])
    chosen = {c["name"] for c in found["candidates"] if c["is_chosen"]}
    assert chosen == set(found["backend_by_batch"].values())
    assert optimizer.get_performance_stats()["backend"] == found["backend"]


def test_reduced_precision_is_tried_only_where_admitted(mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu", use_amp=True)
    names = {c["name"] for c in optimizer.optimize_for_inference()["candidates"]}
    assert "bfloat16" in names
    torch.testing.assert_close(optimizer.predict(rows(4)), mlp(rows(4)), rtol=0.05, atol=0.05)


def test_model_without_a_known_input_keeps_eager_and_says_why():
    optimizer = InferenceOptimizer(TwoInputs(), device="cpu")
    found = optimizer.optimize_for_inference()
    assert found["backend"] == "eager"
    assert "example_input" in found["reason"]


def test_wrong_example_is_an_error_with_the_models_own_words(optimizer):
    with pytest.raises(InputError, match=r"\(2, 5\).*shapes cannot be multiplied"):
        optimizer.optimize_for_inference(rows(2, 5))


def test_backend_that_cannot_serve_the_model_says_why():
    optimizer = InferenceOptimizer(
        nn.Sequential(nn.Linear(8, 8), Noisy()), device="cpu", backend="onnxruntime"
    )
    with pytest.raises(ConfigError, match=r"'onnxruntime' cannot serve.*two answers"):
        optimizer.optimize_for_inference(rows(2))


@pytest.mark.parametrize("backend", ["auto", "torchscript", "onnxruntime"])
def test_inputs_of_another_form_than_the_example_go_to_the_module_itself(backend):
    """A traced graph freezes the length: it would answer wrongly without a word."""
    model = nn.Sequential(nn.Linear(4, 4), FollowsLength())
    optimizer = InferenceOptimizer(model, device="cpu", backend=backend)
    optimizer.optimize_for_inference(torch.randn(2, 10, 4))
    for length in (10, 3, 25):
        x = torch.randn(2, length, 4)
        torch.testing.assert_close(optimizer.predict(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["eager", "torchscript", "onnxruntime"])
def test_input_without_a_batch_works_before_and_after_optimizing(mlp, backend):
    optimizer = InferenceOptimizer(mlp, device="cpu", backend=backend)
    x = rows(1)[0]
    for _ in range(2):
        assert torch.equal(optimizer.predict(x), mlp(x))
        optimizer.optimize_for_inference()


def test_optimizing_while_others_predict_is_not_lost(mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu", backend="onnxruntime")
    stop = threading.Event()

    def predict():
        seed = 0
        while not stop.is_set():
            seed += 1
            optimizer.predict(rows(1, seed=seed))

    thread = threading.Thread(target=predict)
    thread.start()
    optimizer.optimize_for_inference()
    stop.set()
    thread.join()
    assert optimizer.get_performance_stats()["backend"] == "onnxruntime"


def test_quantized_model_is_served(new_mlp):
    compressor = ModelCompressor(new_mlp(8, 64, 4))
    compressor.dynamic_quantization()
    optimizer = InferenceOptimizer(compressor.model, device="cpu")
    assert optimizer.optimize_for_inference()["candidates"]
    x = rows(5)
    assert torch.equal(optimizer.predict(x), compressor.model(x))
    assert np.array_equal(optimizer.predict(x.numpy()), compressor.model(x).numpy())


def test_quantized_model_gives_a_sample_the_same_answer_whatever_its_neighbours(new_mlp):
    """Dynamic int8 takes the range of activations over the whole batch."""
    compressor = ModelCompressor(new_mlp(8, 64, 4))
    compressor.dynamic_quantization()
    optimizer = InferenceOptimizer(compressor.model, device="cpu", cache_size=0)
    alike, other = rows(1).expand(2, 8), rows(20)
    x = torch.cat([alike, 5 * other])
    singles = torch.cat([optimizer.predict(row) for row in x.split(1)])
    assert torch.equal(optimizer.predict_batch(x), singles)
    assert torch.equal(torch.cat(optimizer.predict_streaming(list(x.split(1)))), singles)


# ── kinds of input ──────────────────────────────────────────────────────────────────────────


def test_arrays_in_arrays_out_and_float64_is_taken_as_a_wish_for_float(optimizer, mlp):
    x = rows(3).numpy().astype(np.float64)
    answer = optimizer.predict(x)
    assert isinstance(answer, np.ndarray)
    assert answer.dtype == np.float32
    assert np.array_equal(answer, mlp(rows(3)).detach().numpy())


def test_plain_lists_are_arrays(optimizer, mlp):
    want = mlp(rows(2)).detach().numpy()
    assert np.array_equal(optimizer.predict(rows(2).tolist()), want)


@pytest.mark.parametrize("kind", ["tuple", "dict"])
@pytest.mark.parametrize("as_arrays", [False, True])
def test_several_inputs_and_nested_answers(kind, as_arrays):
    model = TwoInputs()
    optimizer = InferenceOptimizer(model, device="cpu")
    state, scale = rows(3, 4), torch.full((3, 1), 2.0)
    given = (state, scale) if kind == "tuple" else {"state": state, "scale": scale}
    optimizer.optimize_for_inference(given)
    if as_arrays:
        given = (
            tuple(t.numpy() for t in given)
            if kind == "tuple"
            else {name: t.numpy() for name, t in given.items()}
        )
    for _ in range(2):  # the second comes from the cache
        answer = optimizer.predict(given)
        want = model(state, scale)
        assert isinstance(answer["value"], np.ndarray if as_arrays else torch.Tensor)
        torch.testing.assert_close(torch.as_tensor(answer["value"]), want["value"].detach())
        torch.testing.assert_close(torch.as_tensor(answer["mean"][0]), want["mean"][0])
    assert optimizer.get_cache_stats()["hits"] == 1


@pytest.mark.parametrize(
    "x", [rows(2, 9), rows(2).double(), torch.zeros(2, 8, dtype=torch.int64), torch.tensor(1.0)]
)
@pytest.mark.parametrize("is_optimized", [False, True])
def test_input_the_model_does_not_take_is_named(mlp, x, is_optimized):
    optimizer = InferenceOptimizer(mlp, device="cpu", backend="onnxruntime")
    if is_optimized:
        optimizer.optimize_for_inference()
    with pytest.raises(InputError, match=r"Sequential does not take this input \("):
        optimizer.predict(x)


def test_a_list_of_samples_is_told_from_a_batch(mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu")
    with pytest.raises(InputError, match=r"\(20 tensors of \(1, 8\) torch\.float32: .*torch\.cat"):
        optimizer.predict_batch([torch.zeros(1, 8) for _ in range(20)])


def test_unusable_kinds_of_input_are_refused(optimizer):
    with pytest.raises(InputError, match="must be a tensor or array"):
        optimizer.predict({"x": object()})


def test_empty_batches(optimizer):
    assert optimizer.predict(rows(0)).shape == (0, 4)
    assert optimizer.predict_streaming([]) == []
    with pytest.raises(InputError, match="no samples"):
        optimizer.predict_batch(rows(0))


# ── what the caller may do with answers ─────────────────────────────────────────────────────


@pytest.mark.parametrize("as_array", [False, True])
def test_changing_an_answer_does_not_poison_the_cache(optimizer, mlp, as_array):
    x = rows(2)
    want = mlp(x).detach()
    given = x.numpy() if as_array else x
    for _ in range(3):
        answer = optimizer.predict(given)
        assert torch.equal(torch.as_tensor(answer), want)
        answer += 1.0
    assert optimizer.get_cache_stats()["hits"] == 2


def test_answers_can_be_used_in_a_loss(optimizer):
    weight = torch.ones(4, requires_grad=True)
    for answer in (
        optimizer.predict(rows(2)),
        optimizer.predict_batch(rows(2)),
        optimizer.predict_streaming([rows(1), rows(1)])[0],
    ):
        (answer * weight).sum().backward()


# ── batches and streams ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("backend", ["eager", "onnxruntime"])
@pytest.mark.parametrize("exact", [False, True])
def test_batches_and_streams_equal_single_predictions_in_order(mlp, backend, exact):
    optimizer = InferenceOptimizer(mlp, device="cpu", backend=backend, batch_size=8, cache_size=0)
    optimizer.optimize_for_inference()
    x = rows(21)
    singles = torch.cat([optimizer.predict(row) for row in x.split(1)])
    batch = optimizer.predict_batch(x, exact=exact)
    stream = torch.cat(optimizer.predict_streaming(list(x.split(1)), exact=exact))
    for found in (batch, stream):
        if exact:
            assert torch.equal(found, singles)
        else:
            torch.testing.assert_close(found, singles, rtol=1e-5, atol=1e-5)


def test_stream_of_mixed_shapes_and_kinds_keeps_its_order(optimizer, mlp):
    xs = [rows(1, seed=1), rows(3, seed=2), rows(3, seed=3), rows(1, seed=4)[0], rows(2).numpy()]
    answers = list(optimizer.predict_streaming(iter(xs)))
    assert [type(answer) for answer in answers] == [torch.Tensor] * 4 + [np.ndarray]
    for x, answer in zip(xs, answers, strict=True):
        torch.testing.assert_close(torch.as_tensor(answer), mlp(torch.as_tensor(x)).detach())
    assert all(
        isinstance(answer, np.ndarray)
        for answer in optimizer.predict_streaming(xs, return_numpy=True)
    )


@pytest.mark.parametrize("model", [MixesBatch(), ShapeOfItsOwn()])
def test_inputs_whose_answers_depend_on_the_batch_are_never_joined(model):
    optimizer = InferenceOptimizer(model, device="cpu", cache_size=0)
    xs = [rows(2, seed=seed) for seed in range(5)]
    for x, answer in zip(xs, optimizer.predict_streaming(xs), strict=True):
        assert torch.equal(answer, model(x))


def test_whether_inputs_may_be_joined_is_found_anew_for_each_model(mlp):
    """Not by the module's id, which the next module may get."""
    optimizer = InferenceOptimizer(nn.Identity(), device="cpu")
    xs = [rows(2, seed=seed) for seed in range(3)]
    optimizer.predict_streaming(xs)
    optimizer.set_model(MixesBatch())
    assert optimizer._serving.joinable == {}
    for x, answer in zip(xs, optimizer.predict_streaming(xs), strict=True):
        assert torch.equal(answer, torch.softmax(x, dim=0))


# ── the cache ───────────────────────────────────────────────────────────────────────────────


def test_random_model_has_no_cache_and_one_warning(caplog, mlp):
    optimizer = InferenceOptimizer(Noisy(), device="cpu")
    x = rows(1)
    answers = [optimizer.predict(x) for _ in range(3)]
    assert not torch.equal(answers[0], answers[1])
    assert [r.message for r in caplog.records if r.levelno == logging.WARNING] == [
        "Noisy gives two answers to one input: the cache is off."
    ]
    optimizer.set_model(mlp)  # which gives one
    for _ in range(2):
        optimizer.predict(x)
    assert optimizer.get_cache_stats()["hits"] == 1


def test_cache_of_size_zero_is_off(mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu", cache_size=0)
    for _ in range(2):
        optimizer.predict(rows(1))
    assert optimizer.get_cache_stats() == {
        "hits": 0,
        "misses": 0,
        "hit_rate": 0.0,
        "size": 0,
        "max_size": 0,
        "evictions": 0,
    }


def test_cache_statistics_count_and_the_oldest_goes(mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu", cache_size=2)
    first, second, third = (rows(1, seed=seed) for seed in range(3))
    for x in (first, second, first, third, first, second):
        optimizer.predict(x)
    assert optimizer.get_cache_stats() == {
        "hits": 2,
        "misses": 4,
        "hit_rate": 2 / 6,
        "size": 2,
        "max_size": 2,
        "evictions": 2,
    }
    optimizer.clear_cache()
    assert optimizer.get_cache_stats()["size"] == 0


# ── figures ─────────────────────────────────────────────────────────────────────────────────


def test_statistics_before_and_after_the_first_call(optimizer):
    before = optimizer.get_performance_stats()
    assert before["p99_latency_ms"] is None
    assert before["throughput_qps"] == 0.0
    optimizer.predict_batch(rows(40))
    after = optimizer.get_performance_stats()
    assert after["total_predictions"] == 40
    assert 0 < after["p50_latency_ms"] <= after["p99_latency_ms"]
    assert after["throughput_qps"] > 0
    assert after["device"] == "cpu"
    assert after["gpu_utilization"] is None
    json.dumps([before, after], allow_nan=False)


def test_benchmark_has_every_key_and_does_not_use_the_cache(optimizer):
    found = optimizer.benchmark((4, 8), num_iterations=20, warmup_iterations=2)
    assert found.keys() == {
        "mean_latency_ms",
        "median_latency_ms",
        "p95_latency_ms",
        "p99_latency_ms",
        "throughput_qps",
        "memory_mb",
    }
    assert optimizer.get_cache_stats()["misses"] == 0
    assert found["median_latency_ms"] <= found["p95_latency_ms"] <= found["p99_latency_ms"]
    with pytest.raises(ConfigError, match="1 or more"):
        optimizer.benchmark((1, 8), num_iterations=0)
    with pytest.raises(InputError, match="does not run on an input of shape"):
        optimizer.benchmark((1, 9))


def test_changing_the_model_under_load_never_mixes_answers(new_mlp):
    models = [new_mlp(seed=seed) for seed in range(2)]
    x = rows(1)
    allowed = [model(x).detach() for model in models]
    optimizer = InferenceOptimizer(models[0], device="cpu")
    stop, wrong = threading.Event(), []

    def predict():
        while not stop.is_set():
            answer = optimizer.predict(x)
            if not any(torch.equal(answer, want) for want in allowed):
                wrong.append(answer)

    threads = [threading.Thread(target=predict) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(200):
        optimizer.set_model(models[turn % 2])
        assert torch.equal(optimizer.predict(x), allowed[turn % 2])
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
