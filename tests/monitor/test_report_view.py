"""What a report gathers, and figures over time."""

import json
from dataclasses import asdict

import pytest
from history_helpers import window_at
from hypothesis import given
from hypothesis import strategies as st
from plotly import graph_objects
from report_helpers import eventful

from modelyard.monitor import ModelMonitor
from modelyard.monitor.report import history_figure, view_of
from modelyard.monitor.report.figures import MOST_POINTS, thinned
from modelyard.monitor.report.view import ranked


@pytest.fixture(scope="module")
def monitor():
    return eventful()


@pytest.fixture(scope="module")
def view(monitor):
    return view_of(monitor)


def point(i, value):
    at = f"2024-01-01T{i // 3600:02}:{i // 60 % 60:02}:{i % 60:02}+00:00"
    return {"at": at, "started_at": at, "value": value, "n": 1, "span": "window"}


def test_a_view_is_what_the_monitor_says_and_plain(monitor, view):
    assert view.summary == monitor.get_summary()
    assert view.feature_drift == monitor.detect_feature_drift()
    assert view.alerts == monitor.get_alerts()
    assert view.history["error_rate"] == monitor.query("error_rate")
    json.dumps(asdict(view), default=str, allow_nan=False)


def test_distributions_are_of_the_columns_that_moved_most(view):
    first = ranked(view.feature_drift)[0]
    assert view.features[0]["index"] == first["index"] == 2
    assert len(view.features[0]["window"]) == len(view.features[0]["reference"]) == 101


def test_history_may_begin_later(monitor, view):
    since = view.history["error_rate"][-2]["at"]
    later = view_of(monitor, since=since)
    assert later.history["error_rate"] == view.history["error_rate"][-2:]
    assert all(alert["last_seen"] >= since for alert in later.alerts)


def test_of_a_long_history_a_view_holds_what_is_drawn():
    monitor = ModelMonitor("ppo")
    for day in range(700):
        monitor._journal.windows.add(window_at(day))
    history = view_of(monitor).history
    times = [point["at"] for point in history["drift.prediction"]]
    assert 300 <= len(times) <= MOST_POINTS
    assert [point["at"] for point in history["drift.prediction.threshold"]] == times
    assert len(history["error_rate"]) <= MOST_POINTS


def test_columns_are_ranked_by_how_far_each_is_over_its_own_limit():
    def column(name, score, threshold, *, is_drifted=False):
        return {
            "name": name,
            "drift_score": score,
            "threshold": threshold,
            "is_drifted": is_drifted,
        }

    found = ranked(
        {
            "per_feature": [
                column("not tested", None, 0.3),
                column("wide limit", 0.9, 1.0),
                column("over by chance", 0.4, 0.3),
                column("drifted", 0.31, 0.3, is_drifted=True),
                column("no limit", 0.0, 0.0),
            ]
        }
    )
    names = [one["name"] for one in found]
    assert names == ["drifted", "over by chance", "wide limit", "no limit"]


@pytest.mark.parametrize(
    ("metric", "heading", "drawn"),
    [
        ("latency.p99_ms", "99th percentile of latency", [1.0, None, 3.0]),
        ("error_rate", "Error rate", [100.0, None, 300.0]),
        ("metrics.<b>", "Metrics.<b>", [1.0, None, 3.0]),
    ],
)
def test_a_figure_over_time_has_its_name_and_keeps_its_gaps(metric, heading, drawn):
    points = [point(0, 1.0), point(1, None), point(2, 3.0)]
    figure = history_figure(points, metric)
    graph_objects.Figure(figure)
    assert figure["layout"]["title"]["text"] == heading
    assert figure["data"][0]["y"] == drawn


def test_a_figure_over_time_has_its_limits_where_they_are_known():
    points = [point(0, 0.1), point(1, 0.5)]
    figure = history_figure(points, "drift.feature", thresholds=[point(1, 0.3)])
    graph_objects.Figure(figure)
    assert [trace["y"] for trace in figure["data"]] == [[0.1, 0.5], [None, 0.3]]


@pytest.mark.parametrize("points", [[], [point(0, None)]])
def test_nothing_known_says_so(points):
    [note] = history_figure(points, "error_rate")["layout"]["annotations"]
    assert note["text"] == "no data"


@given(st.lists(st.none() | st.floats(-1e6, 1e6), max_size=200), st.sampled_from([2, 10, 50]))
def test_thinning_keeps_order_bounds_and_extremes(values, n_most):
    points = [point(i, value) for i, value in enumerate(values)]
    kept = thinned(points, n_most)
    assert len(kept) <= n_most
    assert [one["at"] for one in kept] == sorted(one["at"] for one in kept)
    assert all(one in points for one in kept)
    known = [value for value in values if value is not None]
    left = [one["value"] for one in kept if one["value"] is not None]
    if known:
        assert (min(left), max(left)) == (min(known), max(known))


def test_a_long_history_is_drawn_thinned():
    points = [point(i, float(i == 4321)) for i in range(10_000)]
    [trace] = history_figure(points, "drift.feature")["data"]
    assert len(trace["x"]) <= MOST_POINTS
    assert max(trace["y"]) == 1.0
