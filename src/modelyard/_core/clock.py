"""Time as an argument: code that needs the time takes a `Clock`."""

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """Tells the time; two readings, because only one of them may jump."""

    def now(self) -> datetime:
        """Wall-clock time, timezone-aware, UTC."""
        ...

    def monotonic_s(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Wall-clock time, UTC."""
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        """Seconds of `time.monotonic`."""
        return time.monotonic()


class ManualClock:
    """A clock that moves only when told to. For tests, simulations and sped-up demos.

    Thread-safe: one lock guards the time.
    """

    def __init__(self, start: datetime = datetime(2024, 1, 1, tzinfo=UTC)) -> None:
        self._lock = threading.Lock()
        self._start = start
        self._elapsed_s = 0.0

    def now(self) -> datetime:
        """The start plus what `advance` has added."""
        with self._lock:
            return self._start + timedelta(seconds=self._elapsed_s)

    def monotonic_s(self) -> float:
        """Seconds that `advance` has added."""
        with self._lock:
            return self._elapsed_s

    def advance(self, seconds: float) -> None:
        """Move the time forward by `seconds` (0 or more)."""
        if seconds < 0:
            raise ValueError(f"A clock cannot go back: advance({seconds}).")
        with self._lock:
            self._elapsed_s += seconds
