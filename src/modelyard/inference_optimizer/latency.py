"""What calls took and how many there are a second, in bounded memory."""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypedDict

import numpy as np

from modelyard._core.forking import call_after_fork
from modelyard.stats.histogram import LogHistogram
from modelyard.torchtools.timing import MS_PER_S

WINDOW_S = 60
FOLDED_AT = 2048
_LEVELS = (0.5, 0.95, 0.99)


class Percentiles(TypedDict):
    """Durations in milliseconds, off by at most 1 % of themselves; None before the first."""

    p50: float | None
    p95: float | None
    p99: float | None
    mean: float | None


class LatencyRecord:
    """Durations of all calls since the start, and the samples of the last minute.

    Adding appends to a buffer, which is atomic; one lock guards what the buffer is folded into.
    Percentiles are off by at most 1 %; between 0.1 microseconds and 10,000 s.

    Args:
        now_s: Tells the time in seconds from any start.

    Attributes:
        buffer: When a call ended, what it took, its samples. Who cannot afford `add` appends, and
            calls `fold` once there are `FOLDED_AT`.
    """

    def __init__(self, now_s: Callable[[], float] = time.perf_counter) -> None:
        self._now_s = now_s
        self.buffer: deque[tuple[float, float, int]] = deque()
        self._lock = threading.Lock()
        self._forget()
        call_after_fork(self._after_fork)

    def add(self, duration_s: float, n_samples: int = 1, ended_s: float | None = None) -> None:
        """Count a call that answered `n_samples` and ended at `ended_s`, by default now."""
        self.buffer.append((self._now_s() if ended_s is None else ended_s, duration_s, n_samples))
        if len(self.buffer) >= FOLDED_AT:
            self.fold()

    def fold(self) -> None:
        """Empty the buffer into the counts."""
        with self._lock:
            self._fold()

    @property
    def n_samples(self) -> int:
        """Samples answered so far."""
        with self._lock:
            self._fold()
            return self._n_samples

    def throughput_qps(self) -> float:
        """Samples a second over the last minute, or since the first call if that is shorter."""
        with self._lock:
            self._fold()
            if self._first_s is None:
                return 0.0
            now = self._now_s()
            # Whole seconds are counted, so the window begins with one.
            since = max(self._first_s, float(int(now) - WINDOW_S))
            n = sum(n for second, n in self._seconds if second >= int(since))
            return n / (now - since) if now > since else 0.0

    def percentiles_ms(self) -> Percentiles:
        """p50, p95, p99 and mean of a call."""
        with self._lock:
            self._fold()
            mean = self._histogram.mean()
            found = self._histogram.quantiles(_LEVELS)
        p50, p95, p99, mean_ms = (None if v is None else v * MS_PER_S for v in (*found, mean))
        return {"p50": p50, "p95": p95, "p99": p99, "mean": mean_ms}

    def reset(self) -> None:
        """Start anew."""
        with self._lock:
            self.buffer.clear()
            self._forget()

    def _forget(self) -> None:
        self._histogram = LogHistogram()
        self._seconds: deque[tuple[int, int]] = deque(maxlen=WINDOW_S + 1)
        self._n_samples = 0
        self._first_s: float | None = None

    def _after_fork(self) -> None:
        """In a child: whoever held the lock is not here, and left its work half done."""
        is_half_done = self._lock.locked()
        # Anew in any case: one that was being acquired may be held and not say so.
        self._lock = threading.Lock()
        if is_half_done:
            self._forget()

    def _fold(self) -> None:
        """Empty the buffer; the lock is held."""
        calls = [self.buffer.popleft() for _ in range(len(self.buffer))]
        if not calls:
            return
        if self._first_s is None:
            self._first_s = calls[0][0] - calls[0][1]
        flat = np.fromiter(itertools.chain.from_iterable(calls), float, 3 * len(calls))
        ended_s, durations_s, n_samples = flat.reshape(-1, 3).T
        self._histogram.add(durations_s)
        self._n_samples += int(n_samples.sum())
        whole, place = np.unique(ended_s.astype(np.int64), return_inverse=True)
        for second, n in zip(whole.tolist(), np.bincount(place, n_samples).tolist(), strict=True):
            if self._seconds and self._seconds[-1][0] == second:
                n += self._seconds.pop()[1]  # noqa: PLW2901 - the count of one second, in two folds
            self._seconds.append((second, int(n)))
