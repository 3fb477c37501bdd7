"""Charts of what is watched: rankings, timelines, distributions from quantiles, limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from modelyard._core.errors import ConfigError
from modelyard.reporting import (
    Lasting,
    Ranked,
    TimePanel,
    quantile_histograms,
    ranked_bars,
    scores_against_limits,
    timeline,
    values_over_time,
)
from modelyard.reporting.distributions import shares_between
from modelyard.reporting.figures import LABEL_WIDTH, labels

finite = st.floats(-1e300, 1e300)


@given(arrays(np.float64, st.integers(2, 101), elements=finite), st.integers(1, 60))
def test_bins_over_all_values_hold_the_whole_distribution(values, n_bins):
    quantiles = np.sort(values)
    edges = np.linspace(np.nextafter(quantiles[0], -np.inf), quantiles[-1], n_bins + 1)
    edges[-1] = quantiles[-1]
    shares = shares_between(quantiles, np.sort(edges))
    assert shares.sum() == pytest.approx(1.0)
    assert (shares >= -1e-12).all()


def test_shares_of_an_even_spread_are_even():
    shares = shares_between(np.linspace(0.0, 10.0, 101), np.linspace(0.0, 10.0, 6))
    assert shares == pytest.approx([0.2] * 5)


def test_a_constant_is_one_bar():
    shares = shares_between(np.full(101, 3.0), np.array([2.0, 2.9, 3.1, 4.0]))
    assert shares.tolist() == [0.0, 1.0, 0.0]


def test_a_value_that_occurs_often_keeps_its_share():
    half_zeros = np.concatenate([np.zeros(51), np.linspace(1.0, 2.0, 50)])
    shares = shares_between(half_zeros, np.array([-0.1, 0.1, 2.0]))
    assert shares[0] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("value", [0.0, 3.0, -1e308, 1e308, 1e-320])
def test_a_column_that_stood_still_is_drawn(value):
    figure = quantile_histograms({"a": {"window": [value] * 101}})
    assert max(figure["data"][0]["y"]) == pytest.approx(100.0)


def test_heavy_tails_do_not_squeeze_the_middle():
    quantiles = np.sort(np.random.default_rng(0).standard_cauchy(101))
    quantiles[-1] = 1e12
    x = quantile_histograms({"a": {"window": quantiles}})["data"][0]["x"]
    assert max(x) < 1000


def test_columns_and_samples_without_quantiles_are_left_out():
    figure = quantile_histograms(
        {"a": {"baseline": [], "window": [1.0, 2.0]}, "b": {"baseline": [], "window": []}}
    )
    assert [trace["name"] for trace in figure["data"]] == ["window"]
    assert len(figure["layout"]["annotations"]) == 1


def test_a_ranking_keeps_its_order_and_tells_names_apart():
    names = [f"return_over_the_last_{i}_minutes_of_trading" for i in (5, 2, 9)]
    figure = ranked_bars([Ranked(name, 1.0) for name in names], unit="sigma")
    shown = figure["layout"]["yaxis"]["ticktext"]
    assert len(set(shown)) == 3
    assert all(str(i) in text for i, text in zip((5, 2, 9), shown, strict=True))
    assert figure["layout"]["yaxis"]["range"] == [2.5, -0.5]


def test_what_is_over_its_limit_has_a_colour_of_its_own():
    items = [Ranked("a", 0.9, 0.3, is_over=True), Ranked("b", 0.1, 0.3), Ranked("c", None)]
    figure = ranked_bars(items, unit="x", over="drifted", within="not drifted")
    bars = {trace["name"]: trace["y"] for trace in figure["data"]}
    assert bars == {"not drifted": [1], "drifted": [0], "limit": [0, 1]}


@given(st.lists(st.text(max_size=60), max_size=6))
def test_labels_are_short_and_tell_apart_what_differs(names):
    short = labels(names)
    assert len(short) == len(names)
    assert all(len(label) <= LABEL_WIDTH for label in short)


def test_names_that_differ_in_the_middle_keep_the_difference():
    alike = [f"{'x' * 40}_{i}_{'y' * 40}" for i in range(3)]
    assert len(set(labels(alike))) == 3


def test_names_from_outside_are_shown_literally():
    evil = "<b>x</b>"
    ranking = ranked_bars([Ranked(evil, 1.0)], unit="x")
    lasting = timeline(
        [Lasting(evil, "info", "2024-01-01", "2024-01-02", evil)], [("info", "#000")]
    )
    for figure in (ranking, lasting):
        assert figure["layout"]["yaxis"]["ticktext"] == ["&lt;b&gt;x&lt;/b&gt;"]
        assert evil not in str(figure["data"])


def test_a_timeline_has_a_row_a_name_and_a_colour_a_kind():
    items = [
        Lasting("errors", "critical", "2024-01-01", "2024-01-02"),
        Lasting("drift", "warning", "2024-01-01", "2024-01-01"),
        Lasting("errors", "warning", "2024-01-03", "2024-01-04"),
    ]
    colors = [("critical", "#D55E00"), ("warning", "#E69F00"), ("info", "#56B4E9")]
    figure = timeline(items, colors)
    assert figure["layout"]["yaxis"]["ticktext"] == ["errors", "drift"]
    rows = {trace["name"]: [y for y in trace["y"] if y is not None] for trace in figure["data"]}
    assert rows == {"critical": [0, 0], "warning": [1, 1, 0, 0]}


def test_panels_share_one_time_axis_and_empty_ones_are_left_out():
    figure = values_over_time(
        [
            TimePanel("Nothing", "", {"a": (["2024-01-01"], [None])}),
            TimePanel(
                "Latency", "ms", {"p50": (["2024-01-01"], [1]), "p99": (["2024-01-01"], [2])}
            ),
            TimePanel("Errors", "%", {"errors": (["2024-01-02"], [0.0])}),
        ]
    )
    layout = figure["layout"]
    assert "matches" not in layout["xaxis"]
    assert layout["xaxis2"]["matches"] == "x"
    assert [trace["name"] for trace in figure["data"] if trace["showlegend"]] == ["p50", "p99"]


def test_limits_of_another_number_than_times_are_refused():
    with pytest.raises(ConfigError, match="'a' has 2 positions and 1 values"):
        scores_against_limits({"a": (["2024-01-01", "2024-01-02"], [1.0, 2.0], [0.3])})
