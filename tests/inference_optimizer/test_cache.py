"""The cache's key: equal for equal bits alone."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from modelyard.inference_optimizer.cache import AnswerCache, key_of

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


def test_least_recently_used_answer_goes_first():
    cache = AnswerCache(2)
    for key in (b"a", b"b"):
        cache.put(key, key)
    assert cache.get(b"a") == b"a"
    cache.put(b"c", b"c")
    assert cache.get(b"b") is None
    assert cache.get(b"a") == b"a"
    assert cache.stats()["evictions"] == 1
