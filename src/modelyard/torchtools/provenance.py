"""Where a module came from, for whoever is handed it next: an exporter writes it into its file.

Training a loaded module on makes it another one: what was noted is told only while its tensors
are those it was noted with.
"""

import threading
import weakref
from collections.abc import Mapping
from typing import Any

from torch import nn

from modelyard.torchtools.layers import own_tensors

_lock = threading.Lock()  # guards _noted
_noted: weakref.WeakKeyDictionary[nn.Module, tuple[object, Mapping[str, Any]]] = (
    weakref.WeakKeyDictionary()
)


def note_provenance(model: nn.Module, provenance: Mapping[str, Any]) -> None:
    """Remember that `model` is a stored version, with what is known of it."""
    with _lock:
        _noted[model] = _state_of(model), dict(provenance)


def noted_provenance(model: nn.Module) -> Mapping[str, Any]:
    """What was noted of `model`; empty for one that came from nowhere known, or has changed."""
    with _lock:
        state, provenance = _noted.get(model, (None, {}))
    return provenance if provenance and state == _state_of(model) else {}


def _state_of(model: nn.Module) -> object:
    """Which tensors there are, and how often each was written to."""
    return [
        (name, id(tensor), None if tensor.is_inference() else tensor._version)  # noqa: SLF001 - the only count of writes there is
        for name, tensor in own_tensors(model)
    ]
