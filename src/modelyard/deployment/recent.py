"""What a version has done since the traffic was last split anew."""

from collections import deque

import numpy as np

from modelyard.monitor import Health
from modelyard.monitor.recording.health import health_of


class Recent:
    """Latencies and errors of one version since the traffic was last split anew.

    A monitor's window reaches back as far as it holds predictions: an hour for a version with
    little traffic, a minute for one with much. Where all answers have become slow lately, the two
    differ although the versions do not; these begin at the same moment and grow side by side.

    Thread-safe: appending to a deque and copying one are each one step.

    Args:
        size: How many of the newest predictions are kept.
    """

    def __init__(self, size: int) -> None:
        self._events: deque[tuple[float, bool]] = deque(maxlen=size)

    def add(self, latency_s: float, *, is_error: bool) -> None:
        """Take one prediction."""
        self._events.append((latency_s, is_error))

    def health(self) -> Health:
        """Latency and errors; no metrics, whose values come later."""
        events = np.array(self._events.copy(), np.float64).reshape(-1, 2)
        return health_of(events[:, 0], events[:, 1], {})
