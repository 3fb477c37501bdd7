"""What a request costs in the router, and whether one fails while the traffic is moved."""

import tempfile
import threading
import timeit
from typing import Any
from unittest.mock import patch

import numpy as np
from torch import nn

from modelyard.deployment import Deployment
from modelyard.inference_optimizer import InferenceOptimizer
from modelyard.monitor import ModelMonitor
from modelyard.version_manager import ModelVersionManager

_X = np.ones((1, 8), np.float32)
_N_CALLS, _N_REPEATS = 2000, 60
_N_THREADS = 4


def router_us() -> dict[str, float]:
    """Microseconds of a request with an optimizer and a monitor that take no time; the least."""
    answer = np.ones((1, 4), np.float32)
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(InferenceOptimizer, "predict", lambda *_: answer),
        patch.object(ModelMonitor, "record_prediction", lambda *_, **__: None),
    ):
        deployment = _deployment(folder)
        users = {deployment.predict(_X, user_id=f"u{i}").version_id: f"u{i}" for i in range(100)}
        return {
            "the stable version's, with a request id": _least_us(
                lambda: deployment.predict(_X, user_id=users["a"], request_id="r")
            ),
            "the stable version's, which makes one": _least_us(
                lambda: deployment.predict(_X, user_id=users["a"])
            ),
            "the candidate's": _least_us(
                lambda: deployment.predict(_X, user_id=users["b"], request_id="r")
            ),
        }


def failed_while_swapping(n_swaps: int) -> tuple[int, int]:
    """Requests of four threads, and how many failed, while the shares change and versions go."""
    with tempfile.TemporaryDirectory() as folder:
        deployment = _deployment(folder)
        stop, lock = threading.Event(), threading.Lock()
        counts = [0, 0]

        def work(worker: int) -> None:
            n = n_failed = 0
            while not stop.is_set():
                n += 1
                try:
                    answer = deployment.predict(_X, user_id=f"{worker}-{n}")
                    n_failed += answer.error is not None
                except Exception:  # noqa: BLE001 - whatever it is, it counts
                    n_failed += 1
            with lock:
                counts[0] += n
                counts[1] += n_failed

        threads = [threading.Thread(target=work, args=(i,)) for i in range(_N_THREADS)]
        for thread in threads:
            thread.start()
        for swap in range(n_swaps):
            _swap(deployment, swap)
        stop.set()
        for thread in threads:
            thread.join()
        return counts[0], counts[1]


def _swap(deployment: Deployment, swap: int) -> None:
    """Another version instead of the last: in by steps, then alone."""
    old, new = ("a", "b") if swap % 2 == 0 else ("b", "a")
    deployment.add_version(new, nn.Linear(8, 4))
    deployment.set_shares({old: 0.5, new: 0.5}, stable=old)
    deployment.set_shares({new: 1.0}, stable=new)
    deployment.retire(old)


def _deployment(folder: str) -> Deployment:
    deployment = Deployment(ModelVersionManager(folder), "ppo", seed=0)
    for name in "ab":
        deployment.add_version(name, nn.Linear(8, 4))
    deployment.set_shares({"a": 0.5, "b": 0.5}, stable="a")
    return deployment


def _least_us(call: Any) -> float:
    return min(timeit.repeat(call, number=_N_CALLS, repeat=_N_REPEATS)) / _N_CALLS * 1e6
