"""The record of latencies: bounded, exact in its counts, over a real window of time."""

import threading

import pytest

from modelyard import ManualClock
from modelyard.inference_optimizer.latency import LatencyRecord


def test_percentiles_within_one_percent_and_an_exact_mean():
    record = LatencyRecord()
    for i in range(1, 2001):
        record.add(i / 1000)
    found = record.percentiles_ms()
    assert found["p50"] == pytest.approx(1000, rel=0.011)
    assert found["p99"] == pytest.approx(1980, rel=0.011)
    assert found["mean"] == pytest.approx(1000.5)


def test_throughput_is_that_of_the_last_minute():
    clock = ManualClock()
    record = LatencyRecord(clock.monotonic_s)
    for _ in range(100):
        clock.advance(1.0)
        record.add(0.5, 10)
    assert record.n_samples == 1000
    assert record.throughput_qps() == pytest.approx(10, rel=0.05)
    clock.advance(30.0)
    assert record.throughput_qps() == pytest.approx(5, rel=0.1)
    clock.advance(60.0)
    assert record.throughput_qps() == 0.0


def test_throughput_of_a_short_life_is_over_that_life():
    clock = ManualClock()
    record = LatencyRecord(clock.monotonic_s)
    clock.advance(0.25)
    record.add(0.25, 8)
    assert record.throughput_qps() == pytest.approx(32)


def test_nothing_recorded_and_after_a_reset():
    record = LatencyRecord()
    nothing = {"p50": None, "p95": None, "p99": None, "mean": None}
    assert record.percentiles_ms() == nothing
    assert record.throughput_qps() == 0.0
    record.add(0.1)
    record.reset()
    assert record.percentiles_ms() == nothing
    assert record.n_samples == 0


def test_no_call_is_lost_under_threads():
    record = LatencyRecord()

    def add():
        for _ in range(5000):
            record.add(0.001, 2)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert record.n_samples == 40_000
