"""Charts: valid for Plotly, honest about gaps, and never an error on empty input."""

import json
from datetime import date

import numpy as np
import pytest
from plotly import graph_objects

from modelyard._core.errors import ConfigError
from modelyard.reporting import (
    backend_latencies,
    compression_overview,
    drift_over_time,
    equity_curves,
    histogram,
    interval_over_time,
    metric_bars,
    quantile_histograms,
    ranked_bars,
    scores_against_limits,
    timeline,
    traffic_shares,
    training_curves,
    values_over_time,
)

EMPTY = {
    "equity": lambda: equity_curves({}),
    "equity without values": lambda: equity_curves({"a": ([], [])}, "2008-01-01"),
    "training": lambda: training_curves({"a": [float("nan")]}),
    "compression": lambda: compression_overview([]),
    "backends": lambda: backend_latencies([]),
    "backends that all failed": lambda: backend_latencies(
        [{"model": "a", "backend": "b", "batch": 1, "latency_ms": None, "is_chosen": False}]
    ),
    "drift": lambda: drift_over_time([], {"a": []}, 0.3),
    "traffic": lambda: traffic_shares([], {}, [(1, "promoted")]),
    "interval": lambda: interval_over_time([], [], [], [], "difference"),
    "metrics": lambda: metric_bars({"a": {"sharpe": None}}),
    "histogram": lambda: histogram({"a": np.array([])}, "x"),
    "quantiles": lambda: quantile_histograms({"a": {"window": [], "baseline": [float("nan")]}}),
    "limits": lambda: scores_against_limits({"a": (["2008-01-01"], [None], [0.3])}),
    "history": lambda: values_over_time([]),
    "ranking": lambda: ranked_bars([], unit="x"),
    "timeline": lambda: timeline([], []),
}


def texts(figure):
    return [note["text"] for note in figure["layout"].get("annotations", [])]


@pytest.mark.parametrize("name", EMPTY)
def test_nothing_to_draw_says_so(name):
    assert texts(EMPTY[name]()) == ["no data"]


def test_every_figure_is_valid_for_plotly_and_plain_json(figures):
    for figure in figures.values():
        graph_objects.Figure(figure)
        json.dumps(figure, allow_nan=False)


@pytest.mark.slow
def test_every_figure_has_a_title_and_every_axis_with_values_a_unit(figures):
    for name, figure in figures.items():
        assert figure["layout"]["title"]["text"], name
        assert graph_objects.Figure(figure).layout.yaxis is not None


def test_gaps_stay_gaps():
    figure = equity_curves({"a": (["2008-01-01", "2008-01-02", "2008-01-03"], [1.0, np.nan, 2])})
    assert figure["data"][0]["y"] == [1.0, None, 2.0]


@pytest.mark.parametrize(
    "dates",
    [
        ["2008-01-01", "2008-01-02"],
        [date(2008, 1, 1), date(2008, 1, 2)],
        np.array(["2008-01-01", "2008-01-02"], dtype="datetime64[D]"),
    ],
)
def test_dates_may_be_text_dates_or_datetime64(dates):
    figure = equity_curves({"a": (dates, np.array([1.0, 2.0]))})
    assert figure["data"][0]["x"] == ["2008-01-01", "2008-01-02"]


def test_series_of_another_length_than_its_dates_names_itself():
    with pytest.raises(ConfigError, match="'policy' has 2 positions and 3 values"):
        equity_curves({"policy": (["2008-01-01", "2008-01-02"], [1, 2, 3])})


def test_wide_spans_get_a_log_scale_and_narrow_ones_do_not():
    layout = training_curves({"wide": [100.0, 1.0], "narrow": [3.0, 2.0]})["layout"]
    assert layout["yaxis"]["type"] == "log"
    assert "type" not in layout["yaxis2"]


def test_shares_are_drawn_in_percent_as_stacked_steps():
    trace = traffic_shares([0, 1], {"v1": [1.0, 0.25]})["data"][0]
    assert trace["y"] == pytest.approx([100.0, 25.0])
    assert trace["line"]["shape"] == "hv"
    assert trace["stackgroup"] == "shares"


def test_chosen_backend_has_the_star(figures):
    stars = {trace["name"]: trace["text"] for trace in figures["backends"]["data"]}
    assert stars == {"eager": [""], "onnx": ["★"], "gone": [""]}


def test_name_in_several_panels_has_one_legend_entry(figures):
    shown = [trace["name"] for trace in figures["compression"]["data"] if trace["showlegend"]]
    assert sorted(shown) == ["int8", "original"]


def test_interval_has_a_zero_line(figures):
    (zero,) = figures["interval"]["layout"]["shapes"]
    assert zero["y0"] == zero["y1"] == 0


def test_histogram_shares_sum_to_the_whole():
    figure = histogram({"a": np.random.default_rng(0).normal(size=500)}, "x")
    assert sum(figure["data"][0]["y"]) == pytest.approx(100.0, rel=1e-5)


def test_names_from_outside_are_shown_literally():
    figure = equity_curves({"<b>bold</b>": (["2008-01-01"], [1.0])})
    assert figure["data"][0]["name"] == "&lt;b&gt;bold&lt;/b&gt;"
