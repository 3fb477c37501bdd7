"""How many predictions took how long, since the monitor was made."""

import numpy as np
from numpy.typing import NDArray

# A millisecond to ten seconds with the usual steps, and finer below: small models answer in
# microseconds.
BOUNDS_S = (
    1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
_BOUNDS_S = np.array(BOUNDS_S)


class LatencyBuckets:
    """Counts by bucket; they only grow. Not thread-safe: its owner locks."""

    def __init__(self) -> None:
        self._counts = np.zeros(len(BOUNDS_S) + 1, np.int64)
        self.sum_s = 0.0

    def add(self, latencies_s: NDArray[np.float64]) -> None:
        """Count latencies in seconds; what is not finite is left out."""
        known = latencies_s[np.isfinite(latencies_s)]
        places = np.searchsorted(_BOUNDS_S, known, side="left")
        self._counts += np.bincount(places, minlength=len(self._counts))
        self.sum_s += float(known.sum())

    def cumulative(self) -> list[int]:
        """How many took at most each bound, and last how many there are in all."""
        return [int(n) for n in np.cumsum(self._counts)]
