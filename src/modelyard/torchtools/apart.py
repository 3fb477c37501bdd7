"""A module to try things on, so that the one in use does not notice."""

import copy
from collections import OrderedDict, defaultdict, deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from modelyard.torchtools.conversion.preserving import Contents
from modelyard.torchtools.onnx_module import OnnxModule

# A larger one that nothing can be written into but itself, as a vocabulary, is copied without its
# items, which would take a second.
_MOST_ITEMS = 1000
_VALUES = (str, bytes, int, float, complex, type(None), np.generic)
_CONTAINERS = (dict, list, set, deque, OrderedDict, defaultdict)
# Copying takes them as they are.
_ATOMS = (type, ModuleType, FunctionType, BuiltinFunctionType)


@contextmanager
def apart(model: nn.Module, *, has_own_weights: bool = False) -> Iterator[nn.Module]:
    """A copy that shares the weights and has buffers and attributes of its own.

    Numbers and text in containers of more than a thousand, a vocabulary say, and arrays that may
    only be read, are shared too.

    Tracing, and inputs that no caller sent, leave their marks in a module: masks and tables that
    it keeps, running statistics, a state that carries NaN on.

    A module that cannot be copied is given itself, and is put back afterwards as it was. One that
    keeps nothing, `OnnxModule`, is given too.

    Args:
        model: The module.
        has_own_weights: Copy the weights too, if there is memory for them: forward may write into
            them.
    """
    if isinstance(model, OnnxModule):
        yield model
        return
    weights = list(model.parameters())
    # A lazy one has no values to keep, and is made by whoever runs the module first.
    own = [weight for weight in weights if has_own_weights and not is_lazy(weight)]
    shared = [weight for weight in weights if not has_own_weights or is_lazy(weight)]
    try:
        duplicate = _copied(model, shared)
    except torch.OutOfMemoryError:
        # Better than not to serve at all: few write into their weights.
        duplicate, own = sharing_copy(model), []
    if duplicate is not None:
        yield duplicate
        return
    contents = Contents(model)
    values = [weight.detach().clone() for weight in own]
    try:
        yield model
    finally:
        contents.put_back()
        with torch.inference_mode():  # in which weights may have been made
            for weight, value in zip(own, values, strict=True):
                # Who is training with it would be told of a write that was none.
                if value.layout is not torch.strided or not torch.equal(weight, value):
                    weight.copy_(value)


def sharing_copy(model: nn.Module) -> nn.Module | None:
    """A copy with the very same parameters; None where the module cannot be copied."""
    try:
        return _copied(model, model.parameters())
    except torch.OutOfMemoryError:
        return None


def _copied(model: nn.Module, shared: Iterable[torch.Tensor]) -> nn.Module | None:
    """A copy with these very tensors, and with what is in large containers."""
    if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
        return None
    try:
        known: dict[int, Any] = {id(tensor): tensor for tensor in shared}
        seen: set[int] = set()
        for part in model.modules():
            if isinstance(part, OnnxModule):
                known[id(part)] = part  # it keeps nothing, and a session takes long to make
            else:
                _settle(vars(part), known, seen)
        return copy.deepcopy(model, known)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # noqa: BLE001 - whatever a class's own copying raises
        return None


def _settle(value: Any, known: dict[int, Any], seen: set[int]) -> None:
    """Note in `known` what stands in the copy for those parts that `deepcopy` is not to copy."""
    if id(value) in known or id(value) in seen or isinstance(value, nn.Module):
        return
    seen.add(id(value))
    if isinstance(value, torch.Tensor):
        if not value.is_leaf:
            known[id(value)] = value  # recomputed: with its history it cannot be copied
        elif value.layout is not torch.strided:
            known[id(value)] = value.clone()  # in some layouts it cannot either
    elif isinstance(value, np.ndarray):
        if not value.flags.writeable and not value.dtype.hasobject:
            known[id(value)] = value
    elif _is_data(value):
        known[id(value)] = copy.copy(value)
    else:
        for item in _items_of(value):
            _settle(item, known, seen)


def _is_data(value: Any) -> bool:
    """Whether it is a large container of numbers and text, which nobody can write into."""
    if type(value) not in _CONTAINERS or len(value) <= _MOST_ITEMS:
        return False
    return _are_values(value.values() if isinstance(value, dict) else value)


def _are_values(items: Collection[Any]) -> bool:
    kinds = set(map(type, items))
    if not all(issubclass(kind, (*_VALUES, tuple)) for kind in kinds):
        return False
    if not any(issubclass(kind, tuple) for kind in kinds):
        return True
    inner = {id(item): item for each in items if isinstance(each, tuple) for item in each}
    return _are_values(inner.values())


def _items_of(value: Any) -> Iterable[Any]:
    """What `deepcopy` would go on to from here."""
    if isinstance(value, dict):
        return value.values()
    if isinstance(value, list | tuple | set | deque):
        return value
    return () if isinstance(value, _ATOMS) else getattr(value, "__dict__", {}).values()
