"""The queue with its counters and estimates, driven by hand: no threads, no loops."""

from concurrent.futures import Future

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from modelyard import ManualClock
from modelyard._core.errors import DeadlineExceededError, QueueFullError
from modelyard.inference_optimizer.engine.core import Core
from modelyard.inference_optimizer.engine.hosts import hand_over
from modelyard.inference_optimizer.engine.requests import ThreadRequest


def request(prepared="x", *, now_s=0.0, deadline_s=None, priority=0):
    return ThreadRequest(prepared, Future(), now_s, deadline_s, priority)


def ran(core, batch, *, started_s, ended_s):
    core.finished(batch, started_s=started_s, ended_s=ended_s, n_answered=len(batch), n_failed=0)


def measured(core, duration_s, *, n=15):
    for _ in range(n):
        core.times.observe(1, duration_s)


def test_request_that_waits_for_too_many_others_is_rejected_at_submission():
    core = Core(max_batch=1, max_queue=10, service_s={1: 1.0})
    core.admit(request(), 0.0)
    core.next_batch(0.0)
    core.admit(request(deadline_s=2.5), 0.1)
    with pytest.raises(DeadlineExceededError, match=r"come 1100\.000 ms after the deadline"):
        core.admit(request(deadline_s=2.5), 0.1)
    assert core.counts.n_late == 1


def test_lower_priority_does_not_count_as_ahead():
    core = Core(max_batch=1, max_queue=10, service_s={1: 1.0})
    core.admit(request(), 0.0)
    core.next_batch(0.0)
    for _ in range(5):
        core.admit(request(priority=-1), 0.0)
    core.admit(request("!", deadline_s=3.0), 0.0)
    ran(core, [request()], started_s=0.0, ended_s=1.0)
    plan, _ = core.next_batch(1.0)
    assert plan.batch[0].prepared == "!"


def test_those_who_gave_up_are_not_ahead_of_anyone():
    core = Core(max_batch=1, max_queue=2, service_s={1: 1.0})
    core.admit(request(), 0.0)
    core.next_batch(0.0)
    gone = [request(), request()]
    for item in gone:
        core.admit(item, 0.0)
        item.future.cancel()
    core.admit(request(deadline_s=3.0), 0.0)
    assert core.n_queued == 1
    assert core.counts.n_cancelled == 2


def test_full_queue_says_how_long_its_work_takes():
    core = Core(max_batch=2, max_queue=4, service_s={1: 1.0, 2: 1.0})
    for _ in range(4):
        core.admit(request(), 0.0)
    with pytest.raises(QueueFullError, match="4 requests wait") as caught:
        core.admit(request(), 0.0)
    assert caught.value.retry_after_s == pytest.approx(2 * 1.2)


def test_estimate_that_is_too_high_is_put_right_by_a_probe():
    core = Core(max_batch=4, max_queue=10)
    measured(core, 10.0)
    now_s, n_answered = 0.0, 0
    for _ in range(100):
        item = request(now_s=now_s, deadline_s=now_s + 0.1)
        core.admit(item, now_s)
        plan, _ = core.next_batch(now_s)
        if plan.batch:
            n_answered += 1
            ran(core, plan.batch, started_s=now_s, ended_s=now_s + 0.01)
        now_s += 0.05
    assert n_answered == 100
    assert core.counts.reasons["probe"] == 1


def test_probes_of_a_model_that_is_truly_slow_become_rare():
    core = Core(max_batch=4, max_queue=10)
    measured(core, 1.0)
    now_s = 0.0
    for _ in range(2000):
        core.admit(request(now_s=now_s, deadline_s=now_s + 0.1), now_s)
        plan, _ = core.next_batch(now_s)
        if plan.batch:
            ran(core, plan.batch, started_s=now_s, ended_s=now_s + 1.0)
            now_s += 1.0
        now_s += 0.05
    assert 4 <= core.counts.reasons["probe"] <= 8
    assert core.counts.n_late == 2000 - core.counts.reasons["probe"]


class AnyOrder(RuleBasedStateMachine):
    """Anything may happen at any time to the queue of an engine."""

    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.core = Core(max_batch=4, max_queue=12)
        self.requests = []
        self.refused = 0
        self.running = None
        self.started_s = 0.0
        self.order = []

    @initialize(known_s=st.sampled_from([{}, {1: 1.0, 4: 2.5}, {1: 20.0, 4: 20.0}]))
    def start(self, known_s):
        """With nothing known, with times that make batches shrink, or with a poisoned estimate."""
        for _ in range(15):
            for size, duration_s in known_s.items():
                self.core.times.observe(size, duration_s)

    @rule(
        slack_s=st.none() | st.floats(0, 10),
        priority=st.integers(-1, 1),
    )
    def submit(self, slack_s, priority):
        now_s = self.clock.monotonic_s()
        deadline_s = None if slack_s is None else now_s + slack_s
        number = len(self.requests) + self.refused
        item = request(number, now_s=now_s, deadline_s=deadline_s, priority=priority)
        try:
            self.core.admit(item, now_s)
        except QueueFullError as error:
            self.refused += 1
            is_right = self.core.n_queued == 12 and error.retry_after_s >= 0
            assert is_right
        except DeadlineExceededError:
            self.refused += 1
        else:
            self.requests.append(item)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def cancel(self, data):
        data.draw(st.sampled_from(self.requests)).future.cancel()

    @rule(seconds=st.floats(0, 3))
    def time_passes(self, seconds):
        self.clock.advance(seconds)

    @precondition(lambda self: self.running is None)
    @rule()
    def take(self):
        now_s = self.clock.monotonic_s()
        waiting = [item for item in self.core.line if not item.is_cancelled()]
        plan, rejected = self.core.next_batch(now_s)
        for item, error in rejected:
            assert item.fail(error)
        assert plan.batch or not waiting or rejected
        if not plan.batch:
            return
        self.running, self.started_s = plan.batch, now_s
        finish_s = now_s + self.core.estimate_s(len(plan.batch))
        if plan.reason != "probe":
            assert all(r.deadline_s is None or r.deadline_s >= finish_s for r in plan.batch)
        assert all(r.deadline_s is None or r.deadline_s > now_s for r in plan.batch) or (
            finish_s == now_s
        )
        # First come first served within a priority, and nobody of a higher one is passed over.
        keys = [(-r.priority, r.prepared) for r in plan.batch]
        assert keys == sorted(keys)
        left = [(-r.priority, r.prepared) for r in self.core.line if not r.is_cancelled()]
        assert not left or max(keys) < min(left)

    @precondition(lambda self: self.running is not None)
    @rule(duration_s=st.floats(0, 5), data=st.data())
    def batch_ends(self, duration_s, data):
        self.clock.advance(duration_s)
        n = len(self.running)
        failed = data.draw(st.sets(st.integers(0, n - 1)))
        n_answered, n_failed = hand_over(
            self.running,
            [f"answer to {item.prepared}" for item in self.running],
            {i: ValueError(str(self.running[i].prepared)) for i in failed},
        )
        self.core.finished(
            self.running,
            started_s=self.started_s,
            ended_s=self.clock.monotonic_s(),
            n_answered=n_answered,
            n_failed=n_failed,
        )
        self.running = None

    @precondition(lambda self: self.running is None)
    @rule()
    def close_without_draining(self):
        for item in self.core.cancel_all():
            item.future.cancel()
        assert self.core.n_queued == 0

    @invariant()
    def all_are_accounted_for(self):
        counts = self.core.counts
        ended = counts.n_answered + counts.n_failed + counts.n_cancelled
        refused = counts.n_late + counts.n_full
        assert counts.n_running == (len(self.running) if self.running else 0)
        assert counts.n_submitted == ended + refused + self.core.n_queued + counts.n_running
        assert counts.n_submitted == len(self.requests) + self.refused
        done = [item for item in self.requests if item.future.done()]
        outcomes = [outcome_of(item.future) for item in done]
        assert counts.n_answered == outcomes.count("answered")
        assert counts.n_failed == outcomes.count("failed")
        assert counts.n_late == outcomes.count("late") + self.refused - counts.n_full

    @invariant()
    def answers_are_ones_own(self):
        for item in self.requests:
            if outcome_of(item.future) == "answered":
                assert item.future.result() == f"answer to {item.prepared}"
            elif outcome_of(item.future) == "failed":
                assert str(item.future.exception()) == str(item.prepared)

    def teardown(self):
        """All that is left is taken sooner or later; then everybody has heard of the end."""
        if self.running is not None:
            hand_over(self.running, [f"answer to {r.prepared}" for r in self.running], {})
        while self.core.n_queued:
            plan, rejected = self.core.next_batch(self.clock.monotonic_s())
            for item, error in rejected:
                item.fail(error)
            hand_over(plan.batch, plan.batch, {})
        assert all(item.future.done() for item in self.requests)


def outcome_of(future):
    if not future.done():
        return "waiting"
    if future.cancelled():
        return "cancelled"
    error = future.exception()
    if isinstance(error, DeadlineExceededError):
        return "late"
    return "answered" if error is None else "failed"


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
