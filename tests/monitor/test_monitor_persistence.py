"""A monitor that finds again what it had learnt."""

import numpy as np
import pytest

from modelyard._core.clock import ManualClock
from modelyard._core.errors import StorageError
from modelyard.monitor import ModelMonitor
from modelyard.storage import open_store


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def clock():
    return ManualClock()


def monitor_on(store, clock, **options):
    return ModelMonitor(
        "ppo", window_size=300, store=store, clock=clock, background=False, **options
    )


def record(monitor, clock, n, *, shift=0.0, error=False, seed=0):
    rng = np.random.default_rng(seed)
    for row in rng.normal(shift, 1, size=(n, 2)):
        monitor.record_prediction(row, 0.002, row, error=error)
        clock.advance(0.01)


def test_windows_alerts_and_baseline_are_found_again(store, clock):
    first = monitor_on(store, clock)
    first.record_metric("sharpe", 1.0)
    record(first, clock, 600)
    first.set_baseline()
    record(first, clock, 300, error=True, seed=1)
    alerts = first.get_alerts()
    first.flush()
    again = monitor_on(store, clock)
    assert again.get_window_history() == first.get_window_history()
    assert len(again.get_window_history()) == 3
    assert again.baseline_status == "set"
    assert again.baseline_health() == first.baseline_health()
    assert again.get_alerts()[0]["alert_id"] == alerts[0]["alert_id"]
    record(again, clock, 300, shift=1.0, seed=2)
    assert again.detect_prediction_drift()["is_drifted"]


def test_twenty_windows_are_kept(store, clock):
    monitor = ModelMonitor("ppo", window_size=10, store=store, clock=clock)
    for i in range(300):
        monitor.record_prediction(float(i), 0.001)
    monitor.flush()
    again = ModelMonitor("ppo", window_size=10, store=store, clock=clock)
    assert len(again.get_window_history()) == 20
    assert again.get_window_history() == monitor.get_window_history()


def test_recording_stores_within_a_second_and_sync_at_once(store, clock):
    batched = monitor_on(store, clock)
    record(batched, clock, 300)
    clock.advance(1.0)
    record(batched, clock, 1)
    assert len(monitor_on(store, clock).get_window_history()) == 1
    sync = monitor_on(store, clock, durability="sync")
    record(sync, clock, 300)
    assert len(monitor_on(store, clock).get_window_history()) == 2
    sync.set_baseline()
    assert monitor_on(store, clock).baseline_status == "set"


def test_a_store_that_refuses_stops_no_recording_and_loses_nothing(store, clock, caplog):
    monitor = monitor_on(store, clock)
    real = monitor._journal._rows.write

    def refuse(*args, **kwargs):
        raise StorageError("The disk is full.")

    monitor._journal._rows.write = refuse
    record(monitor, clock, 300)
    clock.advance(1.0)
    record(monitor, clock, 5)
    assert "disk is full" in caplog.text
    with pytest.raises(StorageError):
        monitor.flush()
    monitor._journal._rows.write = real
    monitor.flush()
    assert len(monitor_on(store, clock).get_window_history()) == 1
