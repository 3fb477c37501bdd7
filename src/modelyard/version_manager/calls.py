"""What the pickle of a module may call, and with which arguments.

Torch's restricted unpickler always allows some dozen functions. Here each that modules need has
a rule for its arguments, and the others may not be called. Names it does not know are left to
`trust`, except NumPy's, whose way of rebuilding an array can read beyond its bytes.
"""

import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import _weights_only_unpickler as unpickler

_MOST_DIMENSIONS = 64
_LARGEST_NUMBER = 2**62
_MOST_LAYERS = 10_000
# Of equal hash by construction: integers from here on have those of smaller ones.
_FIRST_REPEATED_HASH = 2**61 - 1
# Here and below tuples, not sets: what is compared with them may take forever to hash.
_LATIN_1 = ("latin1", "latin-1")
# Numbers, text, bytes and dates; not Python objects, and not fields, whose form is code's to know.
_DTYPE_CODE = re.compile(r"(b1|[iufcSUVMm]\d{1,9}|[mM]8\[[a-zA-Z]+\])", re.ASCII)
_NEEDS_INIT = 8  # the only flag that text dtypes have
_STORAGES: dict[str, torch.dtype] = {
    f"torch.{name}": dtype
    for dtype, name in torch.storage._dtype_to_storage_type_map().items()  # noqa: SLF001 - the names in files
} | {"torch.storage.UntypedStorage": torch.uint8}
_BYTES, _NO_BYTES = "_codecs.encode", "builtins.bytes"
_DTYPE, _ARRAY = "numpy.dtype", "numpy array"
_TORCH_FUNCTION = "modelyard.version_manager.module_format.TorchFunction"


@dataclass(frozen=True)
class Name:
    """Stands for a class or function that the file names."""

    full: str

    @property
    def is_known(self) -> bool:
        """Whether torch's unpickler knows it by itself."""
        return self.full in _KNOWN


@dataclass(eq=False)
class Made:
    """Stands for what a call gives.

    Attributes:
        name: What was called.
        is_built: Whether it has its state. Nothing gets a second one: the dtype of an array may
            not change under it, and a state may hold what would take the second.
        dtype_code: What a dtype was made from, such as "f4" or "U12"; else empty.
    """

    name: str
    is_built: bool = False
    dtype_code: str = ""


@dataclass(frozen=True)
class Stored:
    """Stands for the bytes of tensors, an entry of the archive."""

    size_bytes: int
    dtype: torch.dtype


_KNOWN = frozenset(unpickler._get_allowed_globals())  # noqa: SLF001 - the list has no public name


def refuse(what: str) -> pickle.UnpicklingError:
    """The error that says what of a file is not part of a module."""
    return pickle.UnpicklingError(f"it {what}, which no module needs")


def stored_for(identity: Any, sizes_bytes: Mapping[str, int]) -> Stored:
    """The storage that a file refers to.

    Raises:
        ValueError: The archive has no such entry, or one of another size.
    """
    if not (isinstance(identity, tuple) and len(identity) == 5 and identity[0] == "storage"):  # noqa: PLR2004
        raise refuse("refers to something other than the bytes of tensors")
    _, kind, key, _, n_elements = identity
    dtype = _STORAGES.get(kind.full) if isinstance(kind, Name) else None
    size_bytes = sizes_bytes.get(f"data/{key}") if isinstance(key, str) else None
    if dtype is None or type(n_elements) is not int or n_elements * dtype.itemsize != size_bytes:
        raise ValueError(
            f"its tensors want {n_elements} elements of an entry of {size_bytes} bytes"
        )
    return Stored(size_bytes, dtype)


def checked_call(function: Any, arguments: Any) -> Made:
    """What calling `function`, or making an object of it, gives.

    Raises:
        pickle.UnpicklingError: It may not be called, or not with these arguments.
    """
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise refuse("calls what is no function")
    name = function.full
    if name.startswith("numpy"):
        return _checked_numpy(name, arguments)
    rule = _RULES.get(name)
    if rule is None:
        if function.is_known or name.rpartition(".")[0] in FUNCTION_HOMES:
            raise refuse(f"calls {name}")
    elif not rule(arguments):
        raise refuse(f"calls {name} with arguments it is never called with")
    return Made(name)


def check_state(made: Any, state: Any) -> None:
    """Refuse to give `made` a state that it is never given."""
    if not isinstance(made, Made) or made.is_built:
        raise refuse("gives state to what takes none")
    made.is_built = True
    if made.name == "collections.OrderedDict":
        return
    if made.name == _DTYPE:
        is_sound = _is_dtype_state(state, made.dtype_code)
    else:
        is_sound = made.name not in _KNOWN and _STATES.get(made.name, _is_state)(state)
    if not is_sound:
        raise refuse(f"gives {made.name} a state it never has")


def is_hashable(value: Any) -> bool:
    """Whether making it a key is sure to end: no nest of tuples that takes forever to hash."""
    if isinstance(value, tuple):
        return len(value) <= _MOST_DIMENSIONS and not any(
            isinstance(item, tuple | Made) or not is_hashable(item) for item in value
        )
    if isinstance(value, Made):
        return not value.name.startswith("numpy")
    return value is None or isinstance(value, bool | int | float | str | Name)


def may_collide(key: Any) -> bool:
    """Whether a file could hold many such keys of one hash."""
    if isinstance(key, int):
        return abs(key) >= _FIRST_REPEATED_HASH
    return isinstance(key, float | tuple | Made)


def _is_number(value: Any) -> bool:
    return type(value) is int and 0 <= value < _LARGEST_NUMBER


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) <= _MOST_DIMENSIONS
        and all(_is_number(item) for item in value)
    )


def _is_bytes(value: Any) -> bool:
    return isinstance(value, Made) and value.name in {_BYTES, _NO_BYTES}


def _dtype_named(value: Any) -> torch.dtype | None:
    dtype = (
        getattr(torch, value.full.removeprefix("torch."), None)
        if isinstance(value, Name)
        else None
    )
    return dtype if isinstance(dtype, torch.dtype) else None


def _lies_within(place: tuple[Any, ...], itemsize: int) -> bool:
    """Whether a view `(storage, offset, shape, strides)` uses only bytes that there are.

    For one that does not, torch would allocate the rest.
    """
    stored, offset, shape, strides = place
    if not isinstance(stored, Stored) or not _is_number(offset):
        return False
    if not (_is_shape(shape) and _is_shape(strides) and len(shape) == len(strides)):
        return False
    last: int = sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) + 1
    end: int = offset + (0 if 0 in shape else last)
    return end * itemsize <= stored.size_bytes


def _is_view(arguments: tuple[Any, ...]) -> bool:
    """`(storage, offset, shape, strides, requires_grad, hooks[, metadata])`."""
    stored = arguments[0] if len(arguments) in {6, 7} else None
    return isinstance(stored, Stored) and _lies_within(arguments[:4], stored.dtype.itemsize)


def _is_view_of_dtype(arguments: tuple[Any, ...]) -> bool:
    """`(storage, offset, shape, strides, requires_grad, hooks, dtype[, metadata])`."""
    dtype = _dtype_named(arguments[6]) if len(arguments) in {7, 8} else None
    return dtype is not None and _lies_within(arguments[:4], dtype.itemsize)


def _is_empty(arguments: tuple[Any, ...]) -> bool:
    """`(dtype, shape, strides, requires_grad)` of a tensor on the meta device."""
    return (
        len(arguments) == 4  # noqa: PLR2004 - as the line above
        and _dtype_named(arguments[0]) is not None
        and _is_shape(arguments[1])
        and _is_shape(arguments[2])
    )


def _is_parameter(arguments: tuple[Any, ...]) -> bool:
    tensor = arguments[0] if arguments else None
    return isinstance(tensor, Made) and tensor.name in _TENSORS


def _is_tensor_with_attributes(arguments: tuple[Any, ...]) -> bool:
    """`(function, class, its arguments, attributes)`."""
    function, kind, inner, _ = arguments if len(arguments) == 4 else (None,) * 4  # noqa: PLR2004
    return (
        isinstance(function, Name)
        and function.full in _TENSORS - {_WITH_ATTRIBUTES}
        and isinstance(kind, Name)
        and kind.full in {"torch.Tensor", "torch.nn.parameter.Parameter"}
        and isinstance(inner, tuple)
        and _RULES[function.full](inner)
    )


def _is_list_of_keys(arguments: tuple[Any, ...]) -> bool:
    return not arguments or (
        len(arguments) == 1
        and isinstance(arguments[0], list)
        and all(is_hashable(item) for item in arguments[0])
    )


def _is_state(state: Any) -> bool:
    """Plain attributes; layers of recurrent modules are made one by one as they say."""
    attributes = state[0] if isinstance(state, tuple) and len(state) == 2 else state  # noqa: PLR2004
    if not isinstance(attributes, dict) or attributes.keys().isdisjoint(_RECURRENT):
        return True
    n_layers = attributes.get("num_layers")
    return type(n_layers) is int and n_layers <= _MOST_LAYERS


def _checked_numpy(name: str, arguments: tuple[Any, ...]) -> Made:
    what = name.rpartition(".")[2]
    if what == "dtype" and arguments[1:] in ((), (False, True)) and arguments:
        if isinstance(arguments[0], str) and _DTYPE_CODE.fullmatch(arguments[0]):
            return Made(_DTYPE, dtype_code=arguments[0])
    elif what == "_reconstruct":
        # Any other shape would be allocated before the array gets its own.
        if len(arguments) == 3 and arguments[1] == (0,) and _is_name(arguments[0], "ndarray"):  # noqa: PLR2004
            return Made(_ARRAY)
    elif what == "scalar" and _is_scalar(arguments):
        return Made("numpy scalar")
    raise refuse(f"calls {name} with arguments that no array of numbers or text needs")


def _is_scalar(arguments: tuple[Any, ...]) -> bool:
    return len(arguments) == 2 and _is_dtype(arguments[0]) and _is_bytes(arguments[1])  # noqa: PLR2004


def _is_name(value: Any, last: str) -> bool:
    return isinstance(value, Name) and value.full == f"numpy.{last}"


def _is_dtype(value: Any) -> bool:
    return isinstance(value, Made) and value.name == _DTYPE and value.is_built


def _is_array_state(state: Any) -> bool:
    """`(version, shape, dtype, is_fortran, bytes)`; a list in place of bytes holds objects."""
    return (
        isinstance(state, tuple)
        and len(state) == 5  # noqa: PLR2004 - as the line above
        and _is_shape(state[1])
        and _is_dtype(state[2])
        and _is_bytes(state[4])
    )


def _is_dtype_state(state: Any, code: str) -> bool:
    """`(version, order, None, None, None, size, alignment, flags[, ...])`: of no parts."""
    return (
        isinstance(state, tuple)
        and len(state) in {8, 9}
        and state[1] in ("<", ">", "=", "|")
        and state[2:5] == (None, None, None)
        and all(type(item) is int for item in state[5:8])
        and state[5] == _stated_size(code)
        and -1 <= state[6] <= _MOST_DIMENSIONS
        and state[7] in {0, _NEEDS_INIT}
    )


def _stated_size(code: str) -> int:
    """The size that the state of a dtype gives; NumPy would believe any other too."""
    if code[0] not in "SUV":
        return -1
    return int(code[1:]) * (4 if code[0] == "U" else 1)


FUNCTION_HOMES = frozenset({"torch.nn.functional", "torch._C._nn", "torch"})
_RECURRENT = {"_all_weights", "all_weights"}
_WITH_ATTRIBUTES = "torch._tensor._rebuild_from_type_v2"
_RULES: dict[str, Callable[[tuple[Any, ...]], bool]] = {
    "collections.OrderedDict": lambda arguments: arguments == (),
    "collections.Counter": lambda arguments: all(type(item) is dict for item in arguments),
    "builtins.set": _is_list_of_keys,
    "builtins.complex": lambda arguments: all(isinstance(item, float) for item in arguments),
    "builtins.bytearray": lambda arguments: all(_is_bytes(item) for item in arguments),
    _BYTES: lambda arguments: (
        len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] in _LATIN_1  # noqa: PLR2004
    ),
    _NO_BYTES: lambda arguments: arguments == (),
    "torch.Size": lambda arguments: len(arguments) == 1 and _is_shape(arguments[0]),
    "torch.device": lambda arguments: all(isinstance(item, str | int) for item in arguments),
    "torch.serialization._get_layout": lambda arguments: all(
        isinstance(item, str) for item in arguments
    ),
    "torch._utils._rebuild_tensor_v2": _is_view,
    "torch._utils._rebuild_tensor_v3": _is_view_of_dtype,
    "torch._utils._rebuild_meta_tensor_no_storage": _is_empty,
    "torch._utils._rebuild_parameter": _is_parameter,
    "torch._utils._rebuild_parameter_with_state": _is_parameter,
    "torch.nn.parameter.Parameter": _is_parameter,
    _WITH_ATTRIBUTES: _is_tensor_with_attributes,
}
_TENSORS = {name for name in _RULES if "._rebuild" in name or name.endswith(".Parameter")}
_STATES: dict[str, Callable[[Any], bool]] = {
    _ARRAY: _is_array_state,
    "numpy scalar": lambda _: False,
    # Its name is hashed.
    _TORCH_FUNCTION: lambda state: (
        isinstance(state, dict) and all(isinstance(item, str) for item in state.values())
    ),
}
