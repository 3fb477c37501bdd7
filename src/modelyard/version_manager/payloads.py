"""What travels with a version besides its module: artifacts, attachments, example inputs.

Each becomes bytes with a named encoding, and comes back as it went in, without unpickling:
`raw` (bytes), `npy` (NumPy arrays), `safetensors` (tensors, also as a tuple or dict of tensors),
`json` (plain values), `tree` (any nesting of these, such as the state of an optimizer).
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modelyard._core.errors import ConfigError, InputError, IntegrityError
from modelyard._core.plain import to_plain
from modelyard.storage import HashingWriter
from modelyard.version_manager.arrays import npy_bytes, read_npy
from modelyard.version_manager.tensor_files import (
    LONGEST_HEADER_BYTES,
    can_name_entry,
    read_tensors,
    storable,
    write_tensors,
)
from modelyard.version_manager.trees import LONGEST_DECIMAL_BITS, below, from_tree, to_tree

Fill = Callable[[HashingWriter], None]
# Kinds that `json` or `tree` take as they are.
_SCALARS = (type(None), bool, int, float, str, complex)
_LEAVES = (torch.Tensor, np.ndarray, np.generic, bytes, bytearray)


def encoded(value: Any, *, where: str) -> tuple[str, Fill]:
    """The encoding's name and a function that writes the bytes.

    Tensors come back detached and in order in memory. A mapping comes back as a dict. Dates,
    paths, enums and sets come back as what JSON makes of them; everything else exactly.

    Raises:
        ConfigError: Something in `value` cannot be stored; the message names the path to it.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        return "raw", writes(bytes(value))
    if isinstance(value, np.ndarray):
        return "npy", writes(npy_bytes(value, where=where))
    tensors = _as_tensors(value)
    if tensors is not None:
        return "safetensors", _write_named(tensors, kind=_kind_of(value), where=where)
    try:
        return _encoded_nest(_settled(value, where=where), where=where)
    except RecursionError as error:
        raise ConfigError(f"{where} is nested too deep, or holds itself.") from error


def writes(data: bytes) -> Fill:
    """A function that writes `data`."""

    def fill(file: HashingWriter) -> None:
        file.write(data)

    return fill


def decoded(encoding: str, path: Path) -> Any:
    """What `encoded` was given, from a verified file.

    Raises:
        IntegrityError: The file does not hold what its encoding says.
    """
    if encoding == "raw":
        return path.read_bytes()
    if encoding == "npy":
        with path.open("rb") as file:
            return read_npy(file, size_bytes=path.stat().st_size, name=str(path))
    if encoding == "json":
        return _from_json(path)
    if encoding in {"safetensors", "tree"}:
        tensors, metadata = read_tensors(path)
        if encoding == "tree":
            return from_tree(tensors, metadata.get("tree", ""), name=str(path))
        return _from_tensors(tensors, metadata, path)
    raise IntegrityError(
        f"{str(path)!r} has the unknown encoding {encoding!r}. A newer modelyard may know it."
    )


def _encoded_nest(value: Any, *, where: str) -> tuple[str, Fill]:
    if _is_exact_in_json(value):
        return "json", writes(json.dumps(value).encode("utf-8"))
    entries, description = to_tree(value, where=where)
    if len(description) > LONGEST_HEADER_BYTES // 2:  # quotes are escaped, and entries described
        raise ConfigError(
            f"{where} has {len(description) / 1e6:.0f} MB of nesting and single numbers. "
            "Store long lists of numbers as arrays or tensors."
        )
    return "tree", write_tensors(entries, metadata={"tree": description})


def _settled(value: Any, *, where: str) -> Any:
    """`value` of kinds that come back exactly; what is of another kind as JSON takes it."""
    if type(value) in _SCALARS or isinstance(value, _LEAVES):
        return value
    if isinstance(value, Mapping):
        return {
            _settled_key(key): _settled(item, where=below(where, key))
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        items = [_settled(item, where=f"{where}[{i}]") for i, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    return to_plain(value, where=where)


def _settled_key(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(_settled_key(item) for item in key)
    if isinstance(key, np.bool_ | np.number | np.str_):
        return key.item()  # equal, and of the same hash
    return to_plain(key) if isinstance(key, bool | int | float | str) else key


def _is_exact_in_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(type(key) is str and _is_exact_in_json(item) for key, item in value.items())
    if type(value) is list:
        return all(_is_exact_in_json(item) for item in value)
    if type(value) is float:
        return math.isfinite(value)
    if type(value) is int:
        return value.bit_length() <= LONGEST_DECIMAL_BITS
    return value is None or type(value) in {bool, str}


def _from_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise IntegrityError(
            f"{str(path)!r} is no JSON that can be read: {error}. Restore it from a backup."
        ) from error


def _as_tensors(value: Any) -> dict[str, torch.Tensor] | None:
    """Tensors that `safetensors` gives back exactly, by name; None if `tree` must hold them."""
    if isinstance(value, torch.Tensor):
        return {"0": value}
    if isinstance(value, tuple):
        named = {str(i): item for i, item in enumerate(value)}
    elif isinstance(value, Mapping):
        named = dict(value)
    else:
        return None
    is_simple = (
        bool(named)
        and all(isinstance(item, torch.Tensor) for item in named.values())
        and all(type(name) is str and can_name_entry(name) for name in named)
        and len({id(item) for item in named.values()}) == len(named)
    )
    return named if is_simple else None


def _kind_of(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return "tensor"
    return "dict" if isinstance(value, Mapping) else "tuple"


def _write_named(tensors: Mapping[str, torch.Tensor], *, kind: str, where: str) -> Fill:
    for name, tensor in tensors.items():
        try:
            storable(tensor, where=where if kind == "tensor" else f"{where}.{name}")
        except InputError as error:
            raise ConfigError(str(error)) from error
    # The format keeps no order among tensors without elements.
    order = {"order": json.dumps(list(tensors))} if kind == "dict" else {}
    return write_tensors(tensors, metadata={"kind": kind, **order})


def _from_tensors(tensors: dict[str, torch.Tensor], metadata: dict[str, str], path: Path) -> Any:
    kind = metadata.get("kind", "dict")
    try:
        # What was stored before the order was has the order of the file.
        order = json.loads(metadata["order"]) if "order" in metadata else list(tensors)
        if kind == "tensor":
            return tensors["0"]
        if kind == "tuple":
            return tuple(tensors[str(i)] for i in range(len(tensors)))
        return {name: tensors[name] for name in order}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise IntegrityError(
            f"{str(path)!r} does not hold the tensors it names: {error!r}. "
            "Restore it from a backup."
        ) from error
