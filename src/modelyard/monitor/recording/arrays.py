"""Rows of numbers from whatever was handed in."""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.monitor.recording.labels import Labels


def as_rows(value: Any, labels: Labels | None = None) -> NDArray[Any] | None:
    """Numbers, at least one-dimensional, from a number, list, array or tensor; else None.

    Args:
        value: What was handed in.
        labels: Where text among the numbers is noted, which then stands as its code; without it
            text is refused.
    """
    if isinstance(value, np.ma.MaskedArray):
        value = np.ma.filled(value.astype(np.float64), np.nan)
    if not isinstance(value, np.ndarray):
        value = _as_array(value, labels)
        if value is None:
            return None
    if value.dtype.kind not in "biuf":
        value = _coded(value, labels)
        if value is None:
            return None
    if value.size == 0:
        return None
    return value if value.ndim else np.atleast_1d(value)


def _as_array(value: Any, labels: Labels | None) -> NDArray[Any] | None:
    # A tensor cannot exist before torch was imported, so torch is never imported here.
    torch = sys.modules.get("torch")
    try:
        if isinstance(value, int | float):
            return np.array([float(value)])
        if torch is None or not isinstance(value, torch.Tensor):
            array = np.asarray(value)
            # Numbers beside text would have become text as well.
            return _coded(value, labels) if array.dtype.kind in "UO" else array
        plain = value.detach().cpu()
        # NumPy has no bfloat16.
        return np.asarray(plain.float() if plain.dtype == torch.bfloat16 else plain)
    except Exception:  # noqa: BLE001 - whatever is handed in must not stop the caller's loop
        return None


def _coded(value: Any, labels: Labels | None) -> NDArray[np.float64] | None:
    """What text and numbers stand for; None where nothing is either."""
    if labels is None:
        return None
    try:
        codes = labels.coded(value)
    except Exception:  # noqa: BLE001 - as above
        return None
    return codes if np.isfinite(codes).any() else None
