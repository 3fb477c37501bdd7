"""An experiment whose process is killed, whose disk is full, whose outcomes come twice."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from modelyard._core.clock import ManualClock
from modelyard._core.errors import RequestNotFoundError, StorageError
from modelyard.ab_testing import ABTest, ModelVariant
from modelyard.storage import open_store


@pytest.fixture
def store(tmp_path):
    opened = open_store(tmp_path)
    yield opened
    opened.close()


def experiment(store, **options) -> ABTest:
    variants = [ModelVariant(name, abs) for name in "ab"]
    return ABTest("t", variants, "m", store=store, **options)


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["sync", "batched"])
def test_a_killed_process_loses_nothing_that_was_acknowledged(store, tmp_path, durability):
    experiment(store)
    flush = "    test.flush()\n" if durability == "batched" else ""
    code = (
        "from modelyard.ab_testing import ABTest, ModelVariant\n"
        "from modelyard.storage import open_store\n"
        f"store = open_store({str(tmp_path)!r})\n"
        "test = ABTest('t', [ModelVariant('a', abs), ModelVariant('b', abs)], 'm',\n"
        f"              store=store, resume=True, durability={durability!r})\n"
        "for i in range(10**6):\n"
        "    test.record_result('ab'[i % 2], {'m': float(i)}, user_id=str(i))\n"
        f"{flush}"
        "    print(i, flush=True)\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    acknowledged = 0
    for line in worker.stdout:
        acknowledged = int(line) + 1
        if acknowledged == 60:
            os.kill(worker.pid, signal.SIGKILL)
            break
    acknowledged = max([acknowledged, *(int(line) + 1 for line in worker.stdout)])
    worker.wait()
    worker.stdout.close()
    stats = experiment(store, resume=True).get_variant_stats()
    kept = sum(stats[name]["sample_count"] for name in "ab")
    assert acknowledged <= kept <= acknowledged + 1


class FullDisk:
    """Makes every write of a store fail while it is on."""

    def __init__(self, monkeypatch, store):
        self._patch, self._database = monkeypatch, store.database

    def on(self):
        def writing():
            raise StorageError("database or disk is full")

        self._patch.setattr(self._database, "writing", writing)

    def off(self):
        self._patch.undo()


def test_a_full_disk_stops_no_loop_and_what_waited_is_stored_later(store, monkeypatch, caplog):
    clock = ManualClock()
    test = experiment(store, clock=clock)
    disk = FullDisk(monkeypatch, store)
    disk.on()
    for i in range(10):
        clock.advance(1.1)
        test.record_result("a", {"m": float(i)})
    assert "could not be stored" in caplog.text
    with pytest.raises(StorageError, match="full"):
        test.flush()
    disk.off()
    test.flush()
    assert experiment(store, resume=True).get_variant_stats()["a"]["sample_count"] == 10


def test_an_outcome_that_another_process_answered_is_recorded_once(store):
    ours, theirs = experiment(store), experiment(store, resume=True)
    ours.predict(1.0, "u", request_id="r")
    with pytest.raises(RequestNotFoundError, match="record_result"):
        theirs.record_outcome("r", {"m": 1.0})
    name = ours.select_variant("u").name
    for side in (ours, theirs, theirs):
        side.record_result(name, {"m": 1.0}, user_id="u", request_id="r")
        side.flush()
    assert theirs.get_variant_stats()[name]["sample_count"] == 1
    assert ours.get_variant_stats()[name]["sample_count"] == 1


def test_threads_that_record_compare_and_reweight_at_once_agree_at_the_end(store):
    test = experiment(store)
    failures = []

    def work(k):
        try:
            for i in range(100):
                test.record_result("ab"[i % 2], {"m": float(i)}, user_id=f"{k}-{i}")
                if i % 20 == 0:
                    test.get_winner()
                    test.update_traffic_weights({"a": 1.0, "b": 1.0 + i})
        except Exception as error:  # noqa: BLE001 - told by the assertion
            failures.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    test.flush()
    again = experiment(store, resume=True)
    assert again.get_variant_stats()["a"] == {
        **test.get_variant_stats()["a"],
        "assigned": 0,
    }
    assert sum(again.get_variant_stats()[name]["sample_count"] for name in "ab") == 400
