"""Tensors without values that hold the place of stored ones in a module's description.

What Python code notes on a tensor (`weight.no_decay = True`) goes with its stand-in, as far as it
is made of plain values.
"""

import logging
from typing import Any

import torch
from torch import nn

_logger = logging.getLogger("modelyard")


def on_meta(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """A tensor like this one without its values; `name` is for the log."""
    empty = torch.empty_like(tensor, device="meta")
    if isinstance(tensor, nn.Parameter):
        empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
    else:
        empty.requires_grad_(tensor.requires_grad and tensor.is_leaf)
    for key, value in vars(tensor).items():
        if _is_plain(value):
            vars(empty)[key] = value
        elif not key.startswith("_"):
            _logger.warning("%s.%s is not stored: it is no plain value.", name, key)
    return empty


def in_place_of(empty: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`value` as a tensor of the kind that `empty` is, with what was noted on that one."""
    if isinstance(empty, nn.Parameter):
        value = nn.Parameter(value, requires_grad=empty.requires_grad)
    else:
        value = value.detach().requires_grad_(empty.requires_grad)
    vars(value).update(vars(empty))
    return value


def _is_plain(value: Any) -> bool:
    if type(value) is dict:
        return all(type(key) is str and _is_plain(item) for key, item in value.items())
    if type(value) in {list, tuple}:
        return all(_is_plain(item) for item in value)
    return value is None or type(value) in {bool, int, float, str}
