"""One figure over time, by its name."""

import json
from datetime import timedelta

import numpy as np
import pytest
from history_helpers import START, recording_of, verdict, window_at

from modelyard._core.errors import ConfigError
from modelyard.monitor import ModelMonitor
from modelyard.monitor.history.journal import Journal
from modelyard.monitor.history.merging import merged
from modelyard.monitor.history.queries import metric_names, points, points_of_each
from modelyard.monitor.history.rows import MonitorRows
from modelyard.monitor.history.summaries import WindowSummary
from modelyard.storage import open_store


def window():
    latencies_s = [0.01, 0.02, 0.03, np.nan]
    data = recording_of(
        latencies_s,
        [0, 1, 0, 0],
        np.array([[1.0, 5.0], [3.0, 5.0], [1.0, np.nan], [3.0, 5.0]]),
        {"sharpe": [1.0, 2.0]},
        duration_s=1.5,
    )
    return WindowSummary.of(
        data,
        started_at=START.isoformat(),
        ended_at=(START + timedelta(seconds=2)).isoformat(),
        drift={"prediction": verdict(0.5), "feature": verdict(None)},
    )


@pytest.mark.parametrize(
    ("metric", "value", "n"),
    [
        ("latency.mean_ms", 20.0, 4),
        ("latency.median_ms", 20.0, 4),
        ("latency.p95_ms", 29.0, 4),
        ("latency.p99_ms", 29.8, 4),
        ("error_rate", 0.25, 4),
        ("throughput_qps", 2.0, 4),
        ("n_predictions", 4.0, 4),
        ("prediction.mean", 23 / 7, 4),
        ("prediction.std", np.std([1, 3, 1, 3, 5, 5, 5]), 4),
        ("prediction.mean.0", 2.0, 4),
        ("prediction.std.1", 0.0, 4),
        ("drift.prediction", 0.5, 4),
        ("drift.prediction.threshold", 0.3, 4),
        ("drift.prediction.drifted_share", 1.0, 4),
        ("drift.feature", None, 4),
        ("metrics.sharpe", 1.5, 2),
        ("metrics.sharpe.mean", 1.5, 2),
        ("metrics.sharpe.std", 0.5**0.5, 2),
    ],
)
def test_every_figure_of_the_summary_has_a_name(metric, value, n):
    (point,) = points(metric, [window()])
    assert point["value"] == (None if value is None else pytest.approx(value))
    assert (point["n"], point["span"]) == (n, "window")
    assert (point["started_at"], point["at"]) == (
        START.isoformat(),
        (START + timedelta(seconds=2)).isoformat(),
    )
    assert metric in metric_names([window()])
    json.dumps(point, allow_nan=False)


def test_throughput_of_several_windows_is_that_of_the_time_they_took():
    (point,) = points("throughput_qps", [merged([window(), window()], span="hour")])
    assert point["value"] == pytest.approx(2.0)
    assert point["span"] == "hour"


@pytest.fixture(params=["memory", "store"])
def journal(request, tmp_path):
    if request.param == "memory":
        yield Journal(None)
        return
    store = open_store(tmp_path)
    yield Journal(MonitorRows(store, "ppo"))
    store.close()


def ends(found):
    return [(point["at"], point["value"]) for point in found]


def test_windows_of_the_time_asked_for_come_oldest_first(journal):
    for day in range(4):
        journal.add_window(window_at(day, latency_s=0.001 * (day + 1)))
    journal.write(at=START)
    found = journal.query(
        "latency.mean_ms",
        (START + timedelta(days=1)).isoformat(),
        (START + timedelta(days=2)).isoformat(),
    )
    assert ends(found) == [
        (window_at(1).ended_at, pytest.approx(2.0)),
        (window_at(2).ended_at, pytest.approx(3.0)),
    ]
    assert journal.query("error_rate", (START + timedelta(days=9)).isoformat(), None) == []
    assert len(journal.query("error_rate", None, None)) == 4


def test_a_figure_that_is_not_there_is_refused_with_those_that_are(journal):
    journal.add_window(window())
    journal.write(at=START)
    with pytest.raises(ConfigError, match=r"no figure 'metrics\.pnl'.*metrics\.sharpe"):
        journal.query("metrics.pnl", None, None)
    with pytest.raises(ConfigError, match=r"latency\.p99_ms"):
        journal.query("latency", None, None)
    # Known, though not in this time.
    assert journal.query("metrics.sharpe", "2030-01-01T00:00:00+00:00", None) == []


def test_without_any_window_the_usual_figures_are_known(journal):
    assert journal.query("latency.p99_ms", None, None) == []
    with pytest.raises(ConfigError):
        journal.query("nonsense", None, None)


def test_a_metric_that_only_some_windows_have_is_none_in_the_others(journal):
    journal.add_window(window_at(0))
    journal.add_window(window_at(1, metrics={"pnl": [3.0]}))
    journal.write(at=START)
    assert [point["value"] for point in journal.query("metrics.pnl", None, None)] == [None, 3.0]
    assert [point["n"] for point in journal.query("metrics.pnl", None, None)] == [0, 1]


def test_several_figures_are_those_of_each_and_one_that_is_nowhere_is_empty():
    windows = [window_at(day) for day in (2, 0, 1)]
    names = ["latency.p99_ms", "n_predictions", "drift.prediction.threshold"]
    found = dict(points_of_each([*names, "metrics.unheard_of"], iter(windows)))
    assert found.pop("metrics.unheard_of") == []
    assert found == {name: points(name, windows) for name in names}


def test_several_figures_are_read_once(tmp_path, monkeypatch):
    store = open_store(tmp_path)
    monitor = ModelMonitor("ppo", store=store)
    read, each = [], MonitorRows.each_window_between

    def noted(*args):
        read.append(args)
        return each(*args)

    monkeypatch.setattr(MonitorRows, "each_window_between", noted)
    assert dict(monitor.query_each(["error_rate", "latency.p99_ms"])).keys() == {
        "error_rate",
        "latency.p99_ms",
    }
    assert len(read) == 1
    monitor.report(tmp_path / "page.html")
    assert len(read) == 2
    store.close()
