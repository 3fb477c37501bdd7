"""What a version has done since the traffic was last split anew."""

import threading

from modelyard.monitor import Health
from modelyard.monitor.recording.health import health_of
from modelyard.monitor.recording.rings import Events


class Recent:
    """Latencies and errors of one version since the traffic was last split anew.

    A monitor's window reaches back as far as it holds predictions: an hour for a version with
    little traffic, a minute for one with much. Where all answers have become slow lately, the two
    differ although the versions do not; these begin at the same moment and grow side by side.

    Thread-safe: one lock guards the ring.

    Args:
        size: How many of the newest predictions are kept.
    """

    def __init__(self, size: int) -> None:
        self._events = Events(size)
        self._lock = threading.Lock()

    def add(self, latency_s: float, *, error: bool) -> None:
        """Take one prediction."""
        with self._lock:
            self._events.add(latency_s, error=error, time_s=0.0)

    def health(self) -> Health:
        """Latency and errors; no metrics, whose values come later."""
        with self._lock:
            latencies_s, errors = self._events.latencies_s(), self._events.errors()
        return health_of(latencies_s, errors, {})
