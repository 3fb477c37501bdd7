"""What travels with a version besides its module: artifacts, attachments, example inputs.

Each becomes bytes with a named encoding, and comes back as it went in, without unpickling:
`raw` (bytes), `npy` (NumPy arrays), `json` (plain values), `safetensors` (tensors, also as a
tuple or dict of tensors).
"""

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modelyard._core.errors import ConfigError, IntegrityError
from modelyard._core.plain import to_plain
from modelyard.storage import HashingWriter
from modelyard.version_manager.module_format import read_tensors, write_tensors

Fill = Callable[[HashingWriter], None]


def encoded(value: Any, *, where: str) -> tuple[str, Fill]:
    """The encoding's name and a function that writes the bytes.

    Raises:
        ConfigError: `value` is of no kind that can be stored; the message names `where`.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        return "raw", writes(data)
    if isinstance(value, np.ndarray):
        return "npy", writes(_npy(value, where=where))
    tensors = _as_tensors(value)
    if tensors is not None:
        kind = _kind_of(value)
        return "safetensors", write_tensors(tensors, metadata={"kind": kind})
    try:
        text = json.dumps(to_plain(value, where=where), allow_nan=False)
    except ValueError as error:
        raise ConfigError(
            f"{where} cannot be stored: {error}. Pass bytes, arrays, tensors or JSON values."
        ) from error
    return "json", writes(text.encode("utf-8"))


def writes(data: bytes) -> Fill:
    """A function that writes `data`."""

    def fill(file: HashingWriter) -> None:
        file.write(data)

    return fill


def decoded(encoding: str, path: Path) -> Any:
    """What `encoded` was given, from a verified file."""
    if encoding == "raw":
        return path.read_bytes()
    if encoding == "npy":
        return np.load(path, allow_pickle=False)
    if encoding == "json":
        return json.loads(path.read_text(encoding="utf-8"))
    if encoding == "safetensors":
        return _from_tensors(*read_tensors(path))
    raise IntegrityError(f"{str(path)!r} has the unknown encoding {encoding!r}.")


def _npy(value: np.ndarray[Any, Any], *, where: str) -> bytes:
    if value.dtype.hasobject:
        raise ConfigError(
            f"{where} is an array of Python objects; give it a number or text dtype."
        )
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=False)
    return buffer.getvalue()


def _as_tensors(value: Any) -> dict[str, torch.Tensor] | None:
    if isinstance(value, torch.Tensor):
        return {"0": value}
    if isinstance(value, tuple | list):
        named = {str(i): item for i, item in enumerate(value)}
    elif isinstance(value, Mapping):
        named = {str(name): item for name, item in value.items()}
    else:
        return None
    is_all_tensors = bool(named) and all(isinstance(v, torch.Tensor) for v in named.values())
    return named if is_all_tensors else None


def _kind_of(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return "tensor"
    return "dict" if isinstance(value, Mapping) else "tuple"


def _from_tensors(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> Any:
    kind = metadata.get("kind", "dict")
    if kind == "tensor":
        return tensors["0"]
    if kind == "tuple":
        return tuple(tensors[str(i)] for i in range(len(tensors)))
    return tensors
