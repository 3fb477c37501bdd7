"""In the child of a fork: no lock is held by a thread that is not there."""

import os
import signal
import threading

import pytest
import torch
from torch import nn

from modelyard.inference_optimizer import InferenceOptimizer

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

X = torch.zeros(1, 8)


def status_of_child(work):
    """What a child ends with that does `work` and then ends; not 0 if that takes 10 s."""
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        try:
            work()
        except BaseException:  # noqa: BLE001 - the child must not run the rest of the tests
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def everything(optimizer):
    """Calls that take each lock of the optimizer."""
    for _ in range(3000):  # the figures are folded meanwhile
        optimizer.predict(X)
    optimizer.get_performance_stats()
    optimizer.get_cache_stats()
    optimizer.optimize_for_inference(X, batch_sizes=[1], budget_s=0.01)
    optimizer.submit(X).result()


@pytest.mark.parametrize("name", ["_examining", "_serving_lock", "_engine_lock"])
def test_locks_of_the_optimizer_are_free_in_a_child(mlp, name):
    optimizer = InferenceOptimizer(mlp, device="cpu", backend="eager")
    held, may_end = threading.Event(), threading.Event()

    def hold():
        with getattr(optimizer, name):
            held.set()
            may_end.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait()
    try:
        assert status_of_child(lambda: everything(optimizer)) == 0
    finally:
        may_end.set()
        holder.join()


def test_figures_go_on_in_a_child_that_was_forked_while_they_were_folded(mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu", backend="eager")
    optimizer.predict(X)
    with optimizer._latency._lock:
        assert status_of_child(lambda: everything(optimizer)) == 0


class TakenAtThisMoment:
    """A lock that another thread has just got, outside the GIL, and does not yet say so."""

    def locked(self):
        return False

    def __enter__(self):
        raise AssertionError("would wait for ever")

    def __exit__(self, *_):
        pass


def test_figures_go_on_in_a_child_that_was_forked_while_their_lock_was_being_taken(mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu", backend="eager")
    optimizer.predict(X)
    optimizer._latency._lock = TakenAtThisMoment()
    assert status_of_child(lambda: everything(optimizer)) == 0


def test_child_that_was_forked_at_ease_keeps_the_figures(mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu")
    optimizer.predict(X)

    def compare():
        assert optimizer.get_performance_stats()["total_predictions"] == 1

    assert status_of_child(compare) == 0


def test_child_does_not_wait_for_the_first_look_at_a_model_that_its_parent_takes():
    parent, runs, may_end = os.getpid(), threading.Event(), threading.Event()

    class Slow(nn.Module):
        def forward(self, x):
            if os.getpid() == parent:
                runs.set()
                may_end.wait()
            return x * 2

    optimizer = InferenceOptimizer(Slow(), device="cpu")
    first = threading.Thread(target=optimizer.predict, args=(X,))
    first.start()
    runs.wait()
    try:
        assert status_of_child(lambda: optimizer.predict(X + 1)) == 0
    finally:
        may_end.set()
        first.join()


@pytest.mark.parametrize(
    "lock",
    [
        lambda engine: engine._host._lock,
        lambda engine: engine._start_lock,
        lambda engine: engine._side._lock,
        lambda engine: engine._parts.timings._lock,
    ],
)
def test_figures_of_an_engine_can_be_read_and_it_can_be_left_in_a_child(mlp, lock):
    with InferenceOptimizer(mlp, device="cpu").engine() as engine:
        engine.submit(X).result()

        def read_and_leave():
            assert engine.stats()["n_answered"] == 1
            engine.close()

        with lock(engine):
            assert status_of_child(read_and_leave) == 0
