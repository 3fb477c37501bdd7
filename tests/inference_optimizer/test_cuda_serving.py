"""The optimizer on a GPU: answers where the input came from, cache, batches, engine, swap."""

import asyncio

import numpy as np
import pytest
import torch
from torch import nn

from modelyard.inference_optimizer import InferenceOptimizer

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA GPU, and there is none here"
)


def rows(n, *, seed=0):
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model(new_mlp):
    return new_mlp(8, 64, 4)


@pytest.fixture(params=[False, True], ids=["eager", "measured"])
def optimizer(model, request):
    optimizer = InferenceOptimizer(model, device="auto", batch_size=8)
    if request.param:
        optimizer.optimize_for_inference(rows(2))
    return optimizer


def wanted(optimizer, x):
    with torch.inference_mode():
        return optimizer.model(torch.as_tensor(x).to("cuda")).cpu()


def same(got, want):
    torch.testing.assert_close(torch.as_tensor(got).cpu(), want, rtol=1e-5, atol=1e-5)


def test_answers_are_where_the_input_was(optimizer):
    assert str(optimizer.device) == "cuda"
    want = wanted(optimizer, rows(3))
    for _ in range(2):
        on_cpu = optimizer.predict(rows(3))
        on_gpu = optimizer.predict(rows(3).cuda())
        array = optimizer.predict(rows(3).numpy())
        assert on_cpu.device.type == "cpu"
        assert on_gpu.device.type == "cuda"
        assert isinstance(array, np.ndarray)
        for answer in (on_cpu, on_gpu, array):
            same(answer, want)
            answer[:] = 7.0  # the caller's to change


def test_inputs_from_the_cpu_are_cached_and_those_on_the_gpu_are_not(optimizer):
    optimizer.predict(rows(1))
    optimizer.predict(rows(1))
    assert optimizer.get_cache_stats()["hits"] == 1
    for _ in range(2):
        optimizer.predict(rows(1).cuda())
    assert optimizer.get_cache_stats()["hits"] == 1
    assert optimizer.get_cache_stats()["misses"] == 1


@pytest.mark.parametrize("on_gpu", [False, True])
def test_batches_and_streams(optimizer, on_gpu):
    x = rows(21)
    want = wanted(optimizer, x)
    given = x.cuda() if on_gpu else x
    optimizer.predict(given[3:4])
    same(optimizer.predict_batch(given), want)
    same(torch.cat(optimizer.predict_streaming(list(given.split(1)))), want)
    alone = torch.cat([optimizer.predict(row) for row in given.split(1)])
    assert torch.equal(optimizer.predict_batch(given, exact=True), alone)


def test_engine_on_a_loop_and_on_a_thread(optimizer):
    xs = [rows(1, seed=seed) for seed in range(30)]
    want = [wanted(optimizer, x) for x in xs]

    async def ask():
        async with optimizer.engine() as engine:
            return await asyncio.gather(*(engine.apredict(x) for x in xs))

    for got, expected in zip(asyncio.run(ask()), want, strict=True):
        same(got, expected)
    with optimizer.engine() as engine:
        futures = [engine.submit(x.numpy()) for x in xs]
        for future, expected in zip(futures, want, strict=True):
            same(future.result(30), expected)


def test_swap_and_figures(optimizer, new_mlp):
    optimizer.predict(rows(2))
    other = new_mlp(8, 64, 4, seed=1)
    optimizer.swap(other)
    same(optimizer.predict(rows(2)), wanted(optimizer, rows(2)))
    stats = optimizer.get_performance_stats()
    assert stats["device"] == "cuda"
    assert stats["gpu_memory_mb"] > 0
    assert stats["gpu_utilization"] is None or 0 <= stats["gpu_utilization"] <= 1
    assert optimizer.benchmark((4, 8), num_iterations=20)["median_latency_ms"] > 0


def test_reduced_precision_stays_near_the_module(new_mlp):
    model = new_mlp(8, 512, 4)
    optimizer = InferenceOptimizer(model, use_amp=True)
    found = optimizer.optimize_for_inference(rows(2))
    names = {row["name"] for row in found["candidates"]}
    assert {"eager", "torchscript", "cuda_graph", "autocast", "bfloat16", "float16"} <= names
    with torch.inference_mode():
        want = model(rows(16).cuda()).cpu()
    torch.testing.assert_close(optimizer.predict(rows(16)), want, rtol=0.05, atol=0.05)


def test_recurrent_model_and_tuples_of_states():
    model = nn.LSTM(8, 16, batch_first=True)
    optimizer = InferenceOptimizer(model, cache_size=0)
    x = torch.randn(2, 5, 8)
    optimizer.optimize_for_inference(x)
    answer, (hidden, _) = optimizer.predict(x)
    with torch.inference_mode():
        want, (want_hidden, _) = model(x.cuda())
    same(answer, want.cpu())
    same(hidden, want_hidden.cpu())
