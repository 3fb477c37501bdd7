"""OpenVINO's core, one for the whole process and for good.

Each core's plugin for the CPU gives its thread a stack for signals, and puts back the one it found
when the core goes. Where cores go in another order than they came, or in another thread, what it
puts back is freed already: the next signal, such as Ctrl-C, ends the process with SIGSEGV (seen
with OpenVINO 2026.4 on Linux). A core that never goes puts nothing back.
"""

from typing import Any

from modelyard._core.extras import require
from modelyard._core.forking import RenewedLock, call_after_fork


class _Cores:
    """The core in use, and those of the processes this one was forked from; `lock` guards both."""

    def __init__(self) -> None:
        self.lock = RenewedLock()
        self._current: Any = None
        self._kept: list[Any] = []
        call_after_fork(self._after_fork)

    def core(self) -> Any:
        """The core; made at the first call."""
        openvino: Any = require("openvino", extra="openvino")
        with self.lock.lock:
            if self._current is None:
                self._current = openvino.Core()
                self._kept.append(self._current)
            return self._current

    def _after_fork(self) -> None:
        """In a child: the threads of the parent's core are not here."""
        self._current = None


_cores = _Cores()


def openvino_core() -> Any:
    """The core of this process. Thread-safe, as OpenVINO's cores are.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
    """
    return _cores.core()
