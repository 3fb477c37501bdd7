"""A module to try things on, so that the one in use does not notice."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from modelyard.torchtools.conversion.preserving import Contents
from modelyard.torchtools.onnx_module import OnnxModule


@contextmanager
def apart(model: nn.Module) -> Iterator[nn.Module]:
    """A copy that shares the weights and has buffers and attributes of its own.

    Tracing, and inputs that no caller sent, leave their marks in a module: masks and tables that
    it keeps, running statistics, a state that carries NaN on.

    A module that cannot be copied is given itself, and is put back afterwards as it was. One that
    keeps nothing, `OnnxModule`, is given too.
    """
    if isinstance(model, OnnxModule):
        yield model
        return
    duplicate = sharing_copy(model)
    if duplicate is not None:
        yield duplicate
        return
    contents = Contents(model)
    try:
        yield model
    finally:
        contents.put_back()


def sharing_copy(model: nn.Module) -> nn.Module | None:
    """A copy with the very same parameters; None where the module cannot be copied."""
    if any(isinstance(part, torch.jit.ScriptModule) for part in model.modules()):
        return None
    shared: list[torch.Tensor] = [
        *model.parameters(),
        # A recomputed weight has a gradient history, with which it cannot be copied.
        *(
            value
            for part in model.modules()
            for value in vars(part).values()
            if isinstance(value, torch.Tensor) and not value.is_leaf
        ),
    ]
    try:
        return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
    except Exception:  # noqa: BLE001 - whatever a class's own copying raises
        return None
