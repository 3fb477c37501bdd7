"""The engine through the optimizer: futures give what `predict` gives."""

import asyncio

import numpy as np
import pytest
import torch

from modelyard._core.errors import DeadlineExceededError, InputError
from modelyard.inference_optimizer import InferenceOptimizer


def rows(n, width=8):
    return torch.randn(n, width, generator=torch.Generator().manual_seed(n))


def test_futures_give_what_predict_gives_and_bad_neighbours_harm_nobody(mlp):
    with InferenceOptimizer(mlp, device="cpu") as optimizer:
        xs = [rows(1), rows(1).numpy(), rows(2), rows(1, 9), rows(1)[0], rows(1)]
        futures = [optimizer.submit(x) for x in xs]
        for x, future in zip(xs, futures, strict=True):
            if x.shape[-1] == 9:
                with pytest.raises(InputError, match="does not take"):
                    future.result(10)
            else:
                torch.testing.assert_close(
                    torch.as_tensor(future.result(10)), mlp(torch.as_tensor(x)).detach()
                )


def test_coroutines_share_batches(mlp):
    async def many(optimizer):
        return await asyncio.gather(*(optimizer.apredict(rows(1)) for _ in range(50)))

    with InferenceOptimizer(mlp, device="cpu") as optimizer:
        answers = asyncio.run(many(optimizer))
    assert all(torch.equal(answer, answers[0]) for answer in answers)


def test_latency_limit_of_the_optimizer_is_the_deadline(mlp):
    with InferenceOptimizer(mlp, device="cpu", max_latency_ms=1e-9) as optimizer:
        with pytest.raises(DeadlineExceededError):
            optimizer.submit(rows(1)).result(10)
        assert optimizer.submit(rows(1), deadline_ms=60_000).result(10).shape == (1, 4)


def test_closed_optimizer_starts_a_new_engine_when_asked_again(mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu")
    optimizer.submit(rows(1)).result(10)
    optimizer.close()
    optimizer.close()
    assert optimizer.submit(rows(1)).result(10).shape == (1, 4)
    optimizer.close()


@pytest.mark.parametrize(
    ("before", "after"), [(torch.float32, torch.float64), (torch.float64, torch.float32)]
)
@pytest.mark.parametrize("cache_size", [0, 1000])
@pytest.mark.parametrize("is_measured", [False, True])
def test_arrays_that_wait_are_given_to_the_next_model_in_its_own_type(
    new_mlp, before, after, cache_size, is_measured
):
    models = {dtype: new_mlp(seed=i).to(dtype) for i, dtype in enumerate((before, after))}
    xs = [rows(1).double().numpy() + i / 3 for i in range(20)]

    async def waiting_while_the_model_is_exchanged():
        optimizer = InferenceOptimizer(models[before], device="cpu", cache_size=cache_size)
        if is_measured:
            optimizer.optimize_for_inference(rows(2).to(before), budget_s=0.1)
        async with optimizer.engine() as engine:
            await engine.apredict(xs[0])
            futures = [engine.apredict(x) for x in xs[1:]]
            optimizer.set_model(models[after])
            return [*await asyncio.gather(*futures)]

    answers = asyncio.run(waiting_while_the_model_is_exchanged())
    for x, answer in zip(xs[1:], answers, strict=True):
        want = models[after](torch.from_numpy(x).to(after)).detach().numpy()
        assert answer.dtype == want.dtype
        # What was rounded on the way to the first model would be off by 1e-8.
        np.testing.assert_allclose(answer, want, rtol=1e-12 if after is torch.float64 else 1e-6)


def test_models_of_two_types_are_exchanged_under_load_without_a_failed_request(new_mlp):
    models = [new_mlp(), new_mlp(seed=1).double()]
    with InferenceOptimizer(models[0], device="cpu") as optimizer:
        futures = []
        for i in range(300):
            futures.append(optimizer.submit(rows(1).double().numpy() + i))
            optimizer.set_model(models[i % 2])
        assert {future.result(30).shape for future in futures} == {(1, 4)}
