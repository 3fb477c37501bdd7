"""Where a module came from, for whoever is handed it next: an exporter writes it into its file.

A module that was trained on, or changed in any other way, is another one. What was noted is told
only of a module made of the same parts with the same values as those that are stored.
"""

import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from modelyard.torchtools.layers import named_parts, own_tensors

_lock = threading.Lock()  # guards _noted
_noted: weakref.WeakKeyDictionary[nn.Module, "_Origin"] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class _Origin:
    """What is known of a module: facts, its parts, and a way to its stored tensors."""

    facts: Mapping[str, Any]
    parts: list[tuple[str, type, str]]
    stored: Callable[[], Mapping[str, torch.Tensor]]


def note_provenance(
    model: nn.Module,
    facts: Mapping[str, Any],
    stored: Callable[[], Mapping[str, torch.Tensor]],
) -> None:
    """Remember that `model` is a stored version.

    Args:
        model: The module as it was loaded.
        facts: What is known of the version.
        stored: Gives the stored tensors by the names of `own_tensors`.
    """
    with _lock:
        _noted[model] = _Origin(dict(facts), _parts_of(model), stored)


def noted_provenance(model: nn.Module) -> Mapping[str, Any]:
    """What was noted of `model`; empty for one that came from nowhere known, or has changed."""
    with _lock:
        origin = _noted.get(model)
    if origin is None or origin.parts != _parts_of(model):
        return {}
    try:
        stored = origin.stored()
    except OSError:  # the version is gone, or its copy here is
        return {}
    now = dict(own_tensors(model))
    is_same = now.keys() <= stored.keys() and all(
        _are_equal(tensor, stored[name]) for name, tensor in now.items()
    )
    return origin.facts if is_same else {}


def _parts_of(model: nn.Module) -> list[tuple[str, type, str]]:
    return [(name, type(part), part.extra_repr()) for name, part in named_parts(model)]


def _are_equal(tensor: torch.Tensor, stored: torch.Tensor) -> bool:
    """Whether both hold the same bytes."""
    here = tensor.detach().cpu()
    if here.dtype != stored.dtype or here.shape != stored.shape:
        return False
    here, stored = here.contiguous().reshape(-1), stored.contiguous().reshape(-1)
    return torch.equal(here.view(torch.uint8), stored.view(torch.uint8))
