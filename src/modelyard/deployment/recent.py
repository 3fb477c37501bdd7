"""What a version has done since some moment."""

from collections import deque
from collections.abc import Mapping

import numpy as np

from modelyard.monitor import Health
from modelyard.monitor.recording.health import health_of


class Recent:
    """Latencies, errors and outcomes of one version since some moment.

    A monitor's window reaches back as far as it holds predictions: an hour for a version with
    little traffic, a minute for one with much. Where all answers have become slow lately, or have
    failed an hour ago, the two differ although the versions do not; these begin at the same
    moment and grow side by side.

    Thread-safe: appending to a deque, adding a key and copying either are each one step.

    Args:
        size: How many of the newest predictions, and values of each metric, are kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._events: deque[tuple[float, bool]] = deque(maxlen=size)
        self._metrics: dict[str, deque[float]] = {}

    def add(self, event: tuple[float, bool]) -> None:
        """Take one prediction: its latency in seconds, and whether it failed."""
        self._events.append(event)

    def add_metrics(self, values: Mapping[str, float]) -> None:
        """Take what became of one prediction."""
        for name, value in values.items():
            self._metrics.setdefault(name, deque(maxlen=self._size)).append(value)

    def health(self) -> Health:
        """Latency, errors and metrics."""
        events = np.array(self._events.copy(), np.float64).reshape(-1, 2)
        metrics = {
            name: np.array(values.copy(), np.float64)
            for name, values in self._metrics.copy().items()
        }
        return health_of(events[:, 0], events[:, 1], metrics)
