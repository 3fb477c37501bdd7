"""The dispatcher: nobody waits for a sink, nothing is lost, each sink gets its events in order."""

import json
import logging
import threading
import time

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from modelyard._core.clock import ManualClock
from modelyard._core.errors import ConfigError
from modelyard.monitor.alerting.alerts import Severity
from modelyard.monitor.alerting.dispatch import Dispatcher
from modelyard.monitor.alerting.queues import Backoff
from modelyard.monitor.alerting.sinks import CallbackSink, DeliveryRefusedError, LogSink

QUICK = Backoff(first_s=0.001, most_s=0.002)
# The next attempt comes only when a test asks for it.
NEVER = Backoff(first_s=3600.0, most_s=3600.0)


def event(number=1, *, severity="warning"):
    return {
        "event_id": f"event-{number}",
        "event": "opened",
        "at": "2024-06-01T00:00:00+00:00",
        "model_name": "ppo",
        "alert": {"alert_id": "alert-1", "name": "a", "severity": severity, "message": "m"},
    }


def until(is_so):
    """Wait for what another thread will do, at most ten seconds."""
    deadline_s = time.monotonic() + 10.0
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.001)


class Recorder:
    """A sink that keeps the ids it was given, and fails as often as it is told."""

    min_severity = Severity.INFO

    def __init__(self, name="recorder", failures=()):
        self.name = name
        self.failures = list(failures)
        self.attempts, self.taken = [], []

    def deliver(self, event):
        self.attempts.append(event["event_id"])
        error = self.failures.pop(0) if self.failures else None
        if error is not None:
            raise error
        self.taken.append(event["event_id"])


class Gate:
    """A sink that waits until it is opened."""

    min_severity = Severity.INFO

    def __init__(self, name="gate"):
        self.name = name
        self.entered, self.opened = threading.Event(), threading.Event()
        self.taken = []

    def deliver(self, event):
        self.entered.set()
        assert self.opened.wait(30)
        self.taken.append(event["event_id"])


@pytest.fixture
def dispatch():
    made = []

    def make(*sinks, **options):
        dispatcher = Dispatcher(sinks, **{"backoff": QUICK, "seed": 0, **options})
        made.append(dispatcher)
        return dispatcher

    yield make
    for dispatcher in made:
        dispatcher.close()


def test_every_sink_gets_every_event_in_order(dispatch):
    a, b = Recorder("a"), Recorder("b")
    dispatcher = dispatch(a, b)
    for number in range(50):
        dispatcher.submit([event(number)])
    assert dispatcher.drain(10)
    assert a.taken == b.taken == [f"event-{number}" for number in range(50)]
    assert dispatcher.undelivered() == []
    assert dispatcher.states()["a"]["n_delivered"] == 50


def test_nobody_waits_for_a_slow_sink(dispatch):
    gate, other = Gate(), Recorder()
    dispatcher = dispatch(gate, other)
    dispatcher.submit([event(1)])
    assert gate.entered.wait(10)
    dispatcher.submit([event(2)])
    assert not dispatcher.drain(0)
    waiting = [item["event"] for item in dispatcher.undelivered() if item["sink"] == "gate"]
    assert waiting == [event(1), event(2)]
    gate.opened.set()
    assert dispatcher.drain(10)
    assert gate.taken == other.taken == ["event-1", "event-2"]


def test_a_failing_sink_harms_no_other_and_loses_nothing(dispatch):
    broken = CallbackSink(lambda event: 1 / 0, name="broken")
    good = Recorder("good")
    dispatcher = dispatch(broken, good, backoff=NEVER)
    dispatcher.submit([event(1), event(2)])
    until(lambda: dispatcher.states()["broken"]["n_failures"] >= 1)
    until(lambda: dispatcher.states()["good"]["n_delivered"] == 2)
    assert good.taken == ["event-1", "event-2"]
    first, second = dispatcher.undelivered()
    assert (first["delivery_id"], first["sink"]) == ("event-1:broken", "broken")
    assert first["error"] == "ZeroDivisionError: division by zero"
    assert second["event"] == event(2)
    assert dispatcher.states()["broken"]["n_waiting"] == 2


def test_a_failed_delivery_is_tried_again_with_the_same_id_before_the_next(dispatch):
    sink = Recorder(failures=[OSError("a"), TimeoutError("b")])
    dispatcher = dispatch(sink)
    dispatcher.submit([event(1), event(2)])
    assert dispatcher.drain(10)
    assert sink.attempts == ["event-1"] * 3 + ["event-2"]
    assert dispatcher.states()["recorder"]["n_failures"] == 2


def test_a_drain_tries_at_once_what_waits_for_its_next_attempt(dispatch):
    def fail_once(event):
        calls.append(event["event_id"])
        if len(calls) == 1:
            failed.set()
            raise OSError("down")

    calls, failed = [], threading.Event()
    dispatcher = dispatch(CallbackSink(fail_once), backoff=NEVER)
    dispatcher.submit([event(1)])
    assert failed.wait(10)
    assert dispatcher.drain(10)
    assert calls == ["event-1", "event-1"]


def test_what_a_receiver_refuses_is_kept_and_does_not_hold_up_the_next(dispatch, caplog):
    sink = Recorder(failures=[DeliveryRefusedError("it answered 404")])
    dispatcher = dispatch(sink)
    with caplog.at_level(logging.WARNING):
        dispatcher.submit([event(1), event(2)])
        assert dispatcher.drain(10)
    assert sink.attempts == ["event-1", "event-2"]
    (kept,) = dispatcher.undelivered()
    assert kept["event"]["event_id"] == "event-1"
    state = dispatcher.states()["recorder"]
    assert (state["n_refused"], state["n_waiting"], state["n_failures"]) == (1, 0, 1)
    assert "will not take it (DeliveryRefusedError: it answered 404)" in caplog.text


def test_failures_in_a_row_are_logged_once_and_dated(dispatch, caplog):
    sink = Recorder(failures=[OSError("down")] * 5 + [None, OSError("down")])
    dispatcher = dispatch(sink, clock=ManualClock())
    with caplog.at_level(logging.WARNING):
        dispatcher.submit([event(1), event(2)])
        assert dispatcher.drain(10)
    assert [record.args[0] for record in caplog.records] == ["event-1", "event-2"]
    state = dispatcher.states()["recorder"]
    assert state["n_failures"] == 6
    assert state["last_failed_at"] == ManualClock().now().isoformat()
    assert state["last_error"] == "OSError: down"


def test_a_callback_that_ends_its_thread_has_failed_and_is_tried_again(dispatch):
    sink = Recorder(failures=[SystemExit(3), KeyboardInterrupt()])
    dispatcher = dispatch(sink)
    dispatcher.submit([event(1)])
    assert dispatcher.drain(10)
    assert sink.taken == ["event-1"]


def test_a_callback_that_changes_the_event_changes_only_its_own(dispatch):
    def spoil(event):
        event["alert"].clear()
        calls.append(1)
        if len(calls) == 1:
            raise OSError

    calls, other = [], Recorder()
    dispatcher = dispatch(CallbackSink(spoil), other, backoff=NEVER)
    given_event = event(1)
    dispatcher.submit([given_event])
    dispatcher.drain(10)
    assert given_event == event(1)


def test_events_below_a_sinks_least_severity_are_not_for_it(dispatch):
    got = []
    dispatcher = dispatch(CallbackSink(got.append, min_severity="critical"))
    dispatcher.submit([event(1), event(2, severity="critical"), event(3, severity="info")])
    assert dispatcher.drain(10)
    assert [item["event_id"] for item in got] == ["event-2"]


def test_what_was_not_delivered_is_delivered_by_the_next_dispatcher(dispatch):
    down = Recorder(failures=[OSError("down"), DeliveryRefusedError("no"), OSError("down")])
    first = dispatch(down, backoff=NEVER)
    first.submit([event(1), event(2), event(3)])
    until(lambda: first.states()["recorder"]["n_failures"] >= 1)
    until(lambda: not first.drain(0) and first.states()["recorder"]["n_failures"] == 3)
    first.close()
    stored = json.loads(json.dumps(first.undelivered()))
    up = Recorder()
    second = dispatch(up, outbox=stored)
    second.submit([event(4)])
    assert second.drain(10)
    assert up.taken == ["event-1", "event-2", "event-3", "event-4"]


def test_events_of_a_sink_that_is_gone_are_kept(dispatch):
    stored = [{"delivery_id": "event-1:old", "sink": "old", "event": event(1)}]
    dispatcher = dispatch(LogSink(), outbox=stored)
    assert dispatcher.drain(10)
    assert dispatcher.undelivered() == stored


def test_the_revision_changes_with_what_is_undelivered(dispatch):
    gate = Gate()
    dispatcher = dispatch(gate)
    before = dispatcher.revision
    dispatcher.submit([event(1)])
    waiting = dispatcher.revision
    gate.opened.set()
    assert dispatcher.drain(10)
    delivered = dispatcher.revision
    assert before < waiting < delivered
    dispatcher.submit([])
    assert dispatcher.revision == delivered


def test_a_thread_lives_only_while_something_waits(dispatch):
    gate = Gate("mine")
    dispatcher = dispatch(gate)
    assert "modelyard-alerts-mine" not in {t.name for t in threading.enumerate()}
    dispatcher.submit([event(1)])
    (thread,) = [t for t in threading.enumerate() if t.name == "modelyard-alerts-mine"]
    assert thread.daemon
    gate.opened.set()
    thread.join(10)
    assert not thread.is_alive()
    dispatcher.submit([event(2)])
    assert dispatcher.drain(10)
    assert gate.taken == ["event-1", "event-2"]


def test_events_wait_when_no_thread_can_be_had(dispatch, monkeypatch, caplog):
    sink = Recorder()
    dispatcher = dispatch(sink)

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    dispatcher.submit([event(1)])
    monkeypatch.undo()
    assert "can't start new thread" in caplog.text
    assert len(dispatcher.undelivered()) == 1
    dispatcher.submit([event(2)])
    assert dispatcher.drain(10)
    assert sink.taken == ["event-1", "event-2"]


def test_beyond_the_most_that_may_wait_the_oldest_go_counted_and_logged(dispatch, caplog):
    gate = Gate()
    dispatcher = dispatch(gate, max_waiting=3)
    dispatcher.submit([event(0)])
    assert gate.entered.wait(10)
    dispatcher.submit([event(number) for number in range(1, 6)])
    assert dispatcher.states()["gate"]["n_dropped"] == 3
    assert "3 events went" in caplog.text
    gate.opened.set()
    assert dispatcher.drain(10)
    # The one under way when it was dropped was delivered all the same.
    assert gate.taken == ["event-0", "event-3", "event-4", "event-5"]


def test_after_close_nothing_is_tried(dispatch):
    sink = Recorder()
    dispatcher = dispatch(sink)
    assert dispatcher.close()
    dispatcher.submit([event(1)])
    assert sink.attempts == []
    assert len(dispatcher.undelivered()) == 1


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from([None, None, OSError("a"), DeliveryRefusedError("b")]), max_size=12),
    st.integers(0, 6),
)
def test_every_event_is_delivered_or_undelivered_and_in_order(failures, n_events):
    sink = Recorder(failures=failures)
    dispatcher = Dispatcher([sink], backoff=QUICK, seed=0)
    dispatcher.submit([event(number) for number in range(n_events)])
    assert dispatcher.drain(10)
    refused = [item["event"]["event_id"] for item in dispatcher.undelivered()]
    assert sorted(sink.taken + refused) == [f"event-{number}" for number in range(n_events)]
    assert sink.taken == sorted(sink.taken)
    assert refused == sorted(refused)


# Waits


@given(st.integers(1, 10_000), st.integers(0, 100))
def test_a_wait_doubles_up_to_the_most_and_half_of_it_is_random(n_failures, seed):
    backoff = Backoff(first_s=1.0, most_s=300.0)
    longest = min(300.0, 2.0 ** min(n_failures - 1, 20))
    delay_s = backoff.delay_s(n_failures, np.random.default_rng(seed))
    assert longest / 2 <= delay_s <= longest
    assert delay_s == backoff.delay_s(n_failures, np.random.default_rng(seed))
    assert delay_s != backoff.delay_s(n_failures, np.random.default_rng(seed + 1))


@pytest.mark.parametrize("waits", [(0, 1), (2, 1), (float("nan"), 1)])
def test_waits_that_make_no_sense_are_refused(waits):
    with pytest.raises(ConfigError, match="first_s must be above 0"):
        Backoff(first_s=waits[0], most_s=waits[1])


@pytest.mark.parametrize(
    ("sinks", "message"),
    [
        ([LogSink(), LogSink()], "Two sinks are named 'log'"),
        ([print], "A sink has a name"),
        ([type("S", (), {"name": "s", "deliver": print})()], "must be a Severity"),
    ],
)
def test_what_is_no_sink_is_refused(sinks, message):
    with pytest.raises(ConfigError, match=message):
        Dispatcher(sinks)
