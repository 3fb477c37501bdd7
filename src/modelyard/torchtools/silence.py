"""Keeping talkative libraries quiet without silencing the other threads.

Warnings' filters, `sys.stdout` and the root logger belong to the process. Whoever changes them
holds `settings.lock`, or two threads would each put back what the other had set. What others print
and log meanwhile comes through; their warnings do not, as filters know no threads.
"""

import io
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import Any

from modelyard._core.forking import RenewedLock

# Held while settings of the whole process are changed.
settings = RenewedLock(threading.RLock)

_CHATTY = ("onnxruntime", "onnxscript", "onnx_ir")


class NotFrom(io.TextIOBase):
    """A stream that drops what one thread writes and passes on what the others do.

    Args:
        stream: Where the others write; None for nowhere.
        thread: The one thread's id.
    """

    def __init__(self, stream: Any, thread: int) -> None:
        super().__init__()
        self._stream = stream
        self._thread = thread

    def write(self, text: str, /) -> int:
        """Write, or drop."""
        if threading.get_ident() != self._thread and self._stream is not None:
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, unless it is the one thread that asks."""
        if threading.get_ident() != self._thread and self._stream is not None:
            self._stream.flush()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep ONNX Runtime's advice about its own tools, some of it printed, from the user."""
    me = threading.get_ident()
    with settings.lock, ExitStack() as stack:
        errors_only = _OnlyErrorsFrom(me)
        for logger in _chatty_loggers():
            logger.addFilter(errors_only)
            stack.callback(logger.removeFilter, errors_only)
        stack.enter_context(logging_untouched())
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(redirect_stdout(NotFrom(sys.stdout, me)))
        warnings.simplefilter("ignore")
        yield


@contextmanager
def logging_untouched() -> Iterator[None]:
    """Take back what a library does that sets the root logger up, on import or at first use."""
    root = logging.getLogger()
    with settings.lock:
        level, has_handlers = root.level, bool(root.handlers)
        try:
            yield
        finally:
            if not has_handlers and root.handlers:  # otherwise `basicConfig` has done nothing
                root.setLevel(level)
                for handler in [*root.handlers]:
                    root.removeHandler(handler)


def _chatty_loggers() -> list[logging.Logger]:
    """The root, and those there are by name: a filter does not hold for loggers further down."""
    names = [name for name in [*logging.root.manager.loggerDict] if name.startswith(_CHATTY)]
    return [logging.getLogger(), *map(logging.getLogger, names)]


class _OnlyErrorsFrom(logging.Filter):
    def __init__(self, thread: int) -> None:
        super().__init__()
        self._thread = thread

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread or record.levelno >= logging.ERROR
