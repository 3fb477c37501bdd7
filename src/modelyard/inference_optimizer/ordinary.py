"""Which tensors are one block of numbers, as an array is, and which are something else."""

import functools
from typing import Any

import torch

from modelyard.torchtools.inputs import Inputs, tensors_of

_FEW = 3  # tensors that are told one by one


def is_ordinary(tensor: torch.Tensor) -> bool:
    """Whether it can be cut, joined and hashed: it is not sparse, nested or quantized."""
    return tensor.layout is torch.strided and not tensor.is_nested and not tensor.is_quantized


def are_ordinary(inputs: Inputs) -> bool:
    """Whether all its tensors are."""
    if isinstance(inputs, torch.Tensor):
        return is_ordinary(inputs)
    return all(map(is_ordinary, tensors_of(inputs)))


@functools.cache
def has_array_type(dtype: torch.dtype) -> bool:
    """Whether NumPy has this type of number."""
    try:
        torch.empty(0, dtype=dtype).numpy()
    except (TypeError, RuntimeError):
        return False
    return True


def told(tensor: Any) -> str:
    """Shape and type of a tensor, in words."""
    if is_ordinary(tensor):
        return f"{tuple(tensor.shape)} {tensor.dtype}"
    kind = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
    return f"{kind} {tensor.dtype} of {tensor.size(0) if tensor.ndim else 1}"


def told_of(inputs: Inputs) -> str:
    """Shapes and types of an input's tensors, in words."""
    tensors = [told(tensor) for tensor in tensors_of(inputs)]
    if not isinstance(inputs, tuple) or len(tensors) <= _FEW or len(set(tensors)) > 1:
        return ", ".join(tensors)
    return (
        f"{len(tensors)} tensors of {tensors[0]}: a list or tuple is several arguments of one "
        "call, torch.cat makes a batch of samples"
    )
