"""Threads that are at a model when the interpreter ends.

A thread that comes back from PyTorch then is ended by Python inside C++, which aborts the process.
"""

import atexit
import ctypes
import threading
import time
import weakref
from collections.abc import Callable

# All of them together are waited for so long.
_EXIT_S = 1.0
_let_go: "weakref.WeakKeyDictionary[threading.Thread, Callable[[], None]]" = (
    weakref.WeakKeyDictionary()
)


def end_at_exit(thread: threading.Thread, let_go: Callable[[], None]) -> None:
    """Have a thread end before the interpreter does: a call that hangs is broken off in Python.

    What hangs outside of Python, such as a sleep or a read, cannot be: it is left, and harmless.

    Args:
        thread: A daemon that has been started.
        let_go: Asks it to end when it is idle.
    """
    _let_go[thread] = let_go
    atexit.unregister(_end_all)
    atexit.register(_end_all)


def _end_all() -> None:
    ends_s = time.monotonic() + _EXIT_S
    alive = [thread for thread in list(_let_go) if thread.is_alive()]
    for thread in alive:
        _let_go[thread]()
    for thread in alive:
        thread.join(_EXIT_S / 10 / len(alive))  # those that wait, and short calls
    for thread in alive:
        if thread.is_alive() and thread.ident is not None:
            _break_off(thread.ident)
    for thread in alive:
        thread.join(max(0.0, ends_s - time.monotonic()))


def _break_off(ident: int) -> None:
    """Raise SystemExit in a thread, which it notices at its next step in Python."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(SystemExit))
