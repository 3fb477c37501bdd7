"""What a call of `InferenceOptimizer.predict` costs besides the model; what the cache saves."""

import itertools
import statistics
import timeit
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from modelyard.inference_optimizer import InferenceOptimizer
from modelyard.torchtools.inputs import call

_US = 1e6
_N = 4000
_REPEATS = 15
_DISTINCT = 6000
COLUMNS = ["call", "#modelyard (us)", "#bare (us)", "#difference (us)"]


def small_model(seed: int = 0) -> nn.Module:
    """263-256-256-4, a small policy."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(263, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 4)
    ).eval()


def rows() -> list[list[str]]:
    """Cached and computed calls beside the least they could do."""
    model = small_model()
    example = torch.randn(2, 263, generator=torch.Generator().manual_seed(0))
    made = []
    for backend in ("onnxruntime", "torchscript", "eager"):
        cached = InferenceOptimizer(model, device="cpu", backend=backend, cache_size=1000)
        plain = InferenceOptimizer(model, device="cpu", backend=backend, cache_size=0)
        for optimizer in (cached, plain):
            optimizer.optimize_for_inference(example)
        if backend == "onnxruntime":
            made += _cached(cached, example)
        made += _computed(backend, cached, plain)
    return made


def _cached(optimizer: InferenceOptimizer, example: torch.Tensor) -> list[list[str]]:
    tensor = example[:1].clone()
    array = tensor.numpy().copy()
    answer, as_tensor = optimizer.predict(array), optimizer.predict(tensor)
    pairs = {
        "cached, array; bare: copy of the answer": (lambda: optimizer.predict(array), answer.copy),
        "cached, tensor; bare: copy of the answer": (
            lambda: optimizer.predict(tensor),
            as_tensor.clone,
        ),
    }
    return [_row(name, *pair) for name, pair in pairs.items()]


def _computed(
    backend: str, cached: InferenceOptimizer, plain: InferenceOptimizer
) -> list[list[str]]:
    generator = np.random.default_rng(0)
    arrays = [generator.normal(size=(1, 263)).astype(np.float32) for _ in range(_DISTINCT)]
    tensors = [torch.from_numpy(array) for array in arrays]
    found = []
    for kind, inputs in (("array", arrays), ("tensor", tensors)):
        bare = _bare(plain, kind)
        if bare is None:
            continue
        for title, optimizer in (("cache off", plain), ("not in the cache", cached)):
            ours, theirs = itertools.cycle(inputs), itertools.cycle(inputs)
            found.append(
                _row(
                    f"{backend}, {kind}, {title}; bare: the backend's call",
                    lambda o=optimizer, it=ours: o.predict(next(it)),
                    lambda it=theirs, b=bare: b(next(it)),
                )
            )
    return found


def _bare(optimizer: InferenceOptimizer, kind: str) -> Callable[[Any], Any] | None:
    """The backend's own call, as one would write it by hand."""
    backend = optimizer._serving.backend_for(1)  # noqa: SLF001 - what is measured against
    if kind == "array":
        return backend.run_array
    if backend.name == "eager":
        model = optimizer.model
        return lambda x: call(model, x)
    return backend.run


def _row(name: str, ours: Callable[[], Any], bare: Callable[[], Any]) -> list[str]:
    """Medians of short blocks in turns; the least of each would hide the garbage collector."""
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(_REPEATS):
        times["ours"].append(timeit.timeit(ours, number=_N) / _N * _US)
        times["bare"].append(timeit.timeit(bare, number=_N) / _N * _US)
    mine, theirs = (statistics.median(times[key]) for key in ("ours", "bare"))
    return [name, f"{mine:.2f}", f"{theirs:.2f}", f"{mine - theirs:.2f}"]
