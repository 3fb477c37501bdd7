"""Warnings that are said once, not with every call."""

import logging

from modelyard._core.forking import RenewedLock

_logger = logging.getLogger("modelyard.ab_testing")


class WarnsOnce:
    """Remembers what it has warned about. Thread-safe: one lock guards that."""

    def __init__(self) -> None:
        self._renewed = RenewedLock()
        self._said: set[str] = set()

    def once(self, about: str, message: str) -> None:
        """Log a warning, the first time that anything is said about this."""
        with self._renewed.lock:
            is_new = about not in self._said
            self._said.add(about)
        if is_new:
            _logger.warning("%s", message)
