"""How long a batch takes, by its size: running medians, and estimates in between."""

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Mapping

# Odd, so that the median is one of them; short, so that a faster machine is noticed soon.
_WINDOW = 15
# A size with fewer measurements than this may owe its time to chance.
_CONFIRMED = 3
# A size not run for so many batches is forgotten: what slowed it down may be long over, and an
# estimate that keeps its own size from being run would never be put right.
_FORGOTTEN_AFTER = 200
# Among many measurements one more changes little, and estimating anew costs what a small model
# does.
_REFRESHED_EVERY = 8


class ServiceTimes:
    """Estimates of a batch's duration from the batches that ran.

    Estimates never fall as the size grows. Where a size was not seen they are optimistic: an
    estimate too low is corrected by the batch that runs because of it, one too high prevents that
    batch. Not thread-safe: its owner serialises.

    Args:
        known_s: Durations measured before, in seconds by batch size.
    """

    def __init__(self, known_s: Mapping[int, float] | None = None) -> None:
        self._windows: dict[int, deque[float]] = {}
        self._seen_at: dict[int, int] = {}
        self._n_batches = 0
        self._curve: list[tuple[int, float]] = []
        self._curve_at = 0
        for size, duration_s in (known_s or {}).items():
            self.observe(size, duration_s)

    def observe(self, size: int, duration_s: float) -> None:
        """Count a batch of `size` that took `duration_s` seconds."""
        self._n_batches += 1
        window = self._windows.get(size)
        if window is None:
            window = self._windows[size] = deque(maxlen=_WINDOW)
        window.append(duration_s)
        self._seen_at[size] = self._n_batches
        if len(window) < _WINDOW or self._n_batches - self._curve_at >= _REFRESHED_EVERY:
            self._curve_at = -1

    def restart(self, size: int, duration_s: float) -> None:
        """Forget all batches but this one, which showed that the estimates are outdated."""
        self._windows.clear()
        self._seen_at.clear()
        self.observe(size, duration_s)

    def estimate_s(self, size: int) -> float:
        """Seconds that a batch of `size` will take; 0.0 before any ran."""
        if self._curve_at < 0:
            self._refresh()
        return estimate_on(self._curve, size)

    def _refresh(self) -> None:
        oldest = self._n_batches - _FORGOTTEN_AFTER
        for size in [size for size, seen_at in self._seen_at.items() if seen_at < oldest]:
            del self._windows[size], self._seen_at[size]
        windows = {size: [*self._windows[size]] for size in sorted(self._windows)}
        self._curve = curve_of(windows)
        self._curve_at = self._n_batches


def curve_of(durations_s: Mapping[int, list[float]]) -> list[tuple[int, float]]:
    """Median duration by batch size, never falling as the size grows.

    Where a larger size was faster, both get their mean, weighted by the measurements.

    Args:
        durations_s: Measurements in seconds by batch size, sizes ascending.

    Source:
        Pool adjacent violators: Ayer et al. (1955), Annals of Mathematical Statistics 26, 641.
    """
    # One entry per pool: its sizes, the common time, the measurements behind it.
    pools: list[tuple[list[int], float, int]] = []
    for size, measured in durations_s.items():
        value = sorted(measured)[len(measured) // 2]
        if len(measured) < _CONFIRMED and pools:
            last_sizes, last_s, _ = pools[-1]
            value = min(value, last_s * size / last_sizes[-1])
        pool = ([size], value, len(measured))
        while pools and pools[-1][1] > pool[1]:
            sizes, value, weight = pools.pop()
            total = weight + pool[2]
            mean = (value * weight + pool[1] * pool[2]) / total
            pool = (sizes + pool[0], mean, total)
        pools.append(pool)
    return [(size, value) for sizes, value, _ in pools for size in sizes]


def estimate_on(curve: list[tuple[int, float]], size: int) -> float:
    """Duration of a batch of `size`: on the curve, or beyond it on the line through its ends.

    With one point, smaller batches are in proportion and batches of up to twice the size take as
    long: both are the least one can expect.

    Args:
        curve: Sizes ascending, durations in seconds not falling.
        size: 1 or more.
    """
    if not curve:
        return 0.0
    (least, least_s), (most, most_s) = curve[0], curve[-1]
    if len(curve) == 1:
        return least_s * (size / least if size < least else max(1.0, size / (2 * least)))
    per_request_s = (most_s - least_s) / (most - least)
    if size < least:
        return max(least_s - per_request_s * (least - size), least_s * size / least)
    if size >= most:
        return most_s + per_request_s * (size - most)
    right = bisect_left(curve, (size, -math.inf))
    if curve[right][0] == size:
        return curve[right][1]
    (a, a_s), (b, b_s) = curve[right - 1], curve[right]
    return a_s + (b_s - a_s) * (size - a) / (b - a)
