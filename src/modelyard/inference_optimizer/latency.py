"""What calls took, in bounded memory."""

import threading
from collections import deque

import numpy as np

from modelyard._core.clock import Clock
from modelyard.torchtools.timing import MS_PER_S

_KEPT = 10_000


class LatencyRecord:
    """Durations of the last 10,000 calls and the number of samples ever. One lock guards it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._durations_s: deque[float] = deque(maxlen=_KEPT)
        self._n_samples = 0
        self._first_s: float | None = None
        self._last_s = 0.0

    def add(self, duration_s: float, *, n_samples: int) -> None:
        """Count a call that answered `n_samples`."""
        now = self._clock.monotonic_s()
        with self._lock:
            self._durations_s.append(duration_s)
            self._n_samples += n_samples
            if self._first_s is None:
                self._first_s = now - duration_s
            self._last_s = now

    @property
    def n_samples(self) -> int:
        """Samples answered so far."""
        return self._n_samples

    def throughput_qps(self) -> float:
        """Samples per second between the first call's start and the last call's end."""
        with self._lock:
            elapsed = self._last_s - (self._first_s or 0.0)
            return self._n_samples / elapsed if elapsed > 0 else 0.0

    def percentiles_ms(self) -> dict[str, float | None]:
        """p50, p95, p99 and mean of a call, in milliseconds; None before the first."""
        with self._lock:
            values = np.asarray(self._durations_s)
        names = ("p50", "p95", "p99")
        if not values.size:
            return dict.fromkeys((*names, "mean"))
        found = np.percentile(values, [50, 95, 99]) * MS_PER_S
        result: dict[str, float | None] = dict(zip(names, found.tolist(), strict=True))
        return {**result, "mean": float(values.mean()) * MS_PER_S}
