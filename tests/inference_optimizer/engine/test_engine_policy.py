"""The engine's decisions, each a pure function, as tables of cases."""

import math
from concurrent.futures import Future
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelyard.inference_optimizer.engine.line import Line
from modelyard.inference_optimizer.engine.policy import (
    Placement,
    Probing,
    earliest_finish_s,
    planned,
)
from modelyard.inference_optimizer.engine.requests import ThreadRequest
from modelyard.inference_optimizer.engine.running import answers_of
from modelyard.inference_optimizer.engine.service_times import (
    ServiceTimes,
    curve_of,
    estimate_on,
)


def request(name="x", *, deadline_s=None, priority=0):
    return ThreadRequest(name, Future(), 0.0, deadline_s, priority)


def line_of(*requests):
    line = Line()
    for item in requests:
        line.push(item)
    return line


def names(requests):
    return "".join(item.prepared for item in requests)


# ── the line ────────────────────────────────────────────────────────────────────────────────


def test_highest_priority_goes_first_and_first_come_within():
    line = line_of(
        request("a"), request("b", priority=2), request("c", priority=-1), request("d", priority=2)
    )
    assert names(line) == "bdac"
    assert [line.n_ahead(priority) for priority in (3, 2, 1, 0, -1)] == [0, 2, 2, 3, 4]
    assert names(line.take(3)) == "bda"
    assert line.n == 1


def test_what_is_put_back_stands_where_it_was():
    line = line_of(
        request("a", priority=1), request("b", deadline_s=1.0), request("c"), request("d")
    )
    taken = line.take(3)
    line.put_back(taken)
    assert names(line) == "abcd"
    assert (line.n, line.n_deadlines) == (4, 1)


def test_sweep_removes_those_who_gave_up():
    gone = request("b", deadline_s=1.0)
    line = line_of(request("a"), gone, request("c", priority=1))
    gone.future.cancel()
    assert line.sweep() == 1
    assert (names(line), line.n, line.n_deadlines) == ("ca", 2, 0)


def test_priorities_nobody_waits_with_take_no_memory():
    line = Line()
    for priority in range(1000):
        line.push(request(priority=priority))
        line.take(1)
    assert len(line._by_priority) == 1


# ── which run next ──────────────────────────────────────────────────────────────────────────


def affine(first_s, per_request_s):
    return lambda n: first_s + per_request_s * n


@pytest.mark.parametrize(
    ("deadlines", "max_batch", "batch", "late", "reason"),
    [
        ([None] * 3, 4, "abc", "", "queue_emptied"),
        ([None] * 6, 4, "abcd", "", "full_batch"),
        ([9, 9, 9], 4, "abc", "", "queue_emptied"),
        # A batch of n takes 1 + n seconds: alone 2.
        ([1, 9, 9], 4, "bc", "a", "queue_emptied"),
        # All three would take 4; with two the first is in time, and the third after it.
        ([3, 9, 9], 4, "ab", "", "deadline"),
        ([2, 9, 9], 4, "a", "", "deadline"),
        # Shrinking saves the first and loses the last two: less is lost by rejecting the first.
        ([2, 4, 4], 4, "bc", "a", "queue_emptied"),
        # A backlog that would all be late by one more second.
        ([4, 9, 9, 9, 10, 10, 10, 10], 4, "bcde", "a", "full_batch"),
        # One that has time.
        ([4, 9, 9, 9, None, None], 4, "abc", "", "deadline"),
        ([1, 1], 4, "", "ab", "queue_emptied"),
    ],
)
def test_what_runs_next_loses_the_fewest(deadlines, max_batch, batch, late, reason):
    requests = [
        request(name, deadline_s=deadline)
        for name, deadline in zip("abcdefgh", deadlines, strict=False)
    ]
    plan = planned(line_of(*requests), now_s=0.0, estimate_s=affine(1.0, 1.0), max_batch=max_batch)
    assert names(plan.batch) == batch
    assert names(item for item, _ in plan.late) == late
    assert plan.reason == reason


def test_urgent_request_is_not_delayed_by_a_batch_of_others():
    line = line_of(*(request("a") for _ in range(40)), request("!", priority=1, deadline_s=3.0))
    plan = planned(line, now_s=0.0, estimate_s=affine(1.0, 1.0), max_batch=32)
    assert names(plan.batch) == "!a"
    assert names(line.take(2)) == "aa"


@given(
    st.lists(st.tuples(st.none() | st.floats(0, 100), st.integers(-1, 1), st.booleans())),
    st.integers(1, 6),
    st.floats(0.1, 10),
    st.floats(0, 10),
)
def test_plan_misses_no_deadline_by_estimate_and_loses_nobody(rows, max_batch, first_s, more_s):
    requests = [request(deadline_s=deadline, priority=priority) for deadline, priority, _ in rows]
    line = line_of(*requests)
    for item, (*_, is_cancelled) in zip(requests, rows, strict=True):
        if is_cancelled:
            item.future.cancel()
    estimate = affine(first_s, more_s)
    plan = planned(line, now_s=0.0, estimate_s=estimate, max_batch=max_batch)
    finish_s = estimate(len(plan.batch))
    assert all(item.deadline_s is None or item.deadline_s >= finish_s for item in plan.batch)
    assert all(item.deadline_s < answered_s for item, answered_s in plan.late)
    assert len(plan.batch) <= max_batch
    assert len(plan.batch) + len(plan.late) + plan.n_cancelled + line.n == len(requests)
    assert line.n == len([*line])
    assert line.n_deadlines == sum(item.deadline_s is not None for item in line)
    assert plan.batch or plan.late or plan.n_cancelled or not requests


@pytest.mark.parametrize(
    ("n_ahead", "finish_s"), [(0, 12), (1, 13), (3, 15), (4, 10 + 5 + 2), (9, 10 + 5 + 5 + 3)]
)
def test_earliest_finish_counts_full_batches_before_its_own(n_ahead, finish_s):
    found = earliest_finish_s(n_ahead, start_s=10, estimate_s=affine(1.0, 1.0), max_batch=4)
    assert found == finish_s


# ── service times ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("durations", "curve"),
    [
        ({}, []),
        ({4: [2.0]}, [(4, 2.0)]),
        ({1: [1.0] * 3, 2: [1.0, 9.0, 1.0]}, [(1, 1.0), (2, 1.0)]),
        # The larger was faster: both the weighted mean.
        ({1: [4.0] * 3, 2: [1.0] * 9}, [(1, 1.75), (2, 1.75)]),
        # Seen once: no more than in proportion to the one before.
        ({1: [1.0] * 5, 2: [50.0]}, [(1, 1.0), (2, 2.0)]),
    ],
)
def test_curve_is_the_medians_made_monotone(durations, curve):
    assert curve_of(durations) == curve


@pytest.mark.parametrize(
    ("curve", "size", "estimate_s"),
    [
        ([], 7, 0.0),
        ([(4, 2.0)], 4, 2.0),
        ([(4, 2.0)], 1, 0.5),
        ([(4, 2.0)], 8, 2.0),
        ([(4, 2.0)], 16, 4.0),
        ([(2, 2.0), (4, 3.0)], 3, 2.5),
        ([(2, 2.0), (4, 3.0)], 1, 1.5),
        ([(2, 2.0), (4, 9.0)], 1, 1.0),
        ([(2, 2.0), (4, 3.0)], 8, 5.0),
    ],
)
def test_sizes_never_seen_are_estimated_from_those_seen(curve, size, estimate_s):
    assert estimate_on(curve, size) == pytest.approx(estimate_s)


@given(
    st.lists(st.tuples(st.integers(1, 64), st.floats(1e-6, 10)), min_size=1, max_size=300),
)
def test_estimates_never_fall_as_the_size_grows(batches):
    times = ServiceTimes()
    for size, duration_s in batches:
        times.observe(size, duration_s)
    estimates = [times.estimate_s(size) for size in range(1, 130)]
    assert all(a <= b * (1 + 1e-9) for a, b in pairwise(estimates))
    assert estimates[0] >= 0
    assert math.isfinite(estimates[-1])


def test_one_slow_batch_changes_nothing():
    times = ServiceTimes({1: 1e-3, 8: 2e-3})
    for size in (1, 8) * 5:
        times.observe(size, 1e-3 if size == 1 else 2e-3)
    before = [times.estimate_s(size) for size in range(1, 17)]
    times.observe(8, 5.0)
    times.observe(16, 5.0)
    after = [times.estimate_s(size) for size in range(1, 17)]
    assert after[:8] == before[:8]
    assert after[15] <= 2 * before[7]


def test_a_size_not_run_for_long_is_forgotten():
    times = ServiceTimes()
    for _ in range(15):
        times.observe(32, 1.0)
    assert times.estimate_s(32) == 1.0
    for i in range(300):
        times.observe(1 + i % 2 * 15, 1e-3 if i % 2 == 0 else 2e-3)
    assert times.estimate_s(32) < 4e-3


def test_memory_is_bounded_by_the_sizes():
    times = ServiceTimes()
    for i in range(10_000):
        times.observe(1 + i % 8, 1e-3)
    assert sum(map(len, times._windows.values())) <= 8 * 15


# ── probes and the place ────────────────────────────────────────────────────────────────────


def test_each_slow_probe_doubles_the_wait_for_the_next():
    probing = Probing()
    assert probing.is_due(0.0, 1.0)
    probing.ran(0.0, has_failed=False)
    waits = []
    now_s = 0.0
    for _ in range(4):
        start_s = now_s
        while not probing.is_due(now_s, 1.0):
            now_s += 0.5
        waits.append(now_s - start_s)
        probing.ran(now_s, has_failed=True)
    assert waits == [1.0, 2.0, 4.0, 8.0]
    probing.ran(now_s, has_failed=False)
    assert probing.is_due(now_s + 1.0, 1.0)


def test_place_follows_the_median_and_does_not_flicker_at_the_limit():
    placement = Placement()
    assert not placement.is_inline
    for duration_s in [3e-3, *[0.1e-3] * 9]:
        placement.observe(duration_s)
    assert placement.is_inline
    for _ in range(20):
        placement.observe(0.3e-3)
        assert placement.is_inline
    for _ in range(5):
        placement.observe(5e-3)
    assert not placement.is_inline
    for _ in range(20):
        placement.observe(0.3e-3)
        assert not placement.is_inline


def test_a_place_asked_for_is_kept():
    placement = Placement(is_inline=True)
    for _ in range(20):
        placement.observe(1.0)
    assert placement.is_inline


# ── a batch that fails ──────────────────────────────────────────────────────────────────────


class Picky:
    """Refuses batches with a bad request, and counts its calls."""

    def __init__(self, bad):
        self.bad = set(bad)
        self.n_calls = 0

    def __call__(self, batch):
        self.n_calls += 1
        if self.bad & set(batch):
            raise ValueError(f"bad: {self.bad & set(batch)}")
        return [10 * x for x in batch]


@given(st.sets(st.integers(0, 31)), st.integers(1, 32))
def test_only_culprits_fail_and_all_others_get_their_own_answer(bad, n):
    model = Picky(bad)
    answers, failures = answers_of(model, [*range(n)])
    assert failures.keys() == {x for x in bad if x < n}
    assert all(answers[x] == 10 * x for x in range(n) if x not in failures)


def test_one_culprit_costs_two_calls_for_each_doubling():
    model = Picky({13})
    answers_of(model, [*range(32)])
    assert model.n_calls == 1 + 2 * 5


@pytest.mark.parametrize(
    ("given_back", "message"),
    [([1, 2], "2 answers to 3"), ([1, 2, 3, 4], "4 answers to 3"), (iter([1, 2, 3]), "iterator")],
)
def test_wrong_number_of_answers_is_an_error_for_all_of_the_batch(given_back, message):
    _, failures = answers_of(lambda _: given_back, ["a", "b", "c"])
    assert failures.keys() == {0, 1, 2}
    assert all(message in str(error) for error in failures.values())
    assert len({id(error) for error in failures.values()}) == 3


def test_interrupt_is_nobodys_fault_and_nothing_runs_again():
    calls = []

    def interrupted(batch):
        calls.append(batch)
        raise KeyboardInterrupt

    _, failures = answers_of(interrupted, [1, 2, 3, 4])
    assert len(calls) == 1
    assert failures.keys() == {0, 1, 2, 3}
