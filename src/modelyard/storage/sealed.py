"""Plain values as JSON that knows its own digest, for files that stand outside the database.

A line for each key. The last one is `checksum`: the blake3 digest of all the bytes, with the
checksum's own 64 digits read as zeros. A changed byte anywhere, white space included, is found
without a second file.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from blake3 import blake3

from modelyard._core.errors import IntegrityError

_BLANK = "0" * 64
_encoded = json.JSONEncoder(allow_nan=False).encode
_SEAL = re.compile(rb'  "checksum": "([0-9a-f]{64})"\n}\n\Z')


def sealed(value: Mapping[str, Any]) -> bytes:
    """`value` as JSON with its checksum at the end.

    Raises:
        ValueError: NaN or infinity, which JSON cannot hold.
    """
    items = {**value, "checksum": _BLANK}.items()
    # Python's encoder with an indent is ten times slower.
    lines = [f"  {_encoded(k)}: {_encoded(v)}" for k, v in items]
    data = ("{\n" + ",\n".join(lines) + "\n}\n").encode("utf-8")
    start = len(data) - len(_BLANK) - len('"\n}\n')
    return data[:start] + blake3(data).hexdigest().encode() + data[start + len(_BLANK) :]


def unsealed(data: bytes, *, where: str, needs_seal: bool = True) -> dict[str, Any]:
    """What `sealed` was given.

    Args:
        data: The file's bytes.
        where: Its path, for messages.
        needs_seal: Whether bytes without a checksum are an error; registries of the first schema
            wrote none.

    Raises:
        IntegrityError: The bytes are not those that were written.
    """
    seal = _SEAL.search(data)
    if seal is not None:
        expected = seal[1].decode()
        found = blake3(data[: seal.start(1)] + _BLANK.encode() + data[seal.end(1) :]).hexdigest()
        if found != expected:
            raise IntegrityError(
                f"{where!r} is damaged: expected blake3 {expected}, found {found}. "
                "`modelyard versions verify --repair` writes it again from the database."
            )
    elif needs_seal:
        raise IntegrityError(f"{where!r} is damaged: expected a checksum at its end, found none.")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{where!r} is damaged: it is no JSON ({error}).") from error
    if not isinstance(value, dict):
        raise IntegrityError(f"{where!r} is damaged: expected an object, found a list or value.")
    value.pop("checksum", None)
    return value
