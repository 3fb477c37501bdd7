"""The engine apart from threads and loops: who waits, what runs, what is counted."""

from collections.abc import Mapping
from typing import Any

from modelyard._core.errors import DeadlineExceededError, QueueFullError
from modelyard.inference_optimizer.engine.line import Line
from modelyard.inference_optimizer.engine.policy import (
    Plan,
    Probing,
    earliest_finish_s,
    is_late,
    planned,
)
from modelyard.inference_optimizer.engine.requests import Request
from modelyard.inference_optimizer.engine.service_times import ServiceTimes
from modelyard.inference_optimizer.engine.stats import Counts
from modelyard.torchtools.timing import MS_PER_S

# Half of all batches take longer than the median, and under overload every request would run at
# the edge of its deadline. It costs no throughput: only the queue becomes that much shorter.
_CAUTION = 1.2

Rejected = list[tuple[Request, DeadlineExceededError]]


class Core:
    """The queue, the estimates and the counters of one engine.

    At most one batch runs at a time. It knows no clock, thread or loop, hands nothing to futures,
    and is not thread-safe: its owner serialises and resolves.

    Args:
        max_batch: Largest batch.
        max_queue: How many may wait.
        service_s: Durations measured before, in seconds by batch size.
    """

    def __init__(
        self, *, max_batch: int, max_queue: int, service_s: Mapping[int, float] | None = None
    ) -> None:
        self.counts = Counts()
        self.line = Line()
        self.times = ServiceTimes(service_s)
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._probing = Probing()
        self._started_s = 0.0
        self._is_probe = False
        self._is_swept = False

    @property
    def n_queued(self) -> int:
        """How many wait."""
        return self.line.n

    def estimate_s(self, size: int) -> float:
        """Seconds to plan with for a batch of `size`: the median and something for its spread."""
        return _CAUTION * self.times.estimate_s(size)

    def admit(self, request: Request, now_s: float) -> None:
        """Put a request into the queue.

        Raises:
            QueueFullError: Too many wait.
            DeadlineExceededError: Those before it take so long that it would be late.
        """
        self.counts.n_submitted += 1
        if self.line.n >= self._max_queue:
            self._sweep()
            if self.line.n >= self._max_queue:
                self.counts.n_full += 1
                raise self._full(now_s)
        if request.deadline_s is not None:
            self._check_deadline(request, now_s)
        self.line.push(request)

    def next_batch(self, now_s: float) -> tuple[Plan, Rejected]:
        """What runs now, and those that cannot be answered in time any more.

        The plan's batch may be empty; otherwise `finished` has to follow before the next call.
        """
        self._is_swept = False
        plan = planned(
            self.line, now_s=now_s, estimate_s=self.estimate_s, max_batch=self._max_batch
        )
        self._is_probe = False
        if plan.late:
            self._try_probe(plan, now_s)
        counts = self.counts
        counts.n_cancelled += plan.n_cancelled
        rejected = self._rejected(plan) if plan.late else []
        n = len(plan.batch)
        if n:
            counts.n_running = n
            counts.batch_sizes[n] += 1
            counts.reasons[plan.reason] += 1
            self._started_s = now_s
        return plan, rejected

    def finished(
        self,
        batch: list[Request],
        *,
        started_s: float,
        ended_s: float,
        n_answered: int,
        n_failed: int,
    ) -> None:
        """Note the end of a batch.

        Args:
            batch: What ran.
            started_s: When it was taken.
            ended_s: When its answers were there.
            n_answered: How many of its requests got an answer.
            n_failed: How many failed; a batch with such was split, and its duration tells nothing.
        """
        n = len(batch)
        self.counts.n_running = 0
        self.counts.n_answered += n_answered
        self.counts.n_failed += n_failed
        self.counts.n_cancelled += n - n_answered - n_failed
        if not n_failed:
            learn = self.times.restart if self._is_probe else self.times.observe
            learn(n, ended_s - started_s)
        has_failed = self._is_probe and is_late(batch[0], ended_s)
        self._probing.ran(ended_s, has_failed=has_failed)

    def abandon_running(self) -> None:
        """The batch that runs will not be heard of any more; its requests count as cancelled."""
        self.counts.n_cancelled += self.counts.n_running
        self.counts.n_running = 0

    def cancel_all(self) -> list[Request]:
        """Empty the queue; its requests count as cancelled."""
        everyone = self.line.take(self.line.n)
        self.counts.n_cancelled += len(everyone)
        return everyone

    # ── inside ──────────────────────────────────────────────────────────────────────────────

    def _check_deadline(self, request: Request, now_s: float) -> None:
        finish_s = self._finish_s(request, now_s)
        if finish_s is None or not is_late(request, finish_s):
            return
        if self._sweep():
            finish_s = self._finish_s(request, now_s)
            if finish_s is None or not is_late(request, finish_s):
                return
        self.counts.n_late += 1
        raise _late(request, finish_s)

    def _finish_s(self, request: Request, now_s: float) -> float | None:
        """When it will be answered at the earliest; None if it is next, and dispatch decides."""
        n_ahead = self.line.n_ahead(request.priority)
        if not n_ahead and not self.counts.n_running:
            return None
        return self._after_s(n_ahead, now_s)

    def _after_s(self, n_ahead: int, now_s: float) -> float:
        start_s = now_s
        if self.counts.n_running:
            start_s = max(now_s, self._started_s + self.estimate_s(self.counts.n_running))
        return earliest_finish_s(
            n_ahead, start_s=start_s, estimate_s=self.estimate_s, max_batch=self._max_batch
        )

    def _sweep(self) -> int:
        """Remove those whose callers gave up; once for each batch, since it looks at all."""
        if self._is_swept:
            return 0
        self._is_swept = True
        n_gone = self.line.sweep()
        self.counts.n_cancelled += n_gone
        return n_gone

    def _full(self, now_s: float) -> QueueFullError:
        n = self.line.n
        wait_s = self._after_s(n - 1, now_s) - now_s
        return QueueFullError(
            f"{n} requests wait, which is the limit. Try again in {wait_s:.3f} s.",
            retry_after_s=wait_s,
        )

    def _try_probe(self, plan: Plan, now_s: float) -> None:
        """Run the one with the most time left, if all would be rejected and a probe is due."""
        if plan.batch or self.line.n:
            return
        if not self._probing.is_due(now_s, self.times.estimate_s(1)):
            return
        best = max(plan.late, key=_deadline_of)
        if _deadline_of(best) > now_s and best[0].start():
            plan.late.remove(best)
            plan.batch = [best[0]]
            plan.reason = "probe"
            self._is_probe = True

    def _rejected(self, plan: Plan) -> Rejected:
        rejected = []
        for request, finish_s in plan.late:
            if request.start():
                rejected.append((request, _late(request, finish_s)))
        self.counts.n_late += len(rejected)
        self.counts.n_cancelled += len(plan.late) - len(rejected)
        return rejected


def _deadline_of(late: tuple[Request, Any]) -> float:
    deadline_s = late[0].deadline_s
    assert deadline_s is not None  # noqa: S101 - without a deadline none is late
    return deadline_s


def _late(request: Request, finish_s: float) -> DeadlineExceededError:
    assert request.deadline_s is not None  # noqa: S101 - without a deadline none is late
    late_ms = (finish_s - request.deadline_s) * MS_PER_S
    return DeadlineExceededError(
        f"The answer would come {late_ms:.3f} ms after the deadline; it was not computed. "
        "Allow more time, or send less."
    )
