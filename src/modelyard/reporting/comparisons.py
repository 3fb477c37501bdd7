"""Bars and points beside each other: models, metrics, backends."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from modelyard.reporting.figures import (
    NEUTRAL,
    Figure,
    axis,
    bar_axis,
    color,
    escaped,
    has_data,
    is_wide,
    numbers,
)
from modelyard.reporting.panels import Panel, Row, bar_panel, stack

Traces = list[dict[str, Any]]


def compression_overview(rows: Sequence[Row], *, title: str = "Compression") -> Figure:
    """Size, latency and error of each model after each step, a panel each.

    Args:
        rows: Dicts with `model`, `step`, `size_mb`, `latency_ms` and `error`; a measure that is
            missing or None (the original has no error) draws no bar.
        title: Heading of the chart.
    """
    measures = {
        "size_mb": ("Size", "MB"),
        "latency_ms": ("Latency", "ms"),
        "error": ("Error", "of the outputs, relative to the original's"),
    }
    steps = list(dict.fromkeys(str(row["step"]) for row in rows))
    panels = [
        bar_panel(
            heading,
            rows,
            measure,
            unit=unit,
            category="model",
            series="step",
            series_names=steps,
        )
        for measure, (heading, unit) in measures.items()
    ]
    return stack(title, [panel for panel in panels if panel is not None])


def trade_offs(
    rows: Sequence[Row], *, quality: str, title: str = "What smaller and faster costs"
) -> Figure:
    """Quality over size and over latency, a panel each; every way to compress is a point.

    Args:
        rows: Dicts with `name`, `size_mb`, `latency_ms`, `quality` and `is_on_front`: whether no
            other row is at least as good in all three. A row without a number draws no point.
        quality: What the quality is, with its unit and the better direction.
        title: Heading of the chart.
    """
    panels = []
    for measure, heading, unit in (
        ("size_mb", "Size", "MB"),
        ("latency_ms", "Latency", "ms, one sample"),
    ):
        x = numbers([row.get(measure) for row in rows])
        y = numbers([row.get("quality") for row in rows])
        if not has_data([x]) or not has_data([y]):
            continue
        panels.append(
            Panel(
                title=heading,
                height_px=240,
                xaxis=axis(unit, **({"type": "log"} if is_wide(x) else {"rangemode": "tozero"})),
                yaxis=axis(quality),
                traces=[
                    _points(name, rows, x, y, is_on_front=is_on_front, shade=shade)
                    for name, is_on_front, shade in (
                        ("beaten by another", False, NEUTRAL),
                        ("no other is better in everything", True, color(0)),
                    )
                ],
            )
        )
    return stack(title, panels)


def _points(
    name: str,
    rows: Sequence[Row],
    x: Sequence[float | None],
    y: Sequence[float | None],
    *,
    is_on_front: bool,
    shade: str,
) -> dict[str, Any]:
    own = [i for i, row in enumerate(rows) if bool(row.get("is_on_front")) is is_on_front]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [x[i] for i in own],
        "y": [y[i] for i in own],
        "text": [escaped(str(rows[i]["name"])) for i in own],
        "hovertemplate": "%{text}<br>%{x:.4~g}, %{y:.4~g}",
        "marker": {"color": shade, "size": 11 if is_on_front else 8},
    }


def metric_bars(
    metrics: Mapping[str, Mapping[str, float | None]],
    *,
    units: Mapping[str, str] | None = None,
    title: str = "Metrics",
) -> Figure:
    """Each metric in a panel of its own, one bar a name.

    Args:
        metrics: Name to metric to value. A name may lack metrics that others have.
        units: Metric to its unit, shown under its panel.
        title: Heading of the chart.
    """
    panels = []
    for metric in dict.fromkeys(metric for values in metrics.values() for metric in values):
        rows = [{"name": name, "value": values.get(metric)} for name, values in metrics.items()]
        panel = bar_panel(
            metric,
            rows,
            "value",
            unit=(units or {}).get(metric, ""),
            category="name",
            series="name",
            series_names=list(metrics),
        )
        if panel is not None:
            # The names stand at the bars: no legend, and no room kept for a group's other bars.
            bars = [{**bar, "showlegend": False, "offsetgroup": "one"} for bar in panel.traces]
            panels.append(replace(panel, traces=bars))
    return stack(title, panels)


def backend_latencies(rows: Sequence[Row], *, title: str = "Latency by backend") -> Figure:
    """A panel a model, a group a batch size, a bar a backend; a star on the chosen one.

    Args:
        rows: Dicts with `model`, `backend`, `batch` (size), `latency_ms` (of one call) and
            `is_chosen`. A backend that failed has the latency None.
        title: Heading of the chart.
    """
    backends = list(dict.fromkeys(str(row["backend"]) for row in rows))
    panels = []
    for model in dict.fromkeys(str(row["model"]) for row in rows):
        own = [row for row in rows if str(row["model"]) == model]
        values = numbers([row.get("latency_ms") for row in own])
        if not has_data([values]):
            continue
        bars = []
        for index, backend in enumerate(backends):
            cells = [row for row in own if str(row["backend"]) == backend]
            if cells:
                bars.append({**_backend_bar(backend, cells), "marker": {"color": color(index)}})
        panels.append(
            Panel(
                title=model,
                height_px=170,
                xaxis=axis("batch size (★ chosen)", type="category", showgrid=False),
                yaxis=bar_axis("ms a call", values),
                traces=bars,
            )
        )
    return stack(title, panels)


def _backend_bar(backend: str, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "type": "bar",
        "name": escaped(backend),
        "x": [str(row["batch"]) for row in rows],
        "y": numbers([row.get("latency_ms") for row in rows]),
        "text": ["★" if row.get("is_chosen") else "" for row in rows],
        "textposition": "outside",
        "cliponaxis": False,
        "hovertemplate": "batch %{x}: %{y:.3~g} ms",
    }
