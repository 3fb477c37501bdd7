"""Answers as the cache keeps them, and as callers get them.

An answer of one tensor is kept as an array, whose copy costs a fraction of a tensor's; any other
is kept as the nested tensors it is.
"""

from typing import Any

import numpy as np
import torch

from modelyard.inference_optimizer.answers import given_back, to_array
from modelyard.torchtools.inputs import Inputs
from modelyard.torchtools.parity import map_tensors

_HAS_NO_ARRAY = frozenset({torch.bfloat16})


def kept(answer: Any) -> Any:
    """A copy of an answer, for the cache."""
    if isinstance(answer, np.ndarray):
        return answer.copy()
    if isinstance(answer, torch.Tensor) and answer.dtype not in _HAS_NO_ARRAY:
        try:
            return answer.numpy().copy()
        except (RuntimeError, TypeError):  # on a GPU, or a view that is conjugated
            return to_array(answer.resolve_conj().resolve_neg())
    return map_tensors(answer, lambda tensor: tensor.detach().clone())


def from_kept(answer: Any, inputs: Inputs, *, as_arrays: bool) -> Any:
    """A copy of a kept answer, for a caller who gave `inputs`."""
    if isinstance(answer, np.ndarray):
        copied = answer.copy()
        if as_arrays:
            return copied
        return torch.from_numpy(copied)  # inputs on a GPU have no key, so nothing is kept for them
    return given_back(answer, inputs, as_arrays=as_arrays)


def as_tensors(answer: Any) -> Any:
    """A kept answer as tensors that share its memory."""
    return torch.from_numpy(answer) if isinstance(answer, np.ndarray) else answer


def kept_rows(answer: Any, n: int) -> list[Any]:
    """Each sample's part of an answer to `n`, for the cache."""
    return [
        kept(map_tensors(answer, lambda tensor, i=i: tensor[i : i + 1]))  # type: ignore[misc]  # defaults bind now
        for i in range(n)
    ]
