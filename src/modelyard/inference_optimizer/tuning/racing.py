"""Timing calls in turns, and dropping early what cannot win."""

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import TypeVar

# After so many rounds, what is slower than the best by more than this factor is dropped.
_CUTS = {1: 2.0, 4: 1.4, 12: 1.2}
_MOST_ROUNDS = 40
_LEAST_ROUNDS = 3
# A turn takes about this long, in at most so many calls: short calls are timed several times.
_TURN_S = 0.0002
_MOST_CALLS = 5
# Below this a call that does not count goes first in each turn: as in serving, the weights are
# then in the processor's cache if they fit, and not put out of it by the other backends'.
_SHORT_S = 0.02

Timer = Callable[[], float]
Key = TypeVar("Key")


def race(
    calls: Mapping[Key, Callable[[], object]],
    *,
    budget_s: float,
    kept: Key,
    timer: Timer = time.perf_counter,
) -> dict[Key, float]:
    """Median seconds of each call, taken in turns so that a busy moment hits all alike.

    Args:
        calls: What to time. Each is called once before.
        budget_s: Stop after about this long; those still in the race have at least three rounds,
            or one where a single round takes longer than the budget.
        kept: What is never dropped.
        timer: Seconds from an arbitrary start.

    Returns:
        By call, the median of what was measured of it until it was dropped.
    """
    blocks = {key: _block(call, timer) for key, call in calls.items()}
    found: dict[Key, list[float]] = {key: [] for key in calls}
    racing = list(calls)
    started = timer()
    for n_rounds in range(1, _MOST_ROUNDS + 1):
        for key in racing:
            found[key] += _turn(calls[key], blocks[key], timer)
        elapsed = timer() - started
        if n_rounds in _CUTS:
            best = min(min(found[key]) for key in racing)
            racing = [k for k in racing if k == kept or min(found[k]) <= _CUTS[n_rounds] * best]
        if elapsed > budget_s and (n_rounds >= _LEAST_ROUNDS or elapsed > 2 * budget_s):
            break
    return {key: median(values) for key, values in found.items()}


def _block(call: Callable[[], object], timer: Timer) -> int:
    """Calls in a turn, 0 for a long one that needs no call before."""
    call()
    started = timer()
    call()
    seconds = timer() - started
    if seconds >= _SHORT_S:
        return 0
    return min(_MOST_CALLS, max(1, int(_TURN_S / max(seconds, 1e-9))))


def _turn(call: Callable[[], object], block: int, timer: Timer) -> list[float]:
    if block:
        call()
    seconds = []
    for _ in range(max(block, 1)):
        started = timer()
        call()
        seconds.append(timer() - started)
    return seconds
