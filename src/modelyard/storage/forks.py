"""Databases in a process that forks.

Two things a child inherits do harm. Connections: two processes would talk over one socket. And
SQLite's own note, kept for the whole process, that somebody writes: a child that is born while
another thread writes finds it for ever, and can never write. So a fork waits until no thread is
in a writing transaction, and lets none begin meanwhile.
"""

import contextlib
import functools
import os
import threading
import time
import weakref
from typing import Protocol

_PAUSE_S = 0.001
# As long as a writer waits for another.
_LONGEST_WAIT_S = 30.0


class Forked(Protocol):
    """What is to be left alone by a fork."""

    busy_lock: threading.RLock

    def after_fork(self) -> None:
        """Called in the child."""
        ...


def watch(database: Forked) -> None:
    """Let forks wait for this database's transactions, for as long as it lives."""
    _watched().add(database)


@functools.lru_cache(maxsize=1)
def _watched() -> "weakref.WeakSet[Forked]":
    databases: weakref.WeakSet[Forked] = weakref.WeakSet()
    held = contextlib.ExitStack()

    def hold_all() -> None:
        give_up_at_s = time.monotonic() + _LONGEST_WAIT_S
        while not _holds_all(databases, held) and time.monotonic() < give_up_at_s:
            time.sleep(_PAUSE_S)

    def after_in_child() -> None:
        held.pop_all()  # the locks are made anew
        for database in databases:
            database.after_fork()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=hold_all, after_in_parent=held.close, after_in_child=after_in_child
        )
    return databases


def _holds_all(databases: "weakref.WeakSet[Forked]", held: contextlib.ExitStack) -> bool:
    """Take every database's lock or none: one who holds two must not wait for each other."""
    with contextlib.ExitStack() as taken:
        try:
            locks = [database.busy_lock for database in databases]
        except RuntimeError:
            return False  # another thread has opened one just now
        for lock in locks:
            if not lock.acquire(blocking=False):
                return False
            taken.callback(lock.release)
        held.push(taken.pop_all())
    return True
