"""Keys of inputs: equal for equal bits alone."""

from collections.abc import Hashable
from typing import Any

import numpy as np
import torch
import xxhash

from modelyard.inference_optimizer.answers import sample_of
from modelyard.inference_optimizer.ordinary import has_array_type, is_ordinary
from modelyard.torchtools.inputs import Inputs, tensors_of

Key = Hashable

# Types of numbers that an array and a tensor can both hold, by the letter NumPy has for them.
_LETTERS = {
    torch.float64: "d",
    torch.float32: "f",
    torch.float16: "e",
    torch.int64: "l",
    torch.int32: "i",
    torch.int16: "h",
    torch.int8: "b",
    torch.uint8: "B",
    torch.bool: "?",
}
_digest = xxhash.xxh3_128_digest


def array_key(array: np.ndarray[Any, Any]) -> Key | None:
    """The key of one array; None if it is not contiguous, or not in the machine's byte order.

    A 128-bit hash of the bytes, so that NaN and -0.0 are told apart by their bits, with shape and
    type beside it.
    """
    dtype = array.dtype
    if not dtype.isnative:
        return None
    try:
        return (_digest(array), array.shape, dtype.char)  # type: ignore[arg-type]  # takes any buffer
    except ValueError:
        return None


def key_of(inputs: Inputs) -> Key | None:
    """The key of any input; None for what cannot be hashed cheaply, as on a GPU or if sparse."""
    if isinstance(inputs, torch.Tensor):
        return _tensor_key(inputs)
    keys = tuple(_tensor_key(tensor) for tensor in tensors_of(inputs))
    if None in keys:
        return None
    return (tuple(inputs) if isinstance(inputs, dict) else (), keys)


def _tensor_key(tensor: torch.Tensor) -> Key | None:
    if tensor.device.type != "cpu" or not is_ordinary(tensor):
        return None
    plain = tensor.detach().contiguous().resolve_conj().resolve_neg()
    letter = _LETTERS.get(plain.dtype, str(plain.dtype))
    data = plain.reshape(-1).view(torch.uint8).numpy()
    return (_digest(data), tuple(plain.shape), letter)  # type: ignore[arg-type]  # takes any buffer


def keys_of_samples(inputs: Inputs, n: int) -> list[Key] | None:
    """Keys as `predict` has them of each sample alone; None if there are none."""
    if isinstance(inputs, torch.Tensor) and inputs.is_cpu:
        plain = inputs.detach().contiguous().resolve_conj().resolve_neg()
        if has_array_type(plain.dtype):
            array = plain.numpy()
            keys = [array_key(array[i : i + 1]) for i in range(n)]
            return None if None in keys else keys
    keys = [key_of(sample_of(inputs, i)) for i in range(n)]
    return None if None in keys else keys
