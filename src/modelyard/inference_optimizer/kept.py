"""Answers as the cache keeps them, and as callers get them.

An answer of one tensor is kept as an array, whose copy costs a fraction of a tensor's; any other
is kept as the nested tensors it is.
"""

from typing import Any

import numpy as np
import torch

from modelyard.inference_optimizer.answers import given_back, parts_of, to_array
from modelyard.inference_optimizer.ordinary import has_array_type, is_ordinary, told
from modelyard.torchtools.inputs import Inputs
from modelyard.torchtools.parity import map_tensors

# What nobody can change.
_FIXED = (bool, int, float, complex, str, bytes, np.generic, torch.dtype, torch.device)


def kept(answer: Any) -> Any | None:
    """A copy of a module's answer, for the cache; None where it cannot be kept."""
    if isinstance(answer, torch.Tensor) and is_ordinary(answer) and has_array_type(answer.dtype):
        try:
            return answer.numpy().copy()
        except (RuntimeError, TypeError):  # on a GPU, or a view that is conjugated
            return to_array(answer)
    if reason_not_to_keep(answer):
        return None
    return map_tensors(answer, lambda tensor: tensor.detach().clone())


def reason_not_to_keep(answer: Any) -> str:
    """Why a copy of this answer would not be safe from its callers; empty where it is."""
    if isinstance(answer, np.ndarray):  # arrays in the cache stand for tensors
        return "answers with an array"
    for part in parts_of(answer):
        if not _is_copied(part):
            kind = told(part) if isinstance(part, torch.Tensor) else f"a {type(part).__name__}"
            return f"answers with {kind}, which cannot be kept"
    return ""


def _is_copied(part: Any) -> bool:
    """Whether a copy of it shares nothing that anyone can change."""
    if isinstance(part, torch.Tensor):
        return is_ordinary(part)
    if isinstance(part, np.ndarray):
        return not part.dtype.hasobject
    return isinstance(part, _FIXED)


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
    """Each sample's part of an answer to `n`, for the cache; None for each that is not kept."""
    return [
        kept(map_tensors(answer, lambda tensor, i=i: tensor[i : i + 1]))  # type: ignore[misc]  # defaults bind now
        for i in range(n)
    ]
