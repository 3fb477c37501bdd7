"""Streams: in order, as asked for, at most two chunks ahead."""

import threading
from concurrent.futures import Future

import numpy as np
import pytest
import torch

from modelyard._core.errors import InputError
from modelyard.inference_optimizer import InferenceOptimizer, batches, streaming
from modelyard.inference_optimizer.copying import own_copy
from modelyard.inference_optimizer.streaming import streamed


def doubled(xs):
    return [2 * x for x in xs]


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 20])
def test_every_answer_in_order(n):
    assert list(streamed(range(n), doubled, chunk_size=4)) == [2 * i for i in range(n)]


def test_at_most_two_chunks_are_read_ahead():
    read = []

    def source():
        for i in range(100):
            read.append(i)
            yield i

    answers = streamed(source(), doubled, chunk_size=4)
    assert read == []
    for i in range(40):
        assert next(answers) == 2 * i
        assert len(read) <= i + 1 + 2 * 4
    answers.close()
    assert len(read) < 100


def test_the_next_chunk_is_read_while_one_is_computed():
    was_read = threading.Event()

    def source():
        yield from range(4)
        was_read.set()
        yield from range(4, 8)

    def compute(xs):
        if xs[0] == 0:
            assert was_read.wait(10)  # would wait in vain if reading waited for computing
        return doubled(xs)

    assert list(streamed(source(), compute, chunk_size=4)) == [2 * i for i in range(8)]


def test_inputs_are_read_in_the_callers_thread():
    threads = set()

    def source():
        for i in range(10):
            threads.add(threading.current_thread())
            yield i

    list(streamed(source(), doubled, chunk_size=4))
    assert threads == {threading.current_thread()}


def test_an_error_of_the_source_comes_after_the_answers_to_what_it_gave():
    def source():
        yield from range(6)
        raise OSError("the feed broke")

    answers = streamed(source(), doubled, chunk_size=4)
    assert [next(answers) for _ in range(6)] == [2 * i for i in range(6)]
    with pytest.raises(OSError, match="the feed broke"):
        next(answers)


def test_an_input_the_model_does_not_take_fails_in_its_place(mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu")
    xs = [torch.full((1, 8), float(i)) for i in range(10)]
    xs[6] = torch.zeros(1, 5)
    answers = optimizer.predict_streaming(iter(xs))
    for x in xs[:6]:
        torch.testing.assert_close(next(answers), mlp(x).detach())
    with pytest.raises(InputError, match="does not take"):
        next(answers)


def test_a_list_gives_a_list_and_an_iterator_an_iterator(mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu")
    xs = [torch.zeros(1, 8), torch.ones(1, 8)]
    assert isinstance(optimizer.predict_streaming(xs), list)
    lazy = optimizer.predict_streaming(x for x in xs)
    assert not isinstance(lazy, list)
    assert torch.equal(torch.cat(list(lazy)), torch.cat(optimizer.predict_streaming(xs)))


def test_a_stream_without_end_can_be_left(mlp):
    optimizer = InferenceOptimizer(mlp, device="cpu", batch_size=4)
    endless = iter(lambda: torch.zeros(1, 8), None)
    answers = optimizer.predict_streaming(endless)
    assert all(torch.equal(next(answers), mlp(torch.zeros(1, 8)).detach()) for _ in range(9))
    answers.close()


def test_equal_inputs_of_a_stream_are_computed_once():
    computed = []

    class Counting(torch.nn.Module):
        def forward(self, x):
            computed.append(len(x))
            return x * 2

    optimizer = InferenceOptimizer(Counting(), device="cpu")
    xs = [torch.full((1, 2), float(i % 2)) for i in range(8)]
    optimizer.predict_streaming(xs)
    computed.clear()
    optimizer.clear_cache()
    answers = optimizer.predict_streaming(xs)
    assert computed == [2]
    assert torch.equal(torch.cat(answers), torch.cat(xs) * 2)


class AtOnce:
    """In the place of the thread: work is done when it is handed over."""

    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, work, *arguments):
        future = Future()
        future.set_result(work(*arguments))
        return future


def test_a_slow_source_does_not_hold_back_answers_that_are_there(monkeypatch):
    monkeypatch.setattr(streaming, "ThreadPoolExecutor", AtOnce)
    read = []

    def source():
        for i in range(12):
            read.append(i)
            yield i

    answers = streamed(source(), doubled, chunk_size=4)
    assert next(answers) == 0
    assert read == [0, 1, 2, 3]
    assert list(answers) == [2 * i for i in range(1, 12)]


def one_buffer(make, n=20):
    """Inputs as a feed gives them: each in the memory of the one before."""
    buffer = make(1, 4)
    for i in range(n):
        buffer[:] = i
        yield buffer


def one_pair(make, n=20):
    for buffer in one_buffer(make, n):
        yield {"a": buffer, "b": (buffer,)}


def zero_array(*shape):
    return np.zeros(shape, np.float32)


class First(torch.nn.Module):
    def forward(self, x):
        return x[:, :1] * 2


class Feed:
    """No iterator, but what it gives is made while it is read."""

    def __iter__(self):
        return one_buffer(torch.zeros)


@pytest.mark.parametrize("make", [torch.zeros, zero_array])
@pytest.mark.parametrize("cache_size", [0, 1000])
def test_a_feed_may_use_its_memory_again(make, cache_size):
    optimizer = InferenceOptimizer(First(), device="cpu", batch_size=8, cache_size=cache_size)
    for _ in range(2):  # the second time from the cache, if there is one
        answers = optimizer.predict_streaming(one_buffer(make))
        assert [float(answer[0, 0]) for answer in answers] == [2.0 * i for i in range(20)]


def test_what_is_no_iterator_may_use_its_memory_again_too():
    answers = InferenceOptimizer(First(), device="cpu", batch_size=8).predict_streaming(Feed())
    assert [float(answer[0, 0]) for answer in answers] == [2.0 * i for i in range(20)]


@pytest.mark.parametrize("make", [torch.zeros, zero_array])
def test_copies_reach_into_what_an_input_holds(make):
    copies = list(map(own_copy, one_pair(make, 3)))
    assert [float(one["a"][0, 0]) for one in copies] == [0.0, 1.0, 2.0]
    assert [float(one["b"][0][0, 0]) for one in copies] == [0.0, 1.0, 2.0]


def test_inputs_in_a_list_are_not_copied(monkeypatch):
    monkeypatch.setattr(batches, "own_copy", None)  # would fail if it were called
    optimizer = InferenceOptimizer(First(), device="cpu")
    assert len(optimizer.predict_streaming([torch.zeros(1, 4)] * 3)) == 3
