"""Which requests run next, which cannot be answered in time, and where a batch runs."""

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from operator import methodcaller
from typing import Literal

from modelyard.inference_optimizer.engine.line import Line
from modelyard.inference_optimizer.engine.requests import Request

Estimate = Callable[[int], float]
"""Seconds that a batch of a size takes."""

Reason = Literal["queue_emptied", "full_batch", "deadline", "probe"]
"""Why a batch had the size it had: nothing else waited, no more may run at once, a larger one
would have been late for someone, or it is one request to see whether the estimates still hold."""

# How many of those behind a batch are asked whether a choice makes them late.
_LOOKED_AHEAD = 512

# Median duration of a call: above the first, the loop must not wait for it; below the second,
# handing it to a worker costs more than it. Between them things stay as they are.
_TO_WORKER_S = 0.4e-3
_TO_LOOP_S = 0.25e-3
_REMEMBERED_CALLS = 9

_STARTS = methodcaller("start")


@dataclass
class Plan:
    """What to do with the head of the line.

    Attributes:
        batch: To run now, in order.
        late: Cannot be answered in time: each with the time at which its answer would be there,
            in seconds on the engine's clock.
        n_cancelled: Had no waiter any more.
        reason: Why the batch has its size.
    """

    batch: list[Request] = field(default_factory=list)
    late: list[tuple[Request, float]] = field(default_factory=list)
    n_cancelled: int = 0
    reason: Reason = "queue_emptied"


def planned(line: Line, *, now_s: float, estimate_s: Estimate, max_batch: int) -> Plan:
    """Take from the line what runs next and what cannot be answered in time.

    By the estimate the batch misses no deadline: a request stays in the line, is in the batch, or
    is late.

    Args:
        line: Those who wait; what the plan holds is removed.
        now_s: The time, on the clock of the deadlines.
        estimate_s: Never falls as the size grows.
        max_batch: Largest batch.
    """
    plan = Plan()
    if not line.n_deadlines:
        _fill(plan, line, max_batch, _STARTS)
        return plan
    _plan_with_deadlines(plan, line, now_s, estimate_s, max_batch)
    # Those who gave up since they were looked at leave a hole that is not worth filling.
    started = [request for request in plan.batch if request.start()]
    plan.n_cancelled += len(plan.batch) - len(started)
    plan.batch = started
    return plan


def _is_waiting(request: Request) -> bool:
    return not request.is_cancelled()


def _fill(plan: Plan, line: Line, max_batch: int, is_kept: Callable[[Request], bool]) -> None:
    while line.n and len(plan.batch) < max_batch:
        taken = line.take(max_batch - len(plan.batch))
        kept = [*filter(is_kept, taken)]
        plan.n_cancelled += len(taken) - len(kept)
        plan.batch += kept
    plan.reason = "full_batch" if len(plan.batch) == max_batch else "queue_emptied"


def _plan_with_deadlines(
    plan: Plan, line: Line, now_s: float, estimate_s: Estimate, max_batch: int
) -> None:
    alone_s = now_s + estimate_s(1)
    _fill_in_time(plan, line, alone_s, max_batch)
    while plan.batch:
        finish_s = now_s + estimate_s(len(plan.batch))
        tight = [request for request in plan.batch if is_late(request, finish_s)]
        if not tight:
            return
        n_first = longest_in_time(plan.batch, now_s, estimate_s)
        if _should_shrink(plan.batch, tight, n_first, line, now_s, estimate_s, max_batch):
            line.put_back(plan.batch[n_first:])
            plan.batch = plan.batch[:n_first]
            plan.reason = "deadline"
            return
        plan.late += [(request, finish_s) for request in tight]
        plan.batch = [request for request in plan.batch if not is_late(request, finish_s)]
        _fill_in_time(plan, line, alone_s, max_batch)


def _fill_in_time(plan: Plan, line: Line, alone_s: float, max_batch: int) -> None:
    """Fill up with those that would be in time if they ran alone now."""
    while True:
        _fill(plan, line, max_batch, _is_waiting)
        late = [request for request in plan.batch if is_late(request, alone_s)]
        if not late:
            return
        plan.late += [(request, alone_s) for request in late]
        plan.batch = [request for request in plan.batch if not is_late(request, alone_s)]


def _should_shrink(
    batch: list[Request],
    tight: list[Request],
    n_first: int,
    line: Line,
    now_s: float,
    estimate_s: Estimate,
    max_batch: int,
) -> bool:
    """Whether running only the first `n_first` loses fewer than rejecting the tight ones.

    Equal losses speak for the larger batch, since it does more in less time.
    """
    behind = [*islice(line, _LOOKED_AHEAD)]
    shrunk_s = now_s + estimate_s(n_first)
    lost_by_shrinking = n_late([*batch[n_first:], *behind], shrunk_s, estimate_s, max_batch)
    if lost_by_shrinking >= len(tight):
        return False
    n_kept = len(batch) - len(tight)
    n_filled = min(n_kept + len(behind), max_batch)
    rejected_s = now_s + estimate_s(n_filled)
    lost_by_rejecting = n_late(behind[n_filled - n_kept :], rejected_s, estimate_s, max_batch)
    return lost_by_shrinking < len(tight) + lost_by_rejecting


def is_late(request: Request, finish_s: float) -> bool:
    """Whether an answer at `finish_s` comes after the request's deadline."""
    return request.deadline_s is not None and finish_s > request.deadline_s


def longest_in_time(batch: Sequence[Request], now_s: float, estimate_s: Estimate) -> int:
    """How many of the first can run as one batch with none of them late."""
    tightest_s = math.inf
    longest = 0
    for n, request in enumerate(batch, 1):
        if request.deadline_s is not None:
            tightest_s = min(tightest_s, request.deadline_s)
        if now_s + estimate_s(n) > tightest_s:
            break
        longest = n
    return longest


def n_late(
    requests: Sequence[Request], start_s: float, estimate_s: Estimate, max_batch: int
) -> int:
    """How many are late if full batches run from `start_s` on, in order."""
    count = 0
    for i in range(0, len(requests), max_batch):
        batch = requests[i : i + max_batch]
        start_s += estimate_s(len(batch))
        count += sum(is_late(request, start_s) for request in batch)
    return count


def earliest_finish_s(
    n_ahead: int, *, start_s: float, estimate_s: Estimate, max_batch: int
) -> float:
    """When a request can be answered at the earliest that has `n_ahead` others before it."""
    n_full, n_rest = divmod(n_ahead, max_batch)
    full_s = n_full * estimate_s(max_batch) if n_full else 0.0
    return start_s + full_s + estimate_s(n_rest + 1)


class Probing:
    """Lets a request through now and then although by the estimate it would be late.

    When all are rejected nothing is measured, and an estimate that has become too high would stay.
    Each probe that was slow again doubles the wait for the next one.
    """

    def __init__(self) -> None:
        self._n_failed = 0
        self._last_s = -math.inf

    def is_due(self, now_s: float, alone_s: float) -> bool:
        """Whether a probe may run.

        Args:
            now_s: The time.
            alone_s: Estimated duration of a batch of one.
        """
        return now_s >= self._last_s + alone_s * (1 << self._n_failed)

    def ran(self, now_s: float, *, has_failed: bool) -> None:
        """Note the end of a batch, and whether it was a probe that was late."""
        self._last_s = now_s
        if not has_failed:
            self._n_failed = 0
        elif self._n_failed < 16:  # noqa: PLR2004 - a longer wait than 65,000 calls helps nobody
            self._n_failed += 1


class Placement:
    """Whether a batch runs on the event loop or on the worker.

    Args:
        is_inline: Where all run; None to choose by the median of the last calls. Until one is
            known they run on the worker, which never stops the loop.
    """

    def __init__(self, *, is_inline: bool | None = None) -> None:
        self._is_fixed = is_inline is not None
        self._durations_s: deque[float] = deque(maxlen=_REMEMBERED_CALLS)
        self.is_inline = bool(is_inline)

    def observe(self, duration_s: float) -> None:
        """Count a call of `duration_s` seconds."""
        if self._is_fixed:
            return
        self._durations_s.append(duration_s)
        limit_s = _TO_WORKER_S if self.is_inline else _TO_LOOP_S
        self.is_inline = median_of(self._durations_s) < limit_s


def median_of(values: Iterable[float]) -> float:
    """The middle one; the larger of two."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
