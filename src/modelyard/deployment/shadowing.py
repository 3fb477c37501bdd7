"""A version that answers copies of requests; its answers are compared, and nobody gets them."""

import math
import threading
from dataclasses import dataclass, field, replace
from queue import Empty, Full, Queue
from typing import Any, TypedDict

import numpy as np
import torch

from modelyard._core.clock import Clock
from modelyard._core.plain import finite_or_none
from modelyard.deployment.attempts import attempt
from modelyard.deployment.forms import own_copy
from modelyard.deployment.leaving import end_at_exit
from modelyard.deployment.serving import Served, monitor_name
from modelyard.deployment.watched import as_prediction
from modelyard.monitor import Health, ModelMonitor
from modelyard.torchtools.answers import numbers_in

# Copies that wait; where more come than the version can answer, they are dropped and counted.
_MOST_WAITING = 64
# Answers nearer than this, as a part of the stable version's size, are the same.
_SAME = 1e-3


class ShadowComparison(TypedDict):
    """How a version's answers to copies of requests differ from the stable version's.

    Differences are norms, as a part of the norm of the stable version's answer. An answer of
    another shape counts as failed.
    """

    version_id: str
    n_compared: int
    n_failed: int
    n_dropped: int
    mean_difference: float | None
    largest_difference: float | None
    same_share: float | None


@dataclass(frozen=True, kw_only=True)
class _Copy:
    """A request's input, and what the stable version answered."""

    x: Any
    answer: Any
    request_id: str


@dataclass(kw_only=True)
class _Sums:
    """What the comparisons come to."""

    n: int = 0
    n_failed: int = 0
    n_dropped: int = 0
    total: float = 0.0
    largest: float = 0.0
    n_same: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class Shadow:
    """Runs one version on copies of requests, on a thread of its own.

    Thread-safe: a queue takes the copies, one lock guards the sums.

    Args:
        served: The version.
        window_size: How many answers its health looks at.
        clock: Tells the time.
    """

    def __init__(self, served: Served, *, window_size: int, clock: Clock) -> None:
        self.version_id = served.version_id
        self._served = served
        # One of its own: what a thread that waits for others takes is no latency of a request.
        self._monitor = ModelMonitor(
            monitor_name(served.version_id),
            window_size=window_size,
            clock=clock,
            background=False,
        )
        self._sums = _Sums()
        self._copies: Queue[_Copy | None] = Queue(_MOST_WAITING)
        name = f"modelyard-shadow-{served.version_id}"
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()
        end_at_exit(self._thread, self.stop)

    def offer(self, x: Any, answer: Any, request_id: str) -> None:
        """Take a copy of a request, or drop it where too many wait. Returns at once."""
        try:
            self._copies.put_nowait(_Copy(x=own_copy(x), answer=answer, request_id=request_id))
        except Full:
            with self._sums.lock:
                self._sums.n_dropped += 1

    def stop(self) -> None:
        """Take no more copies; those that wait are forgotten."""
        try:
            while True:
                self._copies.get_nowait()
                self._copies.task_done()
        except Empty:
            self._copies.put(None)

    def drain(self) -> None:
        """Wait until every copy taken so far is answered."""
        self._copies.join()

    def health(self) -> Health:
        """How it has been doing, without latencies: they are not those of real requests."""
        return replace(
            self._monitor.health(),
            latency_mean_ms=math.nan,
            latency_median_ms=math.nan,
            latency_p95_ms=math.nan,
            latency_p99_ms=math.nan,
            latency_log_error=math.nan,
        )

    def comparison(self) -> ShadowComparison:
        """What the comparisons come to so far."""
        with self._sums.lock:
            sums, n = self._sums, self._sums.n
            return {
                "version_id": self.version_id,
                "n_compared": n,
                "n_failed": sums.n_failed,
                "n_dropped": sums.n_dropped,
                "mean_difference": finite_or_none(sums.total / n) if n else None,
                "largest_difference": finite_or_none(sums.largest) if n else None,
                "same_share": sums.n_same / n if n else None,
            }

    def _work(self) -> None:
        while True:
            copy = self._copies.get()
            try:
                if copy is None:
                    return
                self._answer(copy)
            finally:
                self._copies.task_done()

    def _answer(self, copy: _Copy) -> None:
        made = attempt(self._served, copy.x)
        difference = None if made.error is not None else _difference(made.output, copy.answer)
        # An answer of another shape is none that a caller could use.
        self._monitor.record_prediction(
            as_prediction(made.output),
            made.latency_s,
            error=difference is None,
            request_id=copy.request_id,
        )
        with self._sums.lock:
            if difference is None:
                self._sums.n_failed += 1
                return
            self._sums.n += 1
            self._sums.total += difference
            self._sums.largest = max(self._sums.largest, difference)
            self._sums.n_same += difference <= _SAME


def _difference(output: Any, answer: Any) -> float | None:
    """Norm of the difference over that of the answer; None where the shapes differ."""
    ours, theirs = numbers_in(output), numbers_in(answer)
    if [tensor.shape for tensor in ours] != [tensor.shape for tensor in theirs]:
        return None
    pairs = [(_wide(a), _wide(b)) for a, b in zip(ours, theirs, strict=True)]
    apart = sum(float((a - b).abs().square().sum()) for a, b in pairs)
    size = sum(float(b.abs().square().sum()) for _, b in pairs)
    return float(np.sqrt(apart / size)) if size > 0.0 else float(np.sqrt(apart))


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)
