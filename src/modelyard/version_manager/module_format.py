"""A module as files, and back: weights in safetensors, the rest as a description.

`weights.safetensors` holds every parameter and buffer once (tied ones share an entry, buffers
that are not in the state dict are there too). `module.pt` holds the module itself with its
tensors replaced by empty ones on the meta device. It is read by torch's restricted unpickler
with the classes of `trust.allowed_globals`, so no code runs because a file asks for it.
"""

import copy
import io
import json
import pickle
import struct
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from modelyard._core.errors import InputError, IntegrityError, UntrustedClassError
from modelyard.storage import HashingWriter
from modelyard.torchtools.layers import own_tensors
from modelyard.version_manager.trust import ACTIVATIONS, allowed_globals, register_class

_restricted_loading = threading.Lock()

# dtype names of the safetensors format, version 0.4 and later.
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}


@dataclass(frozen=True)
class TorchFunction:
    """Stands for a built-in such as `torch.tanh` in a stored module.

    pickle would store those as a call of `getattr`, which no restricted unpickler may allow.
    """

    name: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function; where a module keeps it deeper than in an attribute."""
        return self.resolve()(*args, **kwargs)

    def resolve(self) -> Callable[..., Any]:
        """The function itself."""
        if self.name not in ACTIVATIONS:
            raise IntegrityError(f"A stored module names the unknown function {self.name!r}.")
        function: Callable[..., Any] = getattr(torch, self.name)
        return function


@dataclass(frozen=True)
class ModuleFiles:
    """A module ready to be stored.

    Attributes:
        tensors: Every parameter and buffer by name, each once.
        description: The bytes of `module.pt`, or None if the module cannot be rebuilt whole.
        reason: Why it cannot, if so.
    """

    tensors: dict[str, torch.Tensor]
    description: bytes | None
    reason: str | None


def to_files(model: nn.Module) -> ModuleFiles:
    """Take `model` apart; it is not changed.

    Raises:
        InputError: A tensor of a kind that cannot be stored (quantized, sparse, lazy).
    """
    tensors = {name: _storable(name, tensor) for name, tensor in own_tensors(model)}
    try:
        description = _describe(model)
    except Exception as error:  # noqa: BLE001 - pickling runs the classes' own code: anything can come
        return ModuleFiles(tensors, None, f"{type(model).__qualname__} cannot be pickled: {error}")
    return ModuleFiles(tensors, description, None)


def write_tensors(
    tensors: Mapping[str, torch.Tensor], *, metadata: Mapping[str, str] | None = None
) -> Callable[[HashingWriter], None]:
    """A function that streams `tensors` in safetensors form to a writer, without a second copy."""

    def fill(file: HashingWriter) -> None:
        header = _header(tensors, metadata or {})
        file.write(struct.pack("<Q", len(header)))
        file.write(header)
        for tensor in tensors.values():
            plain = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            file.write(plain.numpy().data)

    return fill


def read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file (memory-mapped, private)."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
        return safetensors.torch.load_file(path), metadata
    except safetensors.SafetensorError as error:
        raise IntegrityError(f"{str(path)!r} is no safetensors file: {error}") from error


def rebuild(
    description: Path,
    weights: Path,
    *,
    trusted_classes: Iterable[Any] = (),
    trust: bool = False,
) -> nn.Module:
    """The module that `to_files` took apart.

    Args:
        description: Path of `module.pt`.
        weights: Path of `weights.safetensors`.
        trusted_classes: Further classes that may be rebuilt.
        trust: Unpickle without restriction. Runs whatever code the file holds.

    Raises:
        UntrustedClassError: The description names a class that may not be used.
        IntegrityError: Weights and description do not fit each other.
    """
    if trust:
        model = torch.load(description, map_location="cpu", weights_only=False)
    else:
        model = _restricted_load(description, trusted_classes)
    if not isinstance(model, nn.Module):
        raise IntegrityError(f"{str(description)!r} holds a {type(model).__name__}, no nn.Module.")
    tensors, _ = read_tensors(weights)
    _fill(model, tensors)
    _restore_functions(model)
    return model


def load_module_file(path: Path, *, trusted_classes: Iterable[Any] = ()) -> nn.Module:
    """The module in a file that `torch.save(model)` wrote, read without running code.

    Args:
        path: The file.
        trusted_classes: Further classes that may be rebuilt.

    Raises:
        InputError: No such file, or one that holds no module.
        UntrustedClassError: It is made of classes that may not be used.
    """
    try:
        model = _restricted_load(path, trusted_classes)
    except UntrustedClassError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{str(path)!r} is no file that torch.save wrote: {error}") from error
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{str(path)!r} holds a {type(model).__name__}, no nn.Module. Save the whole module "
            "with torch.save(model, path), or name a factory that makes it."
        )
    return model


def _restricted_load(description: Path, trusted_classes: Iterable[Any]) -> Any:
    # torch keeps one list of allowed names for the whole process: of two loads at once, the
    # first to end would take the names away from the other.
    with _restricted_loading:
        try:
            names = torch.serialization.get_unsafe_globals_in_checkpoint(description)
            allowed = allowed_globals(names, trusted_classes=trusted_classes)
            with torch.serialization.safe_globals(allowed):
                return torch.load(description, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise UntrustedClassError(
                f"{str(description)!r} asks for more than a module; nothing of it was run: {error}"
            ) from error


def state_dict_of(tensors: Mapping[str, torch.Tensor], model: nn.Module) -> dict[str, Any]:
    """A state dict for `model` from stored tensors; tied names share one stored entry."""
    names_by_tensor = {id(tensor): name for name, tensor in own_tensors(model)}
    state = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        stored = names_by_tensor.get(id(tensor), name)
        if name in tensors:
            state[name] = tensors[name]
        elif stored in tensors:
            state[name] = tensors[stored]
    persistent = set(model.state_dict(keep_vars=True))
    buffers = {name for name, _ in own_tensors(model)} - persistent
    extra = {name: tensors[name] for name in tensors if name not in state and name not in buffers}
    return {**state, **extra}


def _describe(model: nn.Module) -> bytes:
    memo: dict[int, Any] = {
        id(getattr(torch, name)): TorchFunction(name)
        for name in ACTIVATIONS
        if hasattr(torch, name)
    }
    for _, tensor in own_tensors(model):
        memo[id(tensor)] = _on_meta(tensor)
    for module in model.modules():
        for value in vars(module).values():
            # torch.nn.utils.prune leaves the masked weight as a plain tensor with a history,
            # which cannot be deep-copied.
            if isinstance(value, torch.Tensor) and value.grad_fn is not None:
                memo.setdefault(id(value), value.detach().clone())
    shell = copy.deepcopy(model, memo)
    buffer = io.BytesIO()
    torch.save(shell, buffer)
    buffer.seek(0)
    _vouch_for_own(model, torch.serialization.get_unsafe_globals_in_checkpoint(buffer))
    return buffer.getvalue()


def _restore_functions(model: nn.Module) -> None:
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, TorchFunction):
                vars(module)[name] = value.resolve()


def _vouch_for_own(model: nn.Module, names: Iterable[str]) -> None:
    """Whoever saves a module owns its classes: this process may rebuild it."""
    wanted = set(names)
    for part in model.modules():
        for value in (part, *vars(part).values()):
            cls = type(value)
            if f"{cls.__module__}.{cls.__qualname__}" in wanted:
                register_class(cls)


def _on_meta(tensor: torch.Tensor) -> torch.Tensor:
    empty = torch.empty_like(tensor, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


def _storable(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
        raise InputError(f"Parameter {name!r} is lazy: run the model once before saving it.")
    if tensor.dtype not in _DTYPES or tensor.layout is not torch.strided:
        raise InputError(
            f"Tensor {name!r} has dtype {tensor.dtype} and layout {tensor.layout}, which cannot "
            f"be stored. Known dtypes: {', '.join(str(d) for d in _DTYPES)}, dense."
        )
    return tensor


def _header(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode("utf-8")
    return text + b" " * (-len(text) % 8)  # the format asks for aligned data


def _fill(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Put stored tensors where the description has empty ones; tied places stay tied."""
    names = dict(own_tensors(model))
    if names.keys() != tensors.keys():
        odd = sorted(names.keys() ^ tensors.keys())[:5]
        raise IntegrityError(f"Weights and module description differ in: {', '.join(odd)}.")
    real: dict[int, torch.Tensor] = {}
    for name, empty in names.items():
        value = tensors[name]
        if value.shape != empty.shape or value.dtype != empty.dtype:
            raise IntegrityError(
                f"{name!r}: stored {tuple(value.shape)} {value.dtype}, "
                f"described {tuple(empty.shape)} {empty.dtype}."
            )
        if isinstance(empty, nn.Parameter):
            value = nn.Parameter(value, requires_grad=empty.requires_grad)
        real[id(empty)] = value
    for module in model.modules():
        # Registering anew would change the order of names.
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)  # noqa: SLF001
        for table in tables:
            for name, tensor in table.items():
                if tensor is not None:
                    table[name] = real[id(tensor)]
