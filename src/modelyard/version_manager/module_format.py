"""A module as files, and back: weights in safetensors, the rest as a description.

`weights.safetensors` holds every parameter and buffer once (tied ones share an entry, buffers
that are not in the state dict are there too). `module.pt` holds the module itself with its
tensors replaced by empty ones on the meta device. `restricted` reads it, so no code runs because
a file asks for it.
"""

import copy
import functools
import io
import json
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modelyard._core.errors import InputError, IntegrityError
from modelyard.torchtools.layers import named_parts, own_tensors, unwrapped
from modelyard.version_manager import parametrized
from modelyard.version_manager.archives import archive_in
from modelyard.version_manager.placeholders import in_place_of, on_meta
from modelyard.version_manager.programs import names_in
from modelyard.version_manager.restricted import restricted_load
from modelyard.version_manager.tensor_files import can_name_entry, read_tensors, storable
from modelyard.version_manager.trust import (
    ACTIVATIONS,
    cannot_be_rebuilt,
    full_name,
    register_class,
)

_LONGEST_REPR = 200
_SMALL_BYTES = 64 << 10
# Attribute of a stored module: which of its tensors lie in the same memory as another.
_SHARED_MEMORY = "_modelyard_shared_memory"
# In the weights' metadata: the `_version` of each part that has another than 1, as JSON.
_VERSIONS = "modelyard_part_versions"
_EXTRA_STATE = "_extra_state"  # torch's name in state dicts for what get_extra_state gives


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


def storable_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer of `model` by name, each once; the model is not changed.

    Parts inside `torch.compile` or a data-parallel wrapper are told without the wrapper.

    Raises:
        InputError: A tensor of a kind that cannot be stored (quantized, sparse, lazy, on the
            meta device), or of a name that no file of weights can have.
    """
    tensors = dict(own_tensors(unwrapped(model)))
    for name in tensors:
        if not can_name_entry(name):
            raise InputError(
                f"A tensor cannot be stored under the name {name!a}: files of weights keep it "
                "for something else, or it is no text. Give the parameter or buffer another name."
            )
    return {name: storable(tensor, where=f"Tensor {name!r}") for name, tensor in tensors.items()}


def description_of(model: nn.Module) -> tuple[bytes | None, str | None]:
    """The bytes of `module.pt`, or why there can be none."""
    model = unwrapped(model)
    try:
        return _describe(model), None
    except Exception as error:  # noqa: BLE001 - pickling runs the classes' own code: anything can come
        reason = f"{type(model).__qualname__} cannot be pickled: {_culprit(model) or error}"
        return None, reason


def rebuild(
    description: Path,
    weights: Callable[[], Path],
    *,
    trusted_classes: Iterable[Any] = (),
    trust: bool = False,
) -> nn.Module:
    """The module that `storable_tensors` took apart.

    Args:
        description: Path of `module.pt`.
        weights: Gives the path of `weights.safetensors`; asked when the module is made.
        trusted_classes: Further classes that may be rebuilt.
        trust: Unpickle without restriction. Runs whatever code the file holds.

    Raises:
        UntrustedClassError: The description names a class that may not be used.
        IntegrityError: Weights and description do not fit each other.
    """
    if trust:
        model = torch.load(description, map_location="cpu", weights_only=False)
    else:
        model = restricted_load(description, trusted_classes=trusted_classes)
    if not isinstance(model, nn.Module):
        raise IntegrityError(f"{str(description)!r} holds a {type(model).__name__}, no nn.Module.")
    tensors, _ = read_tensors(weights())
    try:
        _fill_(model, tensors)
        parametrized.bind_(model)
        _restore_functions_(model)
    except IntegrityError:
        raise
    except Exception as error:
        raise IntegrityError(
            f"{str(description)!r} describes no module that can be put together: {error!r}"
        ) from error
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
        model = restricted_load(path, trusted_classes=trusted_classes)
    except OSError as error:
        raise InputError(f"{str(path)!r} is no file that torch.save wrote: {error}") from error
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{str(path)!r} holds a {type(model).__name__}, no nn.Module. Save the whole module "
            "with torch.save(model, path), or name a factory that makes it."
        )
    return model


def part_versions(model: nn.Module) -> dict[str, str]:
    """Metadata for the weights: which form of state dict each part's class writes now.

    A class that changes its form counts `_version` up, and is told at loading what it is given.
    """
    found = {name: part._version for name, part in named_parts(unwrapped(model))}  # noqa: SLF001 - torch's own protocol
    other = {name: value for name, value in found.items() if type(value) is int and value != 1}
    return {_VERSIONS: json.dumps(other, separators=(",", ":"))}


def state_dict_of(
    tensors: Mapping[str, torch.Tensor], model: nn.Module, metadata: Mapping[str, str]
) -> dict[str, Any]:
    """A state dict for `model` from stored tensors; tied names share one stored entry.

    Args:
        tensors: The stored weights.
        model: Where they are to go.
        metadata: That of the weights; without the versions of the parts those of now are taken.

    Raises:
        InputError: `model` keeps extra state, which is not among the weights.
    """
    wanted = model.state_dict(keep_vars=True)
    if any(name.rpartition(".")[2] == _EXTRA_STATE for name in wanted):
        raise InputError(
            f"{type(model).__qualname__} keeps extra state (get_extra_state), which is stored "
            "with the whole module only: load it with load_full=True."
        )
    own = dict(own_tensors(model))
    # Which of its names a tied tensor was stored under depends on the order in its first class.
    stored = {
        id(tensor): name for name, tensor in (*wanted.items(), *own.items()) if name in tensors
    }
    state = {}
    for name, tensor in wanted.items():
        source = name if name in tensors else stored.get(id(tensor))
        if source is not None:
            state[name] = tensors[source]
    known = {*state, *stored.values(), *(own.keys() - wanted.keys())}
    whole = OrderedDict({**state, **{n: tensors[n] for n in tensors if n not in known}})
    told = _versions_of(model, metadata)
    whole._metadata = told  # type: ignore[attr-defined]  # noqa: SLF001 - where torch looks
    return whole


def _versions_of(model: nn.Module, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What torch tells each part of the state dict it is given, by the part's name."""
    stored = _versions_in(metadata[_VERSIONS]) if _VERSIONS in metadata else None
    stored_as = {id(part): name for name, part in named_parts(model)}
    return {
        name: {
            "version": part._version  # noqa: SLF001 - as above
            if stored is None
            else stored.get(stored_as.get(id(part), name), 1)
        }
        for name, part in model.named_modules(remove_duplicate=False)
    }


def _versions_in(text: str) -> dict[str, int]:
    try:
        versions = json.loads(text)
        return {name: value for name, value in versions.items() if type(value) is int}
    except (ValueError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"The weights' {_VERSIONS} cannot be read: {error}") from error


def take_unlisted_buffers_(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give buffers that are in no state dict (`persistent=False`) their stored values."""
    unlisted = dict(own_tensors(model)).keys() - model.state_dict().keys()
    for name, tensor in own_tensors(model):
        if name in unlisted and name in tensors:
            tensor.data = tensors[name]  # the same object: whatever is tied to it stays so


def _describe(model: nn.Module) -> bytes:
    memo: dict[int, Any] = {
        id(getattr(torch, name)): TorchFunction(name)
        for name in ACTIVATIONS
        if hasattr(torch, name)
    }
    for name, tensor in own_tensors(model):
        memo[id(tensor)] = on_meta(tensor, name)
    for _, module in named_parts(model):
        for value in vars(module).values():
            # torch.nn.utils.prune leaves the masked weight as a plain tensor with a history,
            # which cannot be deep-copied.
            if isinstance(value, torch.Tensor) and value.grad_fn is not None:
                memo.setdefault(id(value), value.detach().clone())
    for wrapper in reversed(list(model.modules())):  # the innermost first
        if unwrapped(wrapper) is not wrapper:
            memo[id(wrapper)] = copy.deepcopy(unwrapped(wrapper), memo)
    shell = copy.deepcopy(model, memo)
    if shared := _shared_memory(model):
        vars(shell)[_SHARED_MEMORY] = shared
    parametrized.give_back_classes_(shell)
    buffer = io.BytesIO()
    torch.save(shell, buffer)
    description = buffer.getvalue()
    # Read as it will be on loading: what would be refused then is found now.
    read = _names_of_small if len(description) <= _SMALL_BYTES else _names_of
    names = read(description)
    if calls := cannot_be_rebuilt(names):
        raise ValueError(f"something in it would be rebuilt by calling {', '.join(calls)}")
    _vouch_for_own(model, names)
    return description


def _names_of(description: bytes) -> list[str]:
    return names_in(archive_in(description))


# While a model is trained, its versions have the same description.
_names_of_small = functools.lru_cache(maxsize=8)(_names_of)


def _restore_functions_(model: nn.Module) -> None:
    for _, module in named_parts(model):
        for name, value in vars(module).items():
            if isinstance(value, TorchFunction):
                vars(module)[name] = value.resolve()


def _vouch_for_own(model: nn.Module, names: Iterable[str]) -> None:
    """Whoever saves a module owns its classes: this process may rebuild it."""
    wanted = set(names)
    for _, part in named_parts(model):
        for cls in (parametrized.class_of(part), *map(type, vars(part).values())):
            if f"{cls.__module__}.{cls.__qualname__}" in wanted:
                register_class(cls)


def _shared_memory(model: nn.Module) -> dict[str, str]:
    """Names of tensors that are views of the whole of another, with the other's name.

    `decoder.weight.data = encoder.weight.data` ties two parameters that are two objects.
    """
    first: dict[Any, str] = {}
    shared = {}
    for name, tensor in own_tensors(model):
        if tensor.numel():
            place = tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
            if (other := first.setdefault(place, name)) != name:
                shared[name] = other
    return shared


def _culprit(model: nn.Module) -> str | None:
    """The first attribute that pickle cannot take, in words; None if each alone can be."""
    for prefix, module in named_parts(model):
        cls = parametrized.class_of(module)
        if not _pickles(cls):
            place = f"{prefix!r} is" if prefix else "it is"
            return f"{place} of the class {full_name(cls)}, which cannot be found by that name"
        for name, value in vars(module).items():
            if name not in {"_parameters", "_buffers", "_modules"} and not _pickles(value):
                place = f"{prefix}.{name}" if prefix else name
                return f"its attribute {place!r} holds {_shortened(repr(value))}"
    return None


def _pickles(value: Any) -> bool:
    try:
        pickle.dumps(value)
    except Exception:  # noqa: BLE001 - runs the values' own code: anything can come
        return False
    return True


def _fill_(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put stored tensors where the description has empty ones; tied places stay tied."""
    shared = vars(model).pop(_SHARED_MEMORY, {})
    if not all(type(name) is str for name in shared.values()):
        raise IntegrityError("The module description names tensors by something other than text.")
    empties = dict(own_tensors(model))
    if empties.keys() != tensors.keys():
        odd = sorted(empties.keys() ^ tensors.keys())[:5]
        raise IntegrityError(f"Weights and module description differ in: {', '.join(odd)}.")
    laid_out: dict[str, torch.Tensor] = {}
    unmoved = {}
    for name, empty in empties.items():
        source = shared.get(name, name)
        _check_alike(name, tensors[source], empty)
        if source not in laid_out:
            laid_out[source] = _laid_out(tensors[source], empty.stride())
        value = in_place_of(empty, laid_out[source])
        try:
            # Whatever refers to the empty tensor, in whatever object, has the real one then.
            torch.utils.swap_tensors(empty, value)
        except RuntimeError:
            # Recurrent layers keep weak references. They look their weights up in the tables
            # again before each call.
            unmoved[id(empty)] = value
    for _, module in named_parts(model):
        # Registering anew would change the order of names.
        tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)  # noqa: SLF001
        for table in tables:
            table.update({n: unmoved[id(t)] for n, t in table.items() if id(t) in unmoved})


def _check_alike(name: str, stored: torch.Tensor, empty: torch.Tensor) -> None:
    if stored.shape != empty.shape or stored.dtype != empty.dtype:
        raise IntegrityError(
            f"{name!r}: stored {tuple(stored.shape)} {stored.dtype}, "
            f"described {tuple(empty.shape)} {empty.dtype}."
        )


def _laid_out(tensor: torch.Tensor, strides: tuple[int, ...]) -> torch.Tensor:
    """`tensor` with its dimensions in memory in the order of `strides`, if they are dense."""
    if tensor.stride() == strides:
        return tensor
    order = sorted(range(tensor.ndim), key=lambda dimension: -strides[dimension])
    back = sorted(range(tensor.ndim), key=lambda position: order[position])
    moved = tensor.permute(order).contiguous().permute(back)
    return moved if moved.stride() == strides else tensor


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_REPR else f"{text[:_LONGEST_REPR]}..."
