"""Arrays as bytes and back: what was recorded since the last flush, so that a crash loses no more.

A chunk is a checksum (blake3, 32 bytes) and a safetensors document, which holds numbers only:
reading one runs no code.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from modelyard._core.errors import IntegrityError

_DIGEST_SIZE = 32
_META = "meta"
_LENGTH_SIZE = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """Records of one recorder.

    Attributes:
        arrays: By name.
        meta: Plain values.
        n_records: Predictions in it.
    """

    arrays: Mapping[str, NDArray[Any]]
    meta: Mapping[str, Any]
    n_records: int

    @property
    def weight(self) -> int:
        """What it counts towards a window's worth: there must be an end to empty ones too."""
        return max(1, self.n_records)


def pack(arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> bytes:
    """Arrays and what goes with them as bytes.

    Args:
        arrays: By name; numbers of any shape.
        meta: Plain values; no NaN.

    Raises:
        ValueError: `meta` holds what JSON cannot.
    """
    text = json.dumps(meta, allow_nan=False)
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    body = save(plain, metadata={_META: text})
    return blake3(body).digest() + body


def unpack(packed: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """What `pack` was given.

    Raises:
        IntegrityError: Bytes are missing or were changed.
    """
    digest, body = packed[:_DIGEST_SIZE], packed[_DIGEST_SIZE:]
    if blake3(body).digest() != digest:
        raise IntegrityError(
            f"A chunk of {len(packed)} bytes is not what was stored: its checksum differs."
        )
    try:
        n_header = int.from_bytes(body[:_LENGTH_SIZE], "little")
        header = json.loads(body[_LENGTH_SIZE : _LENGTH_SIZE + n_header])
        return dict(load(body)), dict(json.loads(header["__metadata__"][_META]))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise IntegrityError(
            f"A chunk of {len(packed)} bytes cannot be read: {error!r}."
        ) from error
