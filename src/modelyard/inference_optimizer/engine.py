"""A batching engine: many callers, one model, nobody waits for a batch to fill.

One worker takes whatever is queued when it becomes free, runs it as one batch and hands every
caller its own answer or its own error. A request whose deadline the next batch would miss is
rejected at once instead of being computed too late for anyone.
"""

import statistics
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from modelyard._core.clock import Clock
from modelyard._core.errors import DeadlineExceededError, NotReadyError, QueueFullError
from modelyard.torchtools.timing import MS_PER_S

RunBatch = Callable[[Sequence[Any]], Sequence[Any]]

_REMEMBERED_BATCHES = 50


@dataclass(frozen=True)
class _Request:
    inputs: Any
    deadline_s: float | None
    future: "Future[Any]" = field(default_factory=Future)


class BatchingEngine:
    """Runs requests from any thread in batches. One condition guards the queue and the flags.

    Args:
        run_batch: Computes the answers of several inputs, in order.
        max_batch: Largest batch.
        max_queue: How many requests may wait.
        clock: Where the time comes from.
    """

    def __init__(
        self, run_batch: RunBatch, *, max_batch: int, max_queue: int, clock: Clock
    ) -> None:
        self._run_batch = run_batch
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._clock = clock
        self._changed = threading.Condition()
        self._queue: deque[_Request] = deque()
        self._is_closing = False
        self._service_s: deque[float] = deque(maxlen=_REMEMBERED_BATCHES)
        self._worker = threading.Thread(target=self._work, name="modelyard-engine", daemon=True)
        self._worker.start()

    def submit(self, inputs: Any, *, deadline_ms: float | None = None) -> "Future[Any]":
        """Queue a request; its future gives the answer or the error.

        Args:
            inputs: What `run_batch` takes.
            deadline_ms: Milliseconds from now after which the answer is of no use.

        Raises:
            QueueFullError: Too many wait already; holds the time after which to retry.
            NotReadyError: The engine is closed.
        """
        deadline = None
        if deadline_ms is not None:
            deadline = self._clock.monotonic_s() + deadline_ms / MS_PER_S
        request = _Request(inputs, deadline)
        with self._changed:
            if self._is_closing:
                raise NotReadyError("The engine is closed; make a new one or enter it again.")
            if len(self._queue) >= self._max_queue:
                wait_s = self._service_time_s() * (len(self._queue) / self._max_batch)
                raise QueueFullError(
                    f"{len(self._queue)} requests wait, which is the limit. "
                    f"Try again in {wait_s:.3f} s.",
                    retry_after_s=wait_s,
                )
            self._queue.append(request)
            self._changed.notify()
        return request.future

    def close(self, *, drain: bool = True) -> None:
        """Stop taking requests, answer (or, without `drain`, cancel) those queued, and end."""
        with self._changed:
            self._is_closing = True
            if not drain:
                for request in self._queue:
                    request.future.cancel()
            self._changed.notify()
        self._worker.join()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._is_closing:
                    self._changed.wait()
                if not self._queue:
                    return
                n = min(len(self._queue), self._max_batch)
                taken = [self._queue.popleft() for _ in range(n)]
            self._serve(taken)

    def _serve(self, taken: list[_Request]) -> None:
        finish_s = self._clock.monotonic_s() + self._service_time_s()
        batch = []
        for request in taken:
            if not request.future.set_running_or_notify_cancel():
                continue  # its caller gave up
            if request.deadline_s is not None and finish_s > request.deadline_s:
                request.future.set_exception(
                    DeadlineExceededError(
                        "The answer would come after the deadline; it was not computed."
                    )
                )
                continue
            batch.append(request)
        if batch:
            self._answer(batch)

    def _answer(self, batch: list[_Request]) -> None:
        started = self._clock.monotonic_s()
        try:
            answers = self._run_batch([request.inputs for request in batch])
        except BaseException as error:  # noqa: BLE001 - whatever the model raises belongs to its caller; a worker that ends leaves all others waiting
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            # One of them is the culprit; its neighbours still get their answers.
            for request in batch:
                self._answer([request])
            return
        self._service_s.append(self._clock.monotonic_s() - started)
        for request, answer in zip(batch, answers, strict=True):
            request.future.set_result(answer)

    def _service_time_s(self) -> float:
        """Median duration of the last batches; a median forgets one slow batch."""
        return statistics.median(self._service_s) if self._service_s else 0.0
