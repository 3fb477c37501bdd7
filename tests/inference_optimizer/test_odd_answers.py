"""Answers that are more than a tensor, and tensors that are more than a block of numbers."""

import asyncio
import logging

import numpy as np
import pytest
import torch
from torch import nn

from modelyard._core.errors import InputError
from modelyard.inference_optimizer import InferenceOptimizer

CACHE_SIZES = pytest.mark.parametrize("cache_size", [0, 1000])
X = torch.ones(1, 4)


class Answers(nn.Module):
    """Answers with what a function makes of the input."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x)


def optimizer_of(answer, cache_size=1000):
    return InferenceOptimizer(Answers(answer), device="cpu", cache_size=cache_size)


# ── what an answer holds beside tensors ─────────────────────────────────────────────────────────


@CACHE_SIZES
def test_arrays_in_an_answer_are_the_callers(cache_size):
    own = np.ones((1, 4), np.float32)
    optimizer = optimizer_of(lambda x: {"y": x * 2, "parts": [own]}, cache_size)
    for _ in range(3):
        answer = optimizer.predict(X)
        assert answer["parts"][0][0, 0] == 1
        answer["parts"][0][:] = 999
    assert own[0, 0] == 1
    assert optimizer.get_cache_stats()["hits"] == (2 if cache_size else 0)


@pytest.mark.parametrize("part", [{1}, bytearray(b"1"), np.array([[1]], object)])
def test_what_cannot_be_copied_is_not_kept(part, caplog):
    optimizer = optimizer_of(lambda x: {"y": x * 2, "part": type(part)(part)})
    if isinstance(part, np.ndarray):
        optimizer = optimizer_of(lambda x: {"y": x * 2, "part": part})
    with caplog.at_level(logging.WARNING):
        answers = [optimizer.predict(X)["part"] for _ in range(3)]
    assert len({id(answer) for answer in answers}) == 3
    assert optimizer.get_cache_stats()["max_size"] == 0
    assert f"answers with a {type(part).__name__}, which cannot be kept" in caplog.text


def test_what_cannot_be_copied_is_not_kept_where_it_comes_later():
    optimizer = optimizer_of(lambda x: {"y": x, "part": {1} if x[0, 0] > 1 else 1})
    optimizer.predict(X)
    for _ in range(2):
        answer = optimizer.predict(X * 2)
        assert answer["part"] == {1}
        answer["part"].add(5)
    streamed = optimizer.predict_streaming([X * 2, X * 2, X])
    assert [answer["part"] for answer in streamed] == [{1}, {1}, 1]
    assert streamed[0]["part"] is not streamed[1]["part"]


@pytest.mark.parametrize("part", [lambda x: x.numpy().copy(), lambda x: float(x.sum())])
def test_what_cannot_be_cut_is_not_joined(part):
    optimizer = optimizer_of(lambda x: {"y": x * 2, "part": part(x)})
    xs = [X, X * 2, X * 3]
    for x, answer in zip(xs, optimizer.predict_streaming(xs), strict=True):
        assert np.array_equal(answer["part"], part(x))
    whole = optimizer.predict_batch(torch.cat(xs))
    assert np.array_equal(whole["part"], part(torch.cat(xs)))
    with pytest.raises(InputError, match="parts cannot be joined"):
        optimizer.predict_batch(torch.cat(xs), exact=True)


@CACHE_SIZES
@pytest.mark.parametrize("x", [X, X.numpy(), (X,)])
def test_a_model_that_answers_with_an_array_always_does(x, cache_size):
    optimizer = optimizer_of(lambda x: x.numpy() * 2, cache_size)
    answers = [optimizer.predict(x) for _ in range(4)]
    assert {type(answer) for answer in answers} == {np.ndarray}
    assert all(np.array_equal(answer, X.numpy() * 2) for answer in answers)


def test_a_model_that_answers_with_an_array_now_and_then_does_so_each_time():
    optimizer = optimizer_of(lambda x: x.numpy() if x[0, 0] > 1 else x)
    kinds = [[type(optimizer.predict(X * i)) for i in (1, 2)] for _ in range(3)]
    assert kinds == [[torch.Tensor, np.ndarray]] * 3
    assert [type(one) for one in optimizer.predict_streaming([X * 2])] == [np.ndarray]
    assert [type(optimizer.predict(X * i)) for i in (1, 2)] == [torch.Tensor, np.ndarray]


@CACHE_SIZES
def test_tensors_for_tensors_where_the_shortest_way_gives_arrays(mlp, cache_size):
    mlp = nn.Sequential(mlp)
    optimizer = InferenceOptimizer(mlp, device="cpu", backend="onnxruntime", cache_size=cache_size)
    x = torch.zeros(1, 8)
    optimizer.optimize_for_inference(torch.zeros(2, 8), batch_sizes=[1])
    kinds = [(type(optimizer.predict(x)), type(optimizer.predict(x.numpy()))) for _ in range(3)]
    assert kinds == [(torch.Tensor, np.ndarray)] * 3


# ── views that are conjugated or negated ────────────────────────────────────────────────────────


@CACHE_SIZES
@pytest.mark.parametrize("bit", ["conj", "neg"])
def test_answers_that_are_conjugated_or_negated_become_arrays(bit, cache_size):
    def answer(x):
        conjugated = torch.fft.fft(x).conj()
        return conjugated if bit == "conj" else conjugated.imag

    optimizer = optimizer_of(answer, cache_size)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    want = np.fft.fft(x).conj()
    want = want if bit == "conj" else want.imag
    for _ in range(2):
        np.testing.assert_allclose(optimizer.predict(x), want, atol=1e-5)
        np.testing.assert_allclose(optimizer.predict_batch(x), want, atol=1e-5)
    (streamed,) = optimizer.predict_streaming([torch.from_numpy(x)], return_numpy=True)
    np.testing.assert_allclose(streamed, want, atol=1e-5)


def test_batches_may_be_conjugated():
    x = torch.arange(4).to(torch.complex64).reshape(2, 2).mul(1j).conj()
    assert torch.equal(optimizer_of(lambda x: x * 2).predict_batch(x), x * 2)


# ── sparse, nested, quantized, float8 ───────────────────────────────────────────────────────────

SPARSE = {
    "coo": lambda x: x.to_sparse(),
    "csr": lambda x: x.to_sparse_csr(),
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*prototype stage.*"),
    pytest.mark.filterwarnings("ignore:.*[Ss]parse CSR.*"),
    pytest.mark.filterwarnings("ignore:.*quantize.*"),
]


def nested(*sizes):
    return torch.nested.nested_tensor([torch.ones(n, 4) for n in sizes])


@CACHE_SIZES
@pytest.mark.parametrize("kind", SPARSE)
@pytest.mark.parametrize("backend", ["eager", "onnxruntime", "torchscript"])
def test_sparse_inputs_go_to_the_module(kind, cache_size, backend):
    linear = nn.Linear(4, 2)
    optimizer = InferenceOptimizer(linear, device="cpu", cache_size=cache_size, backend=backend)
    x = torch.eye(4)[:2]
    sparse, want = SPARSE[kind](x), linear(x).detach()
    torch.testing.assert_close(optimizer.predict(sparse), want)
    optimizer.optimize_for_inference(torch.zeros(2, 4), batch_sizes=[1])
    optimizer.predict(x)  # from here on a dense one of this shape is known
    torch.testing.assert_close(optimizer.predict(sparse), want)
    torch.testing.assert_close(optimizer.predict_batch(sparse), want)
    for answer in optimizer.predict_streaming([sparse, x, sparse]):
        torch.testing.assert_close(answer, want)
    assert optimizer.get_cache_stats()["max_size"] == cache_size

    async def ask():
        async with optimizer.engine() as engine:
            return await asyncio.gather(*(engine.apredict(one) for one in (x, sparse, x, sparse)))

    for answer in asyncio.run(ask()):
        torch.testing.assert_close(answer, want)


def test_a_sparse_input_is_not_written_into_before_the_model_was_looked_at():
    optimizer = optimizer_of(lambda x: x.mul_(2).to_dense())
    sparse = X.to_sparse()
    assert optimizer.predict(sparse).sum() == 8
    assert sparse.to_dense().sum() == 4


@CACHE_SIZES
def test_nested_inputs_go_to_the_module(cache_size):
    optimizer = optimizer_of(lambda x: torch.stack([one.sum() for one in x.unbind()]), cache_size)
    for _ in range(2):
        assert optimizer.predict(nested(2, 3)).tolist() == [8, 12]
    assert optimizer.predict_batch(nested(1)).tolist() == [4]
    assert optimizer.predict_streaming([nested(1), nested(2)])[1].tolist() == [8]


def test_nested_inputs_a_model_does_not_take_are_refused_in_words():
    optimizer = InferenceOptimizer(nn.Conv1d(4, 2, 1), device="cpu", cache_size=0)
    with pytest.raises(InputError, match=r"does not take this input \(nested .*of 2"):
        optimizer.predict(nested(2, 3))


ODD = {
    "coo": lambda x: x.to_sparse(),
    "csr": lambda x: x.to_sparse_csr(),
    "nested": lambda x: torch.nested.nested_tensor([x]),
    "jagged": lambda x: torch.nested.nested_tensor([x], layout=torch.jagged),
    "quantized": lambda x: torch.quantize_per_tensor(x, 0.5, 0, torch.quint8),
}


@CACHE_SIZES
@pytest.mark.parametrize("kind", ODD)
def test_odd_answers_are_given_as_they_are_and_not_kept(kind, cache_size):
    optimizer = optimizer_of(ODD[kind], cache_size)
    want = ODD[kind](X)
    for ask in (optimizer.predict, optimizer.predict, optimizer.predict_batch):
        answer = ask(X)
        assert (answer.layout, answer.is_nested) == (want.layout, want.is_nested)
    assert [one.layout for one in optimizer.predict_streaming([X, X * 2])] == [want.layout] * 2
    assert optimizer.get_cache_stats()["max_size"] == 0
    with pytest.raises(InputError, match="there is no array: give a tensor"):
        optimizer.predict(X.numpy())


@CACHE_SIZES
def test_float8_answers_are_tensors_or_arrays_of_float32(cache_size):
    optimizer = optimizer_of(lambda x: x.to(torch.float8_e4m3fn), cache_size)
    for _ in range(2):
        assert optimizer.predict(X).dtype is torch.float8_e4m3fn
        np.testing.assert_array_equal(optimizer.predict(X.numpy()), X.numpy())
    assert optimizer.predict(X.numpy()).dtype == np.float32


@CACHE_SIZES
def test_float8_inputs(cache_size):
    optimizer = optimizer_of(lambda x: x.float() * 2, cache_size)
    for _ in range(2):
        assert torch.equal(optimizer.predict(X.to(torch.float8_e4m3fn)), X * 2)
    assert torch.equal(optimizer.predict_batch(X.to(torch.float8_e4m3fn)), X * 2)
