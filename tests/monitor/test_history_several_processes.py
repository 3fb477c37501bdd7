"""Several processes write for one model side by side, and any of them may be killed."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from history_helpers import START, window_at

from modelyard.monitor.history.journal import Journal
from modelyard.monitor.history.rows import MonitorRows, News
from modelyard.storage import open_store

HELPERS = Path(__file__).parent
SETUP = """
import sys
from datetime import datetime, timedelta
sys.path.insert(0, {helpers!r})
import numpy as np
from history_helpers import START, Records, window_at
from modelyard.monitor.history.journal import Journal
from modelyard.monitor.history.rows import MonitorRows
from modelyard.storage import open_store
store = open_store({folder!r}, database_url={url!r})
"""
RECORD = """
journal = Journal(MonitorRows(store, "ppo"), n_records={n_kept})
print("ready", flush=True)
for i in range({n_flushes}):
    numbers = {first} + np.arange(10.0 * i, 10.0 * i + 10)
    journal.note_records(Records({{"a": numbers}}, {{}}, 10))
    journal.add_window(window_at(i / 1000, n=10))
    journal.write(at=START + timedelta(seconds=i))
    print(i, flush=True)
"""
THIN = """
rows = MonitorRows(store, "old")
sys.stdin.readline()
print(rows.thin(now=START + timedelta(days=40)))
"""


def start(code, folder, url=None, **values):
    text = (SETUP + code).format(helpers=str(HELPERS), folder=str(folder), url=url, **values)
    return subprocess.Popen(
        [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def finish(process):
    with process:
        out = process.communicate("go\n", timeout=60)[0]
    assert process.returncode == 0
    return out


@pytest.fixture(params=["sqlite", "postgres"])
def url(request):
    return request.getfixturevalue("postgres_url") if request.param == "postgres" else None


@pytest.mark.slow
def test_two_recorders_of_a_model_keep_what_both_have_recorded(tmp_path, url):
    store = open_store(tmp_path, database_url=url)
    processes = [
        start(RECORD, tmp_path, url, n_kept=10**6, n_flushes=20, first=first)
        for first in (0, 10_000)
    ]
    for process in processes:
        finish(process)
    rows = MonitorRows(store, "ppo")
    found = np.concatenate([chunk.arrays["a"] for chunk in rows.chunks(10**6)])
    assert sorted(found) == [*range(200), *range(10_000, 10_200)]
    # Each one's own in its order.
    assert np.all(np.diff(found[found < 10_000]) > 0)
    assert len(rows.windows(100)) == 40
    assert sum(w.health.n_predictions for w in rows.windows_between(None, None)) == 400
    store.close()


@pytest.mark.slow
def test_two_processes_that_put_old_windows_together_at_once_lose_none(tmp_path, url):
    store = open_store(tmp_path, database_url=url)
    rows = MonitorRows(store, "old")
    windows = [window_at(i / 100) for i in range(300)]
    rows.write(News(recorder_id="r", windows=windows), at=START)
    processes = [start(THIN, tmp_path, url) for _ in range(2)]
    gone = [int(finish(process)) for process in processes]
    left = rows.windows_between(None, None)
    assert sum(w.n_windows for w in left) == 300
    assert {w.span for w in left} == {"hour"}
    assert len(left) == len({w.ended_at[:13] for w in left})
    assert min(gone) == 0
    store.close()


@pytest.mark.slow
def test_a_killed_recorder_loses_nothing_that_was_written(tmp_path):
    process = start(RECORD, tmp_path, n_kept=10**6, n_flushes=10**6, first=0)
    with process:
        for line in process.stdout:
            if line.strip() == "30":
                break
        process.send_signal(signal.SIGKILL)
        written = [30, *(int(line) for line in process.stdout if line.endswith("\n"))]
    assert process.returncode == -signal.SIGKILL
    store = open_store(tmp_path)
    journal = Journal(MonitorRows(store, "ppo"), n_records=10**6)
    found = np.concatenate([chunk.arrays["a"] for chunk in journal.chunks()])
    assert found.tolist() == list(range(len(found)))
    assert len(found) >= 10 * (max(written) + 1)
    # A window and its records are stored together or not at all.
    assert len(journal.query("n_predictions", None, None)) == len(found) / 10
    store.close()
