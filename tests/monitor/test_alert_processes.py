"""The dispatcher at the end of a process, and after a fork."""

import os
import subprocess
import sys
import time

import pytest

from modelyard.monitor.alerting.queues import EXIT_TIMEOUT_S

_PROGRAM = """
import os, sys, time, threading
from modelyard.monitor.alerting.dispatch import Dispatcher
from modelyard.monitor.alerting.sinks import CallbackSink
event = {"event_id": "e", "event": "opened", "at": "", "model_name": "m",
         "alert": {"severity": "info"}}
"""


def run(program, **options):
    started_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM + program],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    return done.stdout, time.monotonic() - started_s


@pytest.mark.slow
def test_what_waits_at_the_end_of_the_interpreter_is_still_delivered():
    out, _ = run(
        "entered = threading.Event()\n"
        "def slow(event):\n"
        "    entered.set(); time.sleep(0.3); print('delivered', flush=True)\n"
        "Dispatcher([CallbackSink(slow)]).submit([event, event])\n"
        "entered.wait()\n"
    )
    assert out == "delivered\ndelivered\n"


@pytest.mark.slow
def test_a_sink_that_hangs_does_not_keep_the_interpreter_from_ending():
    out, took_s = run(
        "Dispatcher([CallbackSink(lambda e: threading.Event().wait(), name=n) for n in 'ab'])"
        ".submit([event])\n"
        "print('ends', flush=True)\n"
    )
    assert out == "ends\n"
    # Both sinks together get two seconds.
    assert took_s > EXIT_TIMEOUT_S


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_delivers_its_own_events_and_not_its_parents():
    out, _ = run(
        "entered, opened = threading.Event(), threading.Event()\n"
        "parent = os.getpid()\n"
        "def take(event):\n"
        "    if os.getpid() == parent:\n"
        "        entered.set(); opened.wait()\n"
        "    who = 'parent' if os.getpid() == parent else 'child'\n"
        "    print(who, event['event_id'], flush=True)\n"
        "dispatcher = Dispatcher([CallbackSink(take)])\n"
        "dispatcher.submit([event])\n"
        "entered.wait()\n"
        # The hardest moment: another thread holds the lock while the process forks.
        "queue = next(iter(dispatcher._queues.values()))\n"
        "with queue._changed:\n"
        "    pid = os.fork()\n"
        "if pid == 0:\n"
        "    assert dispatcher.undelivered() == []\n"
        "    dispatcher.submit([{**event, 'event_id': 'of child'}])\n"
        "    assert dispatcher.drain(20)\n"
        "    os._exit(0)\n"
        "assert os.waitpid(pid, 0)[1] == 0\n"
        "opened.set()\n"
        "assert dispatcher.drain(20)\n"
    )
    assert out == "child of child\nparent e\n"
