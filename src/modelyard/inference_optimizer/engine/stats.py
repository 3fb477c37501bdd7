"""What an engine tells of itself."""

import threading
from collections import Counter, deque
from typing import TypedDict

import numpy as np
from numpy.typing import ArrayLike

from modelyard._core.clock import Clock
from modelyard._core.forking import call_after_fork
from modelyard.inference_optimizer.latency import LatencyRecord, Percentiles
from modelyard.stats.histogram import LogHistogram
from modelyard.torchtools.timing import MS_PER_S

_FOLDED_AT = 256
_LEVELS = (0.5, 0.95, 0.99)


class Rejections(TypedDict):
    """Requests refused without being computed, by reason.

    Attributes:
        deadline: The answer would have come too late.
        full: Too many waited.
        closed: The engine was closed, closing or not started.
        malformed: `prepare` raised.
    """

    deadline: int
    full: int
    closed: int
    malformed: int


class DispatchReasons(TypedDict):
    """Batches, by what set their size.

    Attributes:
        queue_emptied: All that waited.
        full_batch: The largest batch; others may have had to wait.
        deadline: A larger one would have been too late for someone.
        probe: One request, to see whether estimates still hold by which all would be late.
    """

    queue_emptied: int
    full_batch: int
    deadline: int
    probe: int


class EngineStats(TypedDict):
    """What an engine has done since it was made.

    `n_submitted` is the sum of `n_answered`, `n_failed`, `n_cancelled`, all rejections,
    `n_queued` and `n_running`. In loop mode that holds whenever the loop is not in the middle of a
    batch: always when asked on it.

    Attributes:
        queue_ms: Percentiles of the wait until a request's batch began, in milliseconds.
        compute_ms: Of `run_batch`, per batch.
        total_ms: From submission to answer, answers at once from `cached` left out.
        throughput_qps: Requests that ran per second, over the last minute.
        n_submitted: Calls of `apredict` and `submit`.
        n_answered: Requests that got their answer.
        n_cached: Those of `n_answered` that were answered at once by `cached`.
        n_failed: Requests whose computing raised.
        n_cancelled: Requests whose callers gave up before they were answered.
        n_rejected: Requests refused, by reason.
        n_queued: Requests that wait now.
        n_running: Requests that are computed now.
        n_batches: Calls for batches; the parts of one that failed and was split are not counted.
        mean_batch_size: Requests per batch; None before the first.
        batch_sizes: Batches by their size.
        dispatch_reasons: Batches by what set their size.
        n_batches_inline: Batches that ran on the event loop.
        n_batches_worker: Batches that ran on the worker thread.
    """

    queue_ms: Percentiles
    compute_ms: Percentiles
    total_ms: Percentiles
    throughput_qps: float
    n_submitted: int
    n_answered: int
    n_cached: int
    n_failed: int
    n_cancelled: int
    n_rejected: Rejections
    n_queued: int
    n_running: int
    n_batches: int
    mean_batch_size: float | None
    batch_sizes: dict[int, int]
    dispatch_reasons: DispatchReasons
    n_batches_inline: int
    n_batches_worker: int


class Counts:
    """Counters of requests and batches. Not thread-safe: the owner serialises."""

    def __init__(self) -> None:
        self.n_submitted = 0
        self.n_answered = 0
        self.n_failed = 0
        self.n_cancelled = 0
        self.n_late = 0
        self.n_full = 0
        self.n_running = 0
        self.batch_sizes: Counter[int] = Counter()
        self.reasons: Counter[str] = Counter()
        self.n_inline = 0


class SideCounts:
    """Requests that never came into the queue. One lock guards the counters."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        call_after_fork(self._after_fork)

    def count(self, kind: str) -> None:
        """Count one: "cached", "closed" or "malformed"."""
        with self._lock:
            self._counts[kind] += 1

    def read(self) -> Counter[str]:
        """All counters, of one moment."""
        with self._lock:
            return Counter(self._counts)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()


class Timings:
    """Waits and durations, in bounded memory.

    Whoever runs batches appends to a buffer, which is atomic; one lock guards what the buffer is
    folded into, many batches at a time.
    """

    def __init__(self, clock: Clock) -> None:
        self._buffer: deque[tuple[float, float, list[float]]] = deque()
        self._lock = threading.Lock()
        self._queue = LogHistogram()
        self._total = LogHistogram()
        self._compute = LatencyRecord(clock.monotonic_s)
        call_after_fork(self._after_fork)

    def add(
        self, submitted_s: list[float], *, started_s: float, ended_s: float, compute_s: float
    ) -> None:
        """Count a batch.

        Args:
            submitted_s: When each of its requests came.
            started_s: When it was taken from the queue.
            ended_s: When its answers were there.
            compute_s: Duration of `run_batch`.
        """
        self._compute.add(compute_s, len(submitted_s))
        self._buffer.append((started_s, ended_s, submitted_s))
        if len(self._buffer) >= _FOLDED_AT:
            with self._lock:
                self._fold()

    def queue_ms(self) -> Percentiles:
        """Percentiles of the wait in the queue."""
        return self._read(self._queue)

    def total_ms(self) -> Percentiles:
        """Percentiles from submission to answer."""
        return self._read(self._total)

    def compute_ms(self) -> Percentiles:
        """Percentiles of a batch's duration."""
        return self._compute.percentiles_ms()

    def throughput_qps(self) -> float:
        """Requests that ran per second, over the last minute."""
        return self._compute.throughput_qps()

    def _read(self, histogram: LogHistogram) -> Percentiles:
        with self._lock:
            self._fold()
            found = (*histogram.quantiles(_LEVELS), histogram.mean())
        p50, p95, p99, mean = (None if value is None else value * MS_PER_S for value in found)
        return {"p50": p50, "p95": p95, "p99": p99, "mean": mean}

    def _after_fork(self) -> None:
        self._lock = threading.Lock()

    def _fold(self) -> None:
        """Empty the buffer; the lock is held."""
        batches = [self._buffer.popleft() for _ in range(len(self._buffer))]
        if not batches:
            return
        sizes = [len(submitted_s) for *_, submitted_s in batches]
        submitted_s = np.concatenate([submitted_s for *_, submitted_s in batches])
        started_s = np.repeat([started_s for started_s, *_ in batches], sizes)
        ended_s = np.repeat([ended_s for _, ended_s, _ in batches], sizes)
        _add(self._queue, started_s - submitted_s)
        _add(self._total, ended_s - submitted_s)


def _add(histogram: LogHistogram, durations_s: ArrayLike) -> None:
    # A caller's clock reading may be a moment newer than that of the thread that takes the batch.
    histogram.add(np.maximum(durations_s, 0.0))


def engine_stats(
    counts: Counts, side: Counter[str], timings: Timings, *, n_queued: int, n_coming: int
) -> EngineStats:
    """The figures as a dict.

    Args:
        counts: Of requests that came to the queue.
        side: Of those that did not.
        timings: Of those that ran.
        n_queued: Requests in the queue.
        n_coming: Requests on their way to it, not yet counted as submitted.
    """
    n_batches = sum(counts.batch_sizes.values())
    n_run = sum(size * n for size, n in counts.batch_sizes.items())
    return {
        "queue_ms": timings.queue_ms(),
        "compute_ms": timings.compute_ms(),
        "total_ms": timings.total_ms(),
        "throughput_qps": timings.throughput_qps(),
        "n_submitted": counts.n_submitted + n_coming + sum(side.values()),
        "n_answered": counts.n_answered + side["cached"],
        "n_cached": side["cached"],
        "n_failed": counts.n_failed,
        "n_cancelled": counts.n_cancelled,
        "n_rejected": {
            "deadline": counts.n_late,
            "full": counts.n_full,
            "closed": side["closed"],
            "malformed": side["malformed"],
        },
        "n_queued": n_queued + n_coming,
        "n_running": counts.n_running,
        "n_batches": n_batches,
        "mean_batch_size": n_run / n_batches if n_batches else None,
        "batch_sizes": dict(sorted(counts.batch_sizes.items())),
        "dispatch_reasons": {
            "queue_emptied": counts.reasons["queue_emptied"],
            "full_batch": counts.reasons["full_batch"],
            "deadline": counts.reasons["deadline"],
            "probe": counts.reasons["probe"],
        },
        "n_batches_inline": counts.n_inline,
        "n_batches_worker": n_batches - counts.n_inline,
    }
