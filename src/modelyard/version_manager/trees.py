"""Nested values as one safetensors file: training states, and whatever JSON cannot hold exactly.

The file's metadata describes the nesting in JSON; tensors, arrays and bytes are its entries. In
the description, lists and plain values are themselves, and everything else is an object with one
key that says what it is::

    {"dict": [["state", {"dict": [[0, {"tensor": "0"}]]}], ["betas", {"tuple": [0.9, 0.999]}]]}

It comes back exactly: kinds of keys and numbers, tuples and lists, NaN bits; a tensor that is in
several places is stored once and is one tensor again.
"""

import io
import json
import math
import struct
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from typing import Any

import numpy as np
import torch

from modelyard._core.errors import ConfigError, InputError, IntegrityError
from modelyard.version_manager.arrays import npy_bytes, read_npy
from modelyard.version_manager.tensor_files import storable

# Python and its JSON parser go this deep anywhere; what is deeper is a mistake, such as a list
# that holds itself.
_DEEPEST = 100
# Python writes and reads decimal integers up to 4,300 digits; this is well below.
LONGEST_DECIMAL_BITS = 10_000
_MOST_COLLISIONS = 100


def to_tree(value: Any, *, where: str) -> tuple[dict[str, torch.Tensor], str]:
    """The entries and the description of `value`.

    Raises:
        ConfigError: Something in it cannot be stored; the message names the path to it.
    """
    writer = _Writer()
    node = writer.node(value, where, depth=0)
    return writer.entries, json.dumps(node, allow_nan=False, separators=(",", ":"))


def from_tree(entries: Mapping[str, torch.Tensor], description: str, *, name: str) -> Any:
    """What `to_tree` was given.

    Raises:
        IntegrityError: The description makes no sense; the message calls the file `name`.
    """
    try:
        return _Reader(entries).value(json.loads(description))
    except (ValueError, TypeError, KeyError, struct.error, RecursionError) as error:
        raise IntegrityError(
            f"{name!r} describes no value that can be read: {error!r}. Restore it from a backup."
        ) from error


def below(where: str, key: Any) -> str:
    """How messages call what lies under `key` in what they call `where`."""
    try:
        return f"{where}.{key}"
    except ValueError:  # Python writes no integer of so many digits
        return f"{where}.<a {type(key).__name__}>"


class _Writer:
    """Collects entries; not shared between threads."""

    def __init__(self) -> None:
        self.entries: dict[str, torch.Tensor] = {}
        # The values too: an id is only good as long as its object lives.
        self._nodes: dict[int, tuple[Any, dict[str, str]]] = {}

    def node(self, value: Any, where: str, *, depth: int) -> Any:
        """The description of `value`."""
        if depth > _DEEPEST:
            raise ConfigError(f"{where[:200]}... is nested more than {_DEEPEST} deep.")
        if isinstance(value, dict):
            return {"dict": self._pairs(value, where, depth=depth)}
        if isinstance(value, list | tuple):
            items = [
                self.node(item, f"{where}[{i}]", depth=depth + 1) for i, item in enumerate(value)
            ]
            return items if isinstance(value, list) else {"tuple": items}
        if not isinstance(value, _ENTRIES):
            return _scalar_node(value)
        if id(value) not in self._nodes:
            kind, entry = _entry_of(value, where)
            name = str(len(self.entries))
            self.entries[name] = entry
            self._nodes[id(value)] = value, {kind: name}
        return self._nodes[id(value)][1]

    def _pairs(self, value: dict[Any, Any], where: str, *, depth: int) -> list[list[Any]]:
        if _collide(value):
            raise ConfigError(f"{where} has too many keys of one hash; use text as keys.")
        return [
            [_key_node(key, where), self.node(item, below(where, key), depth=depth + 1)]
            for key, item in value.items()
        ]


def _entry_of(value: Any, where: str) -> tuple[str, torch.Tensor]:
    if isinstance(value, torch.Tensor):
        try:
            return "tensor", storable(value, where=where)
        except InputError as error:
            raise ConfigError(str(error)) from error
    if isinstance(value, np.ndarray):
        return "array", _as_tensor(npy_bytes(value, where=where))
    if isinstance(value, np.generic):
        return "scalar", _as_tensor(npy_bytes(np.asarray(value), where=where))
    return type(value).__name__, _as_tensor(value)


def _as_tensor(data: bytes | bytearray) -> torch.Tensor:
    # bytearray: a tensor over read-only bytes would warn.
    return (
        torch.frombuffer(bytearray(data), dtype=torch.uint8)
        if data
        else torch.empty(0, dtype=torch.uint8)
    )


def _scalar_node(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": struct.pack(">d", value).hex()}  # the sign and payload of a NaN too
    if isinstance(value, complex):
        return {"complex": struct.pack(">dd", value.real, value.imag).hex()}
    if type(value) is int and value.bit_length() > LONGEST_DECIMAL_BITS:
        return {"int": hex(value)}
    return value


def _key_node(key: Any, where: str) -> Any:
    if isinstance(key, tuple):
        return {"tuple": [_key_node(item, where) for item in key]}
    if key is None or isinstance(key, bool | int | float | str):
        return _scalar_node(key)
    raise ConfigError(
        f"{where} has the key {key!r}, a {type(key).__qualname__}. "
        "Keys are text, numbers, None or tuples of these."
    )


def _collide(keys: Iterable[Any]) -> bool:
    """Whether so many keys share a hash that making a dict of them takes forever.

    Numbers with equal remainders by 2^61 - 1 do; a file could hold nothing else.
    """
    hashes = sorted(map(hash, keys))
    return any(len(list(group)) > _MOST_COLLISIONS for _, group in groupby(hashes))


class _Reader:
    """Values from entries; those in several places are made once."""

    def __init__(self, entries: Mapping[str, torch.Tensor]) -> None:
        self._entries = entries
        self._made: dict[str, Any] = {}

    def value(self, node: Any) -> Any:
        """What `node` describes."""
        if isinstance(node, list):
            return [self.value(item) for item in node]
        if not isinstance(node, dict):
            return node
        ((kind, content),) = node.items()
        if kind == "dict":
            return self._dict(content)
        if kind == "tuple":
            return tuple(self.value(item) for item in content)
        if kind in _SCALARS:
            return _SCALARS[kind](content)
        if content not in self._made:
            self._made[content] = _FROM_ENTRY[kind](self._entries[content])
        return self._made[content]

    def _dict(self, pairs: list[list[Any]]) -> dict[Any, Any]:
        keys = [self.value(key) for key, _ in pairs]
        if _collide(keys):
            raise ValueError("too many keys of one hash")
        return dict(zip(keys, (self.value(item) for _, item in pairs), strict=True))


def _to_bytes(entry: torch.Tensor) -> bytes:
    if entry.dtype is not torch.uint8:
        raise TypeError(f"an entry of bytes has dtype {entry.dtype}")
    return entry.numpy().tobytes()


def _to_array(entry: torch.Tensor) -> np.ndarray[Any, Any]:
    return read_npy(io.BytesIO(_to_bytes(entry)), size_bytes=entry.numel(), name="an entry")


_ENTRIES = (torch.Tensor, np.ndarray, np.generic, bytes, bytearray)
_FROM_ENTRY: dict[str, Callable[[torch.Tensor], Any]] = {
    "tensor": lambda entry: entry,
    "array": _to_array,
    "scalar": lambda entry: _to_array(entry)[()],
    "bytes": _to_bytes,
    "bytearray": lambda entry: bytearray(_to_bytes(entry)),
}
_SCALARS: dict[str, Callable[[str], Any]] = {
    "float": lambda text: struct.unpack(">d", bytes.fromhex(text))[0],
    "complex": lambda text: complex(*struct.unpack(">dd", bytes.fromhex(text))),
    "int": lambda text: int(text, 16),
}
