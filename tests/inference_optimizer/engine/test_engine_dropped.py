"""An engine that nobody holds any more answers what it was asked, and goes with its thread."""

import gc
import threading
import time
import weakref

import pytest
import torch
from torch import nn

from modelyard.inference_optimizer import InferenceOptimizer
from modelyard.inference_optimizer.engine import Engine


class Gate:
    """A model that waits until it is let through."""

    def __init__(self):
        self.open = threading.Event()
        self.entered = threading.Event()

    def __call__(self, batch):
        self.entered.set()
        assert self.open.wait(10)
        return batch


def is_gone(*references):
    """Whether all were collected, after at most 10 s: a thread may be about to let go."""
    end_s = time.monotonic() + 10
    while any(reference() is not None for reference in references):
        if time.monotonic() > end_s:
            return False
        gc.collect()
        time.sleep(0.01)
    return True


def are_over(*threads):
    """Whether all ended, after at most 10 s."""
    end_s = time.monotonic() + 10
    while any(thread.is_alive() for thread in threads):
        if time.monotonic() > end_s:
            return False
        gc.collect()
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("cache_size", [0, 1000])
def test_an_optimizer_dropped_after_submit_goes_with_model_and_thread(cache_size):
    model = nn.Linear(4, 2)
    optimizer = InferenceOptimizer(model, device="cpu", cache_size=cache_size)
    futures = [optimizer.submit(torch.full((1, 4), float(i))) for i in range(20)]
    thread = optimizer._engine._host._thread
    references = weakref.ref(model), weakref.ref(optimizer)
    del optimizer, model
    assert all(future.result(10).shape == (1, 2) for future in futures)
    assert is_gone(*references)
    assert are_over(thread)


@pytest.mark.parametrize("n_asked", [0, 1])
def test_a_started_engine_that_is_dropped_goes(n_asked):
    run_batch = Gate()
    run_batch.open.set()
    engine = Engine(run_batch, max_batch=4).start()
    for i in range(n_asked):
        assert engine.submit(i).result(10) == i
    thread, reference = engine._host._thread, weakref.ref(run_batch)
    del engine, run_batch
    assert is_gone(reference)
    assert are_over(thread)


def test_what_was_submitted_is_answered_though_nobody_holds_the_engine():
    gate = Gate()
    engine = Engine(gate, max_batch=2).start()
    futures = [engine.submit(i) for i in range(9)]
    assert gate.entered.wait(10)
    thread = engine._host._thread
    del engine
    gc.collect()
    gate.open.set()
    assert [future.result(10) for future in futures] == list(range(9))
    assert are_over(thread)


def test_an_engine_that_is_only_held_goes_on_after_each_rest():
    engine = Engine(lambda batch: batch, max_batch=4).start()
    for i in range(200):
        assert engine.submit(i).result(10) == i
        gc.collect(0)
    engine.close()
    with engine:
        assert engine.submit(1).result(10) == 1


def test_engines_dropped_while_they_are_woken_all_go():
    threads, futures = [], []
    for i in range(100):
        engine = Engine(lambda batch: batch, max_batch=4).start()
        futures.append(engine.submit(i))
        threads.append(engine._host._thread)
    del engine
    assert [future.result(10) for future in futures] == list(range(100))
    assert are_over(*threads)
