"""Measuring how long a model takes. The only place that times one."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypedDict

import numpy as np
import torch

MS_PER_S = 1000.0


class LatencySummary(TypedDict):
    """Latency of single calls, in milliseconds, and calls per second one after another."""

    mean_latency_ms: float
    median_latency_ms: float
    p95_latency_ms: float
    p99_latency_ms: float
    throughput_qps: float


def time_calls(call: Callable[[], object], *, n: int, warmup: int = 10) -> list[float]:
    """Seconds of each of `n` calls, after `warmup` that do not count."""
    for _ in range(warmup):
        call()
    with _no_garbage_collection():
        return [_seconds_of(call) for _ in range(n)]


def interleaved_calls(
    calls: Mapping[str, Callable[[], object]], *, n: int, warmup: int = 10
) -> dict[str, list[float]]:
    """Seconds of each of `n` calls of each, taken in turns, after `warmup` that do not count."""
    durations: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(warmup):
            call()
    with _no_garbage_collection():
        for _ in range(n):
            for name, call in calls.items():
                durations[name].append(_seconds_of(call))
    return durations


def interleaved_medians(
    calls: Mapping[str, Callable[[], object]],
    *,
    budget_s: float,
    max_rounds: int = 200,
    block: int = 1,
) -> dict[str, float]:
    """Median seconds of each call, taken in turns so that a busy moment hits all alike.

    Args:
        calls: What to time, by name.
        budget_s: Stop after about this long in all; each has at least three turns.
        max_rounds: Stop after so many turns of each.
        block: Calls a turn. With more than one, another call goes before them that does not
            count: as in serving, the weights are then in the cache if they fit, and not put out
            of it by the other models'.
    """
    durations: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    started = time.perf_counter()
    with _no_garbage_collection():
        for turn in range(max_rounds):
            for name, call in calls.items():
                if block > 1:
                    call()
                durations[name] += [_seconds_of(call) for _ in range(block)]
            if turn >= 2 and time.perf_counter() - started > budget_s:  # noqa: PLR2004 - three rounds
                break
    return {name: float(np.median(values)) for name, values in durations.items()}


def _seconds_of(call: Callable[[], object]) -> float:
    """How long the call takes, with the work that it gives to a GPU."""
    _wait_for_gpu()
    start = time.perf_counter()
    call()
    _wait_for_gpu()
    return time.perf_counter() - start


def _wait_for_gpu() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def summarized(durations_s: list[float], *, items_per_call: int = 1) -> LatencySummary:
    """Percentiles of measured calls.

    Args:
        durations_s: Seconds, at least one.
        items_per_call: Samples a call computes, for the throughput.
    """
    values = np.asarray(durations_s)
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {
        "mean_latency_ms": float(values.mean()) * MS_PER_S,
        "median_latency_ms": float(p50) * MS_PER_S,
        "p95_latency_ms": float(p95) * MS_PER_S,
        "p99_latency_ms": float(p99) * MS_PER_S,
        "throughput_qps": items_per_call * len(values) / float(values.sum()),
    }


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
