"""What a model takes: names, shapes and dtypes of its inputs."""

from collections.abc import Mapping
from typing import Any

import torch

from modelyard.version_manager.saving import checked_config


def signature_of(given: Mapping[str, Any] | None, example_input: Any) -> dict[str, Any] | None:
    """The signature that was given, or the one the example input has, or None.

    The first dimension of every input is the batch, written as null.
    """
    if given is not None:
        return checked_config(given)
    if isinstance(example_input, torch.Tensor):
        named = {"input": example_input}
    elif isinstance(example_input, Mapping):
        named = dict(example_input)
    elif isinstance(example_input, tuple | list):
        named = {f"input_{i}": item for i, item in enumerate(example_input)}
    else:
        return None
    return {"inputs": [_described(name, item) for name, item in named.items()]}


def _described(name: str, value: Any) -> dict[str, Any]:
    shape: list[int | None] = [int(size) for size in getattr(value, "shape", ())]
    if shape:
        shape[0] = None
    dtype = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
    return {"name": name, "shape": shape, "dtype": dtype}
