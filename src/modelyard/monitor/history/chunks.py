"""Records as bytes: what a crash must not take."""

import io
import json
from typing import Any

import numpy as np

from modelyard._core.errors import IntegrityError
from modelyard.monitor.recording.deltas import Delta

_META = "__meta__"


def pack(delta: Delta) -> bytes:
    """The records as one NumPy archive without pickles."""
    buffer = io.BytesIO()
    meta = np.frombuffer(json.dumps(delta.meta).encode(), np.uint8)
    # Names such as `metric/sharpe` are kept as they are.
    np.savez(buffer, **{**delta.arrays, _META: meta})  # type: ignore[arg-type]  # numpy's stub knows only its own keyword
    return buffer.getvalue()


def unpack(body: bytes) -> Delta:
    """The records that `pack` wrote; no code runs from the bytes.

    Raises:
        IntegrityError: They are damaged.
    """
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        meta: Any = json.loads(arrays.pop(_META).tobytes())
        delta = Delta(
            arrays={name: np.asarray(array, np.float64) for name, array in arrays.items()},
            meta={**meta, "n_records": int(meta["n_records"])},
        )
    except Exception as error:
        # A damaged archive raises whatever its reader stumbles over.
        raise IntegrityError(f"Recorded predictions cannot be read: {error!r}.") from error
    return delta
