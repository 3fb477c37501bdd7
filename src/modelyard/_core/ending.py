"""What is written when the program ends: what recordings still hold by then."""

import atexit
import logging
import weakref
from typing import Protocol

from modelyard._core.errors import ModelyardError

_logger = logging.getLogger(__name__)


class Flushed(Protocol):
    """Something that holds what is not stored yet."""

    def flush_at_exit(self) -> None:
        """Store it; called once, when Python ends."""
        ...


_open: "weakref.WeakSet[Flushed]" = weakref.WeakSet()


def flush_when_python_ends(one: Flushed) -> None:
    """Have `one.flush_at_exit()` called at a normal end of the program, if it still lives then."""
    if not _open:
        # Last registered, first called: what it needs was imported before.
        atexit.unregister(_flush_all)
        atexit.register(_flush_all)
    _open.add(one)


def _flush_all() -> None:
    for one in list(_open):
        try:
            one.flush_at_exit()
        except ModelyardError as error:
            name = type(one).__name__
            _logger.error("What a %s holds could not be stored at the end: %s", name, error)  # noqa: TRY400 - it tells all
        except Exception:
            name = type(one).__name__
            _logger.exception("What a %s holds could not be stored at the end.", name)
