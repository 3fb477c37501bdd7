"""What the child of a fork has to make anew: of the parent's threads only one lives on in it.

A lock that another thread held at that moment is held for ever, by nobody. Who has locks says so
once, when it is made::

    call_after_fork(self._after_fork)
"""

import os
import threading
import weakref
from collections.abc import Callable, MutableMapping
from typing import Any

_renewals: MutableMapping[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()
_is_registered = threading.Event()


def call_after_fork(renew: Callable[[], None]) -> None:
    """Have a method called in each child, for as long as its object lives.

    Args:
        renew: A bound method that makes the locks anew; its object is held only weakly. Other
            state may be half changed, as the thread that held the lock left it.
    """
    owner: Any = renew.__self__  # type: ignore[attr-defined]  # as every method has
    _renewals[owner] = renew.__func__  # type: ignore[attr-defined]
    # Two threads may both come here; locks that are made anew twice do no harm.
    if not _is_registered.is_set() and hasattr(os, "register_at_fork"):
        _is_registered.set()
        os.register_at_fork(after_in_child=_renew_all)


class RenewedLock:
    """A lock for what a module keeps, made anew in each child: `with renewed.lock:`.

    Args:
        make: Makes it; `threading.RLock` for one that a thread may take again.
    """

    def __init__(self, make: Callable[[], Any] = threading.Lock) -> None:
        self._make = make
        self.lock = make()
        call_after_fork(self._after_fork)

    def _after_fork(self) -> None:
        self.lock = self._make()


def _renew_all() -> None:
    for owner, renew in [*_renewals.items()]:
        renew(owner)
