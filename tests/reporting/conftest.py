"""A report that holds one block of every kind."""

from datetime import UTC, datetime

import numpy as np
import pytest

from modelyard.reporting import (
    Chart,
    KeyFigures,
    Lasting,
    Note,
    Ranked,
    Report,
    Section,
    Table,
    TimePanel,
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


def make_figures():
    """Every chart with data, by name."""
    dates = np.datetime64("2008-01-01") + np.arange(5)
    return {
        "equity": equity_curves(
            {"policy": (dates, [1, 1.1, None, 1.2, 1.1]), "buy and hold": (dates, np.ones(5))},
            "2008-01-03",
            baselines=("buy and hold",),
        ),
        "training": training_curves({"small": [0.3, 0.2], "wide": [1000.0, 1.0]}),
        "compression": compression_overview(
            [
                {"model": "policy", "step": "original", "size_mb": 2.0, "latency_ms": 0.4},
                {"model": "policy", "step": "int8", "size_mb": 0.5, "error": np.float32(0.01)},
            ]
        ),
        "backends": backend_latencies(
            [
                {
                    "model": "policy",
                    "backend": "eager",
                    "batch": 1,
                    "latency_ms": 9.0,
                    "is_chosen": False,
                },
                {
                    "model": "policy",
                    "backend": "onnx",
                    "batch": 1,
                    "latency_ms": 0.1,
                    "is_chosen": True,
                },
                {
                    "model": "policy",
                    "backend": "gone",
                    "batch": 1,
                    "latency_ms": None,
                    "is_chosen": False,
                },
            ]
        ),
        "drift": drift_over_time(
            ["2008-09-01", "2008-10-01"],
            {"prediction": [0.1, float("nan")]},
            0.3,
            [("2008-09-15", "2008-10-01", "crisis")],
        ),
        "traffic": traffic_shares(
            [0, 1, 2], {"v1": [1, 0.5, 0], "v2": [0, 0.5, 1]}, [(1, "half"), (2, "all")]
        ),
        "interval": interval_over_time([10, 20], [0.1, 0.2], [-1, 0], [1, 0.4], "difference"),
        "metrics": metric_bars({"policy": {"sharpe": 0.5}, "random": {"sharpe": -0.1, "x": 1}}),
        "histogram": histogram({"original": np.arange(50.0)}, "return (%)"),
        "quantiles": quantile_histograms(
            {"price": {"baseline": np.arange(101.0), "window": np.arange(101.0) ** 2}}
        ),
        "limits": scores_against_limits(
            {"outputs": (["2008-09-01", "2008-10-01"], [0.1, 0.5], [0.3, None])}
        ),
        "history": values_over_time(
            [
                TimePanel("Latency", "ms", {"median": (dates, [1, 2, None, 4, 5])}),
                TimePanel("Errors", "%", {"errors": (dates, np.zeros(5))}),
            ]
        ),
        "ranking": ranked_bars(
            [Ranked("spread", 0.9, 0.3, is_over=True), Ranked("volume", 0.1, 0.3)], unit="sigma"
        ),
        "timeline": timeline(
            [
                Lasting("errors", "critical", "2008-01-01", "2008-01-03"),
                Lasting("drift", "info", "2008-01-02", "2008-01-02", "a moment"),
            ],
            [("critical", "#D55E00"), ("info", "#56B4E9")],
        ),
    }


@pytest.fixture
def figures():
    return make_figures()


@pytest.fixture
def report(figures):
    return Report(
        title="Lifecycle of one model",
        subtitle="Five stocks",
        generated_at=datetime(2026, 1, 31, 12, 0, tzinfo=UTC),
        sections=[
            Section(
                "Summary",
                "First paragraph with `code`.\n\nSecond.",
                [
                    KeyFigures([("Size", "0.5 MB", "was 2.0"), ("Latency", 0.1234567, "ms")]),
                    Note("warning", "The policy is worse than buy-and-hold."),
                    Table(
                        ["model", "size", "error"],
                        [["policy", 1234.5, None], ["encoder", 7, -0.5]],
                        "Sizes in MB.",
                        {1},
                        bars=["size"],
                        whole=["model"],
                    ),
                ],
            ),
            Section("Charts", "", [Chart(figure, name) for name, figure in figures.items()]),
        ],
    )
