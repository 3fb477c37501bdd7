"""Answers to no samples at all, which ONNX Runtime must not be asked for.

It ends the process at an LSTM or a GRU without rows, and refuses most reshapes of them.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def is_empty(feed: Mapping[str, Array]) -> bool:
    """Whether an input holds no sample: its first dimension is 0."""
    return (0,) in [array.shape[:1] for array in feed.values()]


def answers_to_none(session: Any, feed: Mapping[str, Array]) -> list[Array]:
    """A graph's answers to inputs without samples, told by its answers to one and to two zeros.

    Which of a size's parts are the batch shows in how it grows. An answer that is about all
    samples is empty nowhere: it is NaN, as a mean of nothing is, or 0 if it is a whole number.

    Args:
        session: Runs the graph.
        feed: Arrays by the names of inputs, some of them without samples.
    """
    one, two = (session.run(None, _with_zeros(feed, n)) for n in (1, 2))
    return [_of_none(a, b) for a, b in zip(one, two, strict=True)]


def _with_zeros(feed: Mapping[str, Array], n: int) -> dict[str, Array]:
    return {
        name: np.zeros((n, *array.shape[1:]), array.dtype) if array.shape[:1] == (0,) else array
        for name, array in feed.items()
    }


def _of_none(one: Array, two: Array) -> Array:
    sizes = zip(one.shape, two.shape, strict=True)
    shape = tuple(max(2 * at_one - at_two, 0) for at_one, at_two in sizes)
    return np.full(shape, math.nan if one.dtype.kind == "f" else 0, one.dtype)
