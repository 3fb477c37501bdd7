"""Copies of what callers give, for the time after they have it back."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def own_copy(x: Any) -> Any:
    """An input with memory of its own, else as it was given: of the same types and in one order.

    Whatever is neither array nor tensor, nor holds any, is left as it is: what it may be is told
    when it is taken as an input.
    """
    if isinstance(x, np.ndarray):
        return x.copy()
    if isinstance(x, torch.Tensor):
        return x.detach().clone()
    if isinstance(x, Mapping):
        return {name: own_copy(item) for name, item in x.items()}
    if isinstance(x, tuple | list):
        items = [own_copy(item) for item in x]
        return items if isinstance(x, list) else tuple(items)
    return x
