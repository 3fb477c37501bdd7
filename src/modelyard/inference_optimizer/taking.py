"""What callers give, as tensors that fit the model."""

from typing import Any

import torch

from modelyard._core.errors import InputError
from modelyard.inference_optimizer.serving import Serving
from modelyard.torchtools.inputs import Inputs, as_inputs, mapped
from modelyard.torchtools.signature import check_input


def taken(x: Any, serving: Serving) -> tuple[Inputs, bool]:
    """`x` as tensors that fit the model's signature, and whether it came as arrays.

    Raises:
        InputError: It holds neither tensors nor arrays, or does not fit.
    """
    try:
        inputs, is_array = _as_tensors(x, serving)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"An input is a tensor, an array, or a tuple or dict of them; got "
            f"{type(x).__name__}: {error}"
        ) from error
    if serving.signature is not None:
        check_input(serving.signature, inputs)
    return inputs, is_array


def _as_tensors(x: Any, serving: Serving) -> tuple[Inputs, bool]:
    if isinstance(x, torch.Tensor):
        return x, False
    inputs = as_inputs(x)
    if isinstance(inputs, dict) and not inputs:
        raise InputError("An input needs at least one tensor or array, got an empty dict.")
    parts = x.values() if isinstance(x, dict) else x if isinstance(x, tuple | list) else [x]
    if any(isinstance(part, torch.Tensor) for part in parts):
        return inputs, False
    wanted = serving.float_dtype
    if wanted is None:
        return inputs, True
    return mapped(inputs, lambda t: t.to(wanted) if t.is_floating_point() else t), True
