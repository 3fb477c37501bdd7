"""What an optimizer is made with: wrong values are refused by name, when it is made."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch

from modelyard._core.errors import ConfigError, ConflictError, InputError
from modelyard.inference_optimizer import InferenceOptimizer

WRONG = {
    "batch_size": ["32", 2.5, True, None, 0, np.float64(2)],
    "cache_size": [None, 2.5, "5", False, -1],
    "tolerance": ["x", None, math.nan, -1, True],
    "max_latency_ms": ["5", 0, math.nan, True],
    "cache_ttl_s": ["5", 0, math.nan],
    "seed": ["a", 1.5, -1],
    "use_amp": ["no", 1, None],
    "backend": ["fast", None, ["eager"]],
    "device": [None, "gpu", "meta", 1.5],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_wrong_value_is_refused_by_name(mlp, name, value):
    with pytest.raises(ConfigError, match=name):
        InferenceOptimizer(mlp, **{"device": "cpu", name: value})
    assert next(mlp.parameters()).device.type == "cpu"


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_latency_ms", "5"), ("max_latency_ms", -1), ("max_queue", "9"), ("max_queue", 0)],
)
def test_an_engine_refuses_a_wrong_value_by_name(mlp, name, value):
    optimizer = InferenceOptimizer(mlp, device="cpu")
    with pytest.raises(ConfigError, match=name):
        optimizer.engine(**{name: value})


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is one here")
def test_a_device_that_is_not_here_is_refused(mlp):
    with pytest.raises(ConfigError, match="'mps' cannot compute here"):
        InferenceOptimizer(mlp, device="mps")


def test_a_gpu_that_is_one_too_many_is_refused(mlp, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="'cuda:1' is not here: there are 1 GPUs"):
        InferenceOptimizer(device="cuda:1")


def test_numbers_of_numpy_are_numbers(mlp):
    optimizer = InferenceOptimizer(
        mlp,
        device=torch.device("cpu"),
        batch_size=np.int64(32),
        cache_size=np.int32(5),
        tolerance=np.float32(1e-5),
        max_latency_ms=np.float64(50),
        seed=np.int64(3),
        use_amp=np.bool_(False),
    )
    assert type(optimizer.batch_size) is int
    assert optimizer.predict(np.zeros((1, 8), np.float32)).shape == (1, 4)
    assert optimizer.get_cache_stats()["max_size"] == 5


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_an_optimizer_says_what_to_do_instead_of_copying_it(mlp, copied):
    with pytest.raises(ConflictError, match=r"make a new InferenceOptimizer\(model\).*reuse="):
        copied(InferenceOptimizer(mlp, device="cpu"))


@pytest.mark.parametrize("wrapped", [lambda x: x, lambda x: (x,), lambda x: {"input": x}])
def test_a_masked_array_is_refused(mlp, wrapped):
    x = wrapped(np.ma.masked_array(np.ones((1, 8), np.float32), mask=[[1] + 7 * [0]]))
    with InferenceOptimizer(mlp, device="cpu") as optimizer:
        for ask in (optimizer.predict, optimizer.predict_batch, optimizer.submit):
            with pytest.raises(InputError, match="masked array"):
                ask(x)
        with pytest.raises(InputError, match="masked array"):
            list(optimizer.predict_streaming(iter([x])))
