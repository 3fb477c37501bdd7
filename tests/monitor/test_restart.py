"""What a monitor finds again: after a kill, a crash, a collection, a fork, a normal end."""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from modelyard._core.clock import ManualClock
from modelyard._core.errors import StorageError
from modelyard.monitor import ModelMonitor
from modelyard.monitor.history.rows import MonitorRows
from modelyard.storage import open_store
from modelyard.storage import tables as t


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path)
    yield opened
    opened.close()


def run(tmp_path, code, *, is_killed=False, wait_s=0.0):
    """Run code in a process of its own; kill it when it says so, after a wait."""
    program = textwrap.dedent(code)
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    if is_killed:
        time.sleep(wait_s)
        process.send_signal(signal.SIGKILL)
    code = process.wait(timeout=60)
    process.stdout.close()
    assert code == (-signal.SIGKILL if is_killed else 0)


_START = """
    import sys, time
    import numpy as np
    from modelyard.monitor import ModelMonitor
    from modelyard.storage import open_store
    store = open_store(sys.argv[1])
    rng = np.random.default_rng(0)
"""


@pytest.mark.slow
def test_a_kill_loses_no_more_than_what_came_since_the_last_flush(tmp_path):
    run(
        tmp_path,
        _START
        + """
    monitor = ModelMonitor("ppo", window_size=100, evaluate_every=10, store=store)
    monitor.set_baseline(predictions=rng.normal(size=(300, 2)))
    monitor.raise_alert("rollback", severity="critical", message="It went back.")
    for i in range(150):
        monitor.record_prediction(rng.normal(size=2), 0.01)
        monitor.record_metric("sharpe", 1.5)
        time.sleep(0.01)
    print("ready", flush=True)
    time.sleep(60)
    """,
        is_killed=True,
        wait_s=3.0,
    )
    store = open_store(tmp_path)
    again = ModelMonitor("ppo", window_size=100, evaluate_every=10, store=store)
    assert again.health().n_predictions == 100
    assert again.health().metrics["sharpe"].n == 100
    assert again.baseline_status == "set"
    assert "rollback" in {alert["name"] for alert in again.get_alerts()}
    again.close()
    store.close()


@pytest.mark.slow
def test_a_program_that_ends_stores_what_its_monitors_saw(tmp_path):
    run(
        tmp_path,
        _START
        + """
    def watch():
        monitor = ModelMonitor("ppo", store=store)
        for _ in range(30):
            monitor.record_prediction(rng.normal(size=2), 0.01)
    watch()  # nobody holds the monitor after this
    print("ready", flush=True)
    """,
    )
    store = open_store(tmp_path)
    assert ModelMonitor("ppo", store=store, background=False).total_predictions == 30
    store.close()


@pytest.mark.slow
def test_a_monitor_that_nobody_holds_is_stored(store):
    monitor = ModelMonitor("ppo", store=store)
    monitor.record_prediction(1.0, 0.01)
    del monitor
    gc.collect()
    deadline = time.monotonic() + 20.0
    while ModelMonitor("ppo", store=store, background=False).total_predictions == 0:
        assert time.monotonic() < deadline, "nothing was stored"
        time.sleep(0.1)


def test_everything_said_is_stored_at_once_if_that_was_asked_for(store):
    clock = ManualClock()
    monitor = ModelMonitor("ppo", store=store, durability="sync", clock=clock, background=False)
    request_id = monitor.record_prediction(1.0, 0.01)
    monitor.record_outcome(request_id, {"return": 0.5})
    monitor.record_metric("sharpe", 2.0)
    again = ModelMonitor("ppo", store=store, clock=clock, background=False)
    assert again.total_predictions == 1
    assert again.health().metrics["sharpe"].mean == 2.0
    assert again.health().metrics["return"].mean == 0.5


def test_outcomes_find_predictions_of_before_a_restart(store):
    clock = ManualClock()
    options = {"store": store, "clock": clock, "background": False, "window_size": 50}
    first = ModelMonitor("ppo", **options)
    ids = [first.record_prediction(float(i), 0.01) for i in range(20)]
    first.record_outcome(ids[0], 0.0)
    first.flush()
    ids += [first.record_prediction(float(i), 0.01) for i in range(20, 30)]
    first.flush()
    again = ModelMonitor("ppo", **options)
    assert again.get_performance()["n_outcomes"] == 1
    for i in (5, 19, 25):
        again.record_outcome(ids[i], float(i) + 1.0)
    again.record_outcome(ids[25], 77.0)  # a second outcome is ignored
    found = again.get_performance()
    assert found["n_outcomes"] == 4
    assert found["realised"]["mae"]["value"] == pytest.approx(3 / 4)


def test_a_baseline_that_was_waited_for_still_is_after_a_restart(store):
    clock = ManualClock()
    options = {"store": store, "clock": clock, "background": False, "window_size": 300}
    first = ModelMonitor("ppo", **options)
    first.set_baseline()
    assert first.baseline_status == "collecting"
    first.flush()
    again = ModelMonitor("ppo", **options)
    assert again.baseline_status == "collecting"
    for value in np.random.default_rng(0).normal(size=300):
        again.record_prediction(value, 0.01)
    assert again.baseline_status == "set"
    again.flush()
    assert ModelMonitor("ppo", **options).baseline_status == "set"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_child_of_a_fork_writes_what_it_recorded_and_nothing_else(store):
    monitor = ModelMonitor("ppo", store=store)
    for _ in range(5):
        monitor.record_prediction(1.0, 0.01)
    pid = os.fork()
    if pid == 0:
        for _ in range(3):
            monitor.record_prediction(2.0, 0.01)
        monitor.flush()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    monitor.flush()
    again = ModelMonitor("ppo", store=store, background=False)
    assert again.total_predictions == 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_what_the_parent_could_not_store_the_child_does_not_store_for_it(store, monkeypatch):
    monitor = ModelMonitor("ppo", store=store, background=False)
    for _ in range(5):
        monitor.record_prediction(1.0, 0.01)

    def refuse(*_args, **_options):
        raise StorageError("The disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr(MonitorRows, "write", refuse)
        with pytest.raises(StorageError):
            monitor.flush()
    pid = os.fork()
    if pid == 0:
        monitor.record_prediction(2.0, 0.01)
        monitor.flush()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    monitor.flush()
    stored = MonitorRows(store, "ppo").chunks(1000)
    assert sorted(chunk.n_records for chunk in stored) == [1, 5]


def test_damaged_rows_keep_no_monitor_from_starting(store, caplog):
    clock = ManualClock()
    options = {"store": store, "clock": clock, "background": False, "window_size": 200}
    first = ModelMonitor("ppo", **options)
    for value in np.random.default_rng(0).normal(size=400):
        first.record_prediction(value, 5.0)
    first.set_baseline()
    first.get_alerts()
    first.flush()
    poem = {"roses": "red"}
    with store.database.writing() as connection:
        connection.execute(t.monitor_window.update().values(summary=poem))
        connection.execute(t.alert.update().values(body=poem))
        connection.execute(t.snapshot.update().values(state=poem))
        connection.execute(t.monitor_chunk.update().values(body=b"roses"))
    again = ModelMonitor("ppo", **options)
    assert again.total_predictions == 0
    assert again.baseline_status == "none"
    for what in ("Window", "Alert", "Baseline", "Chunk"):
        assert f"{what} " in caplog.text


def test_a_larger_window_after_a_restart_knows_only_what_was_kept(store):
    before = ModelMonitor("ppo", window_size=300, store=store, background=False)
    for _ in range(1000):
        before.record_prediction(np.ones(1), 0.01)
    before.flush()
    after = ModelMonitor("ppo", window_size=1000, store=store, background=False)
    assert after.total_predictions == 1000
    health = after.health()
    assert (health.n_predictions, health.n_errors) == (300, 0)
    assert health.latency_mean_ms == pytest.approx(10.0)
    for _ in range(50):
        after.record_prediction(np.ones(1), 0.02)
    assert after.health().n_predictions == 350
    assert after.health().latency_p99_ms == pytest.approx(20.0)
    assert after.get_summary()["n_window"] == 350
