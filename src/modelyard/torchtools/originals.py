"""Remembers which modules have a compressed counterpart.

A compressor leaves the module it was given untouched, so `save_model(model)` after compressing
`model` stores the uncompressed one. Saving and exporting ask here and say so, once a module.
"""

import logging
import threading
import weakref

from torch import nn

_logger = logging.getLogger("modelyard")
_lock = threading.Lock()  # guards both sets
_compressed: weakref.WeakSet[nn.Module] = weakref.WeakSet()
_warned: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def note_original(model: nn.Module) -> None:
    """Remember that a compressor holds a changed copy of `model`."""
    with _lock:
        _compressed.add(model)


def mean_original(model: nn.Module) -> None:
    """Say that `model` itself is meant wherever it is used: no warning about it from now on."""
    with _lock:
        _warned.add(model)


def warn_if_original(model: nn.Module, *, action: str) -> None:
    """Log one warning if `model` is the untouched original of a compressor.

    Args:
        model: The module about to be used.
        action: What is about to happen, for the message: "saved", "exported".
    """
    with _lock:
        if model not in _compressed or model in _warned:
            return
        _warned.add(model)
    _logger.warning(
        "The %s being %s is the original that a ModelCompressor was given, without the "
        "compression. If you meant the compressed one, pass compressor.model.",
        type(model).__name__,
        action,
    )
