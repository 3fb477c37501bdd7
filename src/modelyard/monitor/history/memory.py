"""Past windows in memory."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from modelyard.monitor.history.summaries import WindowSummary

N_WINDOWS = 1000


class PastWindows:
    """The last windows, oldest first; only the newest keep their distributions.

    Not thread-safe: its owner locks.

    Args:
        windows: Those already known, oldest first.
        n_sketches: Newest windows that keep their distributions.
        n_kept: Windows that are kept; None for all.
    """

    def __init__(
        self,
        windows: Iterable[WindowSummary] = (),
        n_sketches: int = 20,
        *,
        n_kept: int | None = N_WINDOWS,
    ) -> None:
        self.n_sketches = n_sketches
        self._windows: deque[WindowSummary] = deque(windows, n_kept)

    def __iter__(self) -> Iterator[WindowSummary]:
        """Over a copy, oldest first."""
        return iter(tuple(self._windows))

    def __len__(self) -> int:
        """How many there are."""
        return len(self._windows)

    def add(self, window: WindowSummary) -> None:
        """Keep one more."""
        self._windows.append(window)
        if len(self._windows) > self.n_sketches:
            old = self._windows[-1 - self.n_sketches]
            self._windows[-1 - self.n_sketches] = replace(old, predictions=None, features=None)

    def forget(self, windows: Sequence[WindowSummary]) -> None:
        """Let the oldest go, which are these."""
        for _ in windows:
            self._windows.popleft()

    def between(self, since: str | None, until: str | None) -> list[WindowSummary]:
        """Those that ended in this time (ISO 8601 in UTC), oldest first."""
        return [
            window
            for window in self
            if (since is None or window.ended_at >= since)
            and (until is None or window.ended_at <= until)
        ]
