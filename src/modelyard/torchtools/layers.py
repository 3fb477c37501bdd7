"""What a module is made of: its tensors, its size, the module inside a wrapper."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import xxhash
from torch import nn

from modelyard._core.errors import InputError

MB = 1_000_000


def unwrapped(model: nn.Module) -> nn.Module:
    """The module that `torch.compile` or a (distributed) data-parallel wrapper holds.

    Raises:
        InputError: `model` is no module, but a state dict, say.
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"Expected an nn.Module, got a {type(model).__name__}. "
            "Load a state dict into its module first."
        )
    while (inner := _inside(model)) is not None:
        model = inner
    return model


def _inside(model: nn.Module) -> nn.Module | None:
    # Not getattr: an attribute could lead around in a circle.
    if isinstance(model, torch.jit.ScriptModule):
        return None
    parts = model._modules  # noqa: SLF001
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return parts.get("module")
    return parts.get("_orig_mod") if _is_compiled(model) else None


def _is_compiled(model: nn.Module) -> bool:
    # Not imported: that takes a second, and whoever has compiled a module has done it.
    home = sys.modules.get("torch._dynamo.eval_frame")
    return home is not None and isinstance(model, home.OptimizedModule)


def named_parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The module and all below it by full name, each once, as if no part were in a wrapper.

    Names and order are those of `named_modules` of the same model before parts of it went
    through `torch.compile` or into a data-parallel wrapper.
    """
    seen: set[int] = set()
    # A stack, not recursion: how deep modules nest is up to whoever made the model.
    ahead = [("", model)]
    while ahead:
        prefix, wrapped = ahead.pop()
        module = unwrapped(wrapped)
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield prefix, module
        inner = module._modules.items()  # noqa: SLF001 - named_children leaves out repeats
        below = [(_joined(prefix, name), part) for name, part in inner if part is not None]
        ahead += reversed(below)


def _joined(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; afterwards every submodule is in the mode it was in.

    `model.train(was_training)` would not do: it puts a frozen part of a training model in train
    mode too.
    """
    modes = [(module, module.training) for model in models for module in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for module, was_training in modes:
            module.training = was_training


def own_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters and buffers by full name, non-persistent buffers too, each tensor once.

    Names are those of the model without wrappers (see `named_parts`).
    """
    seen: set[int] = set()
    for prefix, module in named_parts(model):
        # The public iterators give a tied tensor one of its names, not always the same.
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)  # noqa: SLF001
        for table in tables:
            for name, tensor in table.items():
                if tensor is None or id(tensor) in seen:
                    continue
                seen.add(id(tensor))
                yield _joined(prefix, name), tensor


def size_bytes(model: nn.Module) -> int:
    """Bytes of the weights: parameters and buffers, tied ones once."""
    return sum(tensor.numel() * tensor.element_size() for _, tensor in own_tensors(model))


def state_hash(model: nn.Module) -> str:
    """A digest of the module's parts, their plain attributes, and every parameter and buffer."""
    digest = xxhash.xxh3_128(repr(model).encode())
    for name, part in named_parts(model):
        plain = {
            key: value
            for key, value in vars(part).items()
            if key != "training" and isinstance(value, bool | int | float | str | tuple)
        }
        digest.update(f"{name}{plain}".encode())
    for name, tensor in own_tensors(model):
        here = tensor.detach().cpu().contiguous()
        digest.update(f"{name}{here.dtype}{tuple(here.shape)}".encode())
        digest.update(here.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def size_mb(model: nn.Module) -> float:
    """`size_bytes` in MB of 10^6 bytes."""
    return size_bytes(model) / MB


def n_parameters(model: nn.Module) -> int:
    """Number of parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())
