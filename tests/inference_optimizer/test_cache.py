"""The cache: keys that agree for equal bits alone, and answers that are computed once."""

import os
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modelyard import ManualClock
from modelyard._core.errors import ConflictError
from modelyard.inference_optimizer.cache import AnswerCache, Computation
from modelyard.inference_optimizer.keys import array_key, key_of

# Values that == confuses or that are easy to lose.
floats = st.sampled_from([0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1.0, 5e-324])
arrays = st.lists(floats, min_size=1, max_size=4)


def bits(tensor):
    return (tensor.dtype, tensor.shape, tensor.reshape(-1).view(torch.uint8).tolist())


@given(
    a=arrays, b=arrays, dtypes=st.tuples(*[st.sampled_from([torch.float32, torch.float64])] * 2)
)
def test_keys_agree_exactly_when_the_bits_do(a, b, dtypes):
    x, y = torch.tensor(a, dtype=dtypes[0]), torch.tensor(b, dtype=dtypes[1])
    assert (key_of(x) == key_of(y)) == (bits(x) == bits(y))


def test_shape_dtype_and_structure_are_part_of_the_key():
    x = torch.zeros(4)
    different = [
        x,
        x.reshape(2, 2),
        x.int(),
        x.bfloat16(),
        (x, x),
        (torch.zeros(8),),
        {"a": x},
        {"b": x},
        torch.zeros(0),
        torch.zeros(0, 3),
        torch.tensor(0.0),
        torch.tensor(False),
    ]
    keys = {key_of(inputs) for inputs in different}
    assert len(keys) == len(different)


def test_memory_layout_is_not_part_of_the_key():
    x = torch.arange(6.0).reshape(2, 3)
    assert key_of(x.T.contiguous().T) == key_of(x)
    assert key_of(x.clone().requires_grad_()) == key_of(x)


@given(a=arrays, dtype=st.sampled_from([torch.float32, torch.float64, torch.int64, torch.bool]))
def test_an_array_has_the_key_of_the_tensor_it_shares_its_memory_with(a, dtype):
    tensor = torch.tensor(a).nan_to_num().to(dtype)
    assert array_key(tensor.numpy()) == key_of(tensor)


def test_array_in_another_byte_order_or_layout_has_no_quick_key():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert array_key(x.astype(">f4")) is None
    assert array_key(x.T) is None


def test_views_that_are_negated_or_conjugated_have_keys_of_their_values():
    x = torch.tensor([1 + 2j, 3 - 1j])
    assert key_of(x.conj()) == key_of(x.conj().resolve_conj())
    assert key_of(x.conj().imag) == key_of((-x.imag).clone())


# ── entries ─────────────────────────────────────────────────────────────────────────────────


def keep(cache, key, answer):
    computation = Computation()
    assert cache.begin(key, computation) is None
    cache.end(key, computation, answer)


def test_least_recently_used_answer_goes_first():
    cache = AnswerCache(2)
    keep(cache, b"a", "a")
    keep(cache, b"b", "b")
    assert cache.get(b"a") == "a"
    keep(cache, b"c", "c")
    assert cache.get_many([b"a", b"b", b"c"]) == {b"a": "a", b"c": "c"}
    assert cache.stats() == {
        "hits": 3,
        "misses": 4,
        "hit_rate": 3 / 7,
        "size": 2,
        "max_size": 2,
        "evictions": 1,
    }


def test_answer_is_computed_anew_once_its_time_is_over():
    clock = ManualClock()
    cache = AnswerCache(2, ttl_s=10.0, now_s=clock.monotonic_s)
    keep(cache, b"a", "a")
    clock.advance(9.9)
    assert cache.get(b"a") == "a"
    clock.advance(0.2)
    assert cache.get_many([b"a"]) == {}
    keep(cache, b"a", "anew")
    assert cache.get(b"a") == "anew"
    assert cache.renewed().stats()["size"] == 0


def test_answer_computed_among_others_is_not_given_where_one_alone_is_asked_for():
    cache = AnswerCache(4)
    cache.put_many({b"a": "among"})
    assert cache.get_many([b"a"]) == {b"a": "among"}
    assert cache.get_many([b"a"], alone=True) == {}
    keep(cache, b"a", "alone")
    cache.put_many({b"a": "among"})
    assert cache.get(b"a") == "alone"


def asking(cache, key, answers, *, computes=None):
    """A thread that asks for an answer, and computes it where that falls to it."""

    def ask():
        computation = Computation()
        answer = cache.begin(key, computation)
        if answer is None:
            answer = computes
            cache.end(key, computation, answer)
        answers.append(answer)

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def waited_for(computation):
    while computation.is_over is None:
        pass


def test_one_thread_computes_and_the_others_wait_for_its_answer():
    cache, computation, answers = AnswerCache(4), Computation(), []
    assert cache.begin(b"a", computation) is None
    threads = [asking(cache, b"a", answers) for _ in range(4)]
    waited_for(computation)
    cache.end(b"a", computation, "a")
    for thread in threads:
        thread.join(10)
    assert answers == ["a"] * 4
    assert cache.stats()["misses"] == 1
    assert cache.stats()["hits"] == 4


def test_where_the_first_fails_another_computes():
    cache, computation, answers = AnswerCache(4), Computation(), []
    assert cache.begin(b"a", computation) is None
    threads = [asking(cache, b"a", answers, computes="second") for _ in range(3)]
    waited_for(computation)
    cache.end(b"a", computation, None)
    for thread in threads:
        thread.join(10)
    assert answers == ["second"] * 3


def test_thread_that_asks_for_what_it_computes_is_told_instead_of_waiting_for_ever():
    cache, computation = AnswerCache(4), Computation()
    assert cache.begin(b"a", computation) is None
    with pytest.raises(ConflictError, match="is computing"):
        cache.begin(b"a", Computation())
    cache.end(b"a", computation, "a")


def test_what_is_computed_while_the_cache_is_cleared_is_not_kept():
    cache, old, new = AnswerCache(4), Computation(), Computation()
    assert cache.begin(b"a", old) is None
    cache.clear()
    assert cache.begin(b"a", new) is None  # nobody is given the old answer any more
    cache.end(b"a", old, "old")
    assert cache.get(b"a") is None
    cache.end(b"a", new, "new")
    assert cache.get(b"a") == "new"


def test_ending_what_never_began_changes_nothing():
    cache = AnswerCache(4)
    cache.end(b"a", Computation(), "a")
    assert cache.get(b"a") is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_child_of_a_fork_does_not_wait_for_what_its_parent_computes():
    cache = AnswerCache(4)
    assert cache.begin(b"a", Computation()) is None
    with cache._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if cache.begin(b"a", Computation()) is None else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("max_size", [1, 3])
def test_never_more_answers_than_it_may_hold(max_size):
    cache = AnswerCache(max_size)
    cache.put_many({bytes([i]): i for i in range(10)})
    assert cache.stats()["size"] == max_size
    assert cache.stats()["evictions"] == 10 - max_size
    cache.clear()
    assert cache.stats()["size"] == 0
