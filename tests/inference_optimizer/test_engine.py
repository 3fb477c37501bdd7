"""The engine through the optimizer: futures give what `predict` gives."""

import asyncio

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
