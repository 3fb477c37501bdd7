"""Backends on a GPU: right answers at several sizes and from several threads."""

import threading

import pytest
import torch
from torch import nn

from modelyard.inference_optimizer import InferenceOptimizer
from modelyard.inference_optimizer.backends import (
    make_autocast,
    make_bfloat16,
    make_compiled,
    make_cuda_graph,
    make_torchscript,
)
from modelyard.inference_optimizer.tuning import chosen, explain

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA GPU, and there is none here"
)


class WaitsForTheGpu(nn.Module):
    """Looks at a value, which a CUDA graph cannot record."""

    def forward(self, x):
        return x * 2 if float(x.sum()) > 0 else x * 3


class TwoInputs(nn.Module):
    """Answers with a dict."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, state, scale):
        return {"value": self.layer(state) * scale, "scale": scale.mean(1)}


@pytest.fixture
def device():
    return torch.device("cuda")


@pytest.fixture
def model(new_mlp, device):
    return new_mlp(8, 64, 4).to(device)


def rows(n, *, seed=0):
    return torch.randn(n, 8, generator=torch.Generator().manual_seed(seed + n))


def agrees(backend, model, x, device, *, tolerance=1e-5):
    with torch.inference_mode():
        want = model(x.to(device))
    got = backend.run(x)
    assert got.device.type == "cuda"
    assert got.dtype == want.dtype
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("make", [make_torchscript, make_cuda_graph])
def test_exact_backends_answer_like_the_module_at_every_size(model, device, make):
    backend = make(model, rows(2), device)
    for n in (1, 2, 3, 8, 32, 3, 1):
        agrees(backend, model, rows(n), device)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_module_answers_like_the_module_at_every_size(model, device):
    backend = make_compiled(model, rows(2), device)
    for n in (1, 3, 8, 32):
        agrees(backend, model, rows(n), device)


@pytest.mark.parametrize("make", [make_autocast, make_bfloat16])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reduced_precision_answers_in_the_modules_dtype(model, device, make, dtype):
    backend = make(model, rows(2), device, dtype=dtype)
    for n in (1, 8, 32):
        agrees(backend, model, rows(n), device, tolerance=0.05)


def test_answers_of_a_cuda_graph_are_the_callers(model, device):
    backend = make_cuda_graph(model, rows(2), device)
    first = backend.run(rows(4))
    kept = first.clone()
    backend.run(rows(4, seed=9))
    assert torch.equal(first, kept)
    with torch.inference_mode():
        first += 1.0
    agrees(backend, model, rows(4), device)


def test_cuda_graph_takes_tensors_from_the_gpu_and_several_inputs(device):
    model = TwoInputs().eval().to(device)
    state, scale = rows(3).to(device), torch.full((3, 1), 2.0, device=device)
    for given in ((state, scale), {"state": state, "scale": scale}):
        backend = make_cuda_graph(model, given, device)
        answer = backend.run(given)
        want = model(state, scale)
        torch.testing.assert_close(answer["value"], want["value"].detach())
        torch.testing.assert_close(answer["scale"], want["scale"])


@pytest.mark.parametrize("has_own_stream", [False, True])
def test_threads_never_get_one_anothers_answers(model, device, has_own_stream):
    backend = make_cuda_graph(model, rows(2), device)
    wrong = []

    def ask(n):
        stream = torch.cuda.Stream(device) if has_own_stream else torch.cuda.current_stream()
        with torch.cuda.stream(stream), torch.inference_mode():
            for seed in range(30):
                want = model(rows(n, seed=seed).to(device))
                got = backend.run(rows(n, seed=seed))
                stream.synchronize()
                if not torch.allclose(got, want, rtol=1e-5, atol=1e-5):
                    wrong.append((n, seed))

    threads = [threading.Thread(target=ask, args=(n,)) for n in (2, 2, 5, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_more_sizes_than_graphs_are_kept_still_get_answers(model, device):
    backend = make_cuda_graph(model, rows(2), device)
    for n in range(1, 30):
        agrees(backend, model, rows(n), device)


def test_module_that_waits_for_the_gpu_is_a_row_and_harms_nothing(device):
    model = nn.Sequential(nn.Linear(8, 8), WaitsForTheGpu()).eval().to(device)
    choice = chosen(model, rows(2), device, batch_sizes=(1, 8))
    row = next(row for row in choice.candidates if row["name"] == "cuda_graph")
    assert row["reason"].startswith("could not run:")
    assert torch.isfinite(choice.by_batch[1].run(rows(1))).all()


@pytest.mark.parametrize("use_amp", [False, True])
def test_table_of_a_gpu_names_its_backends_and_the_gpu(model, device, use_amp):
    optimizer = InferenceOptimizer(model, device="cuda", use_amp=use_amp)
    found = optimizer.optimize_for_inference(rows(2))
    names = {row["name"] for row in found["candidates"]}
    assert names >= {"eager", "torchscript", "cuda_graph"}
    assert (names >= {"autocast", "bfloat16", "float16"}) == use_amp
    assert found["hardware"]["gpu"] == torch.cuda.get_device_name()
    for n in (1, 8, 32, 40):
        torch.testing.assert_close(
            optimizer.predict(rows(n)),
            model(rows(n).to(device)).detach().cpu(),
            rtol=0.05 if use_amp else 1e-5,
            atol=0.05 if use_amp else 1e-5,
        )
    assert "cuda_graph" in explain(found)


def test_choice_on_a_gpu_is_used_again(model, device):
    first = chosen(model, rows(2), device, asked="cuda_graph")
    again = chosen(model, rows(2), device, asked="cuda_graph", reuse=first.record)
    assert again.is_reused
    assert {backend.name for backend in again.by_batch.values()} == {"cuda_graph"}
    agrees(again.by_batch[1], model, rows(1), device)
