"""One function a chart: plain values in, a Plotly figure (a dict) out.

Everything takes lists or NumPy arrays; dates as ISO 8601 text, `date` or `datetime64`. None, NaN
and infinities are gaps. Nothing to draw gives a figure that says "no data".
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from textwrap import wrap
from typing import Any

import numpy as np

from modelyard.reporting.figures import (
    ALARM,
    NEUTRAL,
    SHADE,
    Figure,
    Times,
    Values,
    axis,
    bar_axis,
    color,
    escaped,
    figure,
    has_data,
    is_wide,
    no_data,
    numbers,
    paired,
    vertical_line,
)
from modelyard.reporting.panels import Panel, Row, bar_panel, stack

Traces = list[dict[str, Any]]

# Characters a legend line may have to fit on a phone; plotly.js does not wrap.
_LEGEND_WIDTH = 38


def equity_curves(
    curves: Mapping[str, tuple[Times, Values]],
    split_at: str | None = None,
    *,
    baselines: Collection[str] = (),
    title: str = "Equity",
    unit: str = "start = 1",
) -> Figure:
    """Value of each strategy over time.

    Args:
        curves: Name to (dates, values).
        split_at: Date from which the data was not seen in training; marked by a line.
        baselines: Names drawn dashed and grey, behind the others.
        title: Heading of the chart.
        unit: What one on the vertical axis is.

    Raises:
        ConfigError: Dates and values of a curve differ in length.
    """
    traces: Traces = []
    n_baselines = 0
    for name, (dates, values) in curves.items():
        x, y = paired(name, dates, values)
        if name in baselines:
            n_baselines += 1
            dash = "dot" if n_baselines % 2 == 0 else "dash"
            line = {"color": NEUTRAL, "width": 1.5, "dash": dash}
        else:
            line = {"color": color(len(traces) - n_baselines), "width": 2.2}
        traces.append(_line(name, x, y, line=line))
    if not has_data(trace["y"] for trace in traces):
        return no_data(title)
    marks = [vertical_line(split_at, "not seen in training →")] if split_at is not None else []
    return figure(
        title,
        traces,
        hovermode="x unified",
        xaxis=axis(),
        yaxis=axis(f"Equity ({unit})"),
        shapes=[shape for shape, _ in marks],
        # To the right of the line, where the unseen data is.
        annotations=[{**label, "xanchor": "left"} for _, label in marks],
    )


def training_curves(
    curves: Mapping[str, Values],
    *,
    title: str = "Training",
    x_title: str = "iteration",
    y_title: str = "loss",
) -> Figure:
    """One panel a curve, since losses of different models share no scale.

    Args:
        curves: Name to one value per step.
        title: Heading of the chart.
        x_title: What a step is.
        y_title: What a value is, with its unit.
    """
    panels: list[Panel] = []
    for name, values in curves.items():
        y = numbers(values)
        if not has_data([y]):
            continue
        x = [float(step) for step in range(1, len(y) + 1)]
        line = _line(name, x, y, line={"color": color(len(panels)), "width": 2})
        panels.append(
            Panel(
                title=name,
                height_px=130,
                xaxis=axis(x_title),
                yaxis=axis(y_title, **({"type": "log", "dtick": 1} if is_wide(y) else {})),
                # The heading names the curve already.
                traces=[{**line, "showlegend": False}],
            )
        )
    return stack(title, panels)


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


def drift_over_time(
    dates: Times,
    scores: Mapping[str, Values],
    threshold: float | None,
    shaded: Sequence[tuple[str, str, str]] = (),
    *,
    title: str = "Drift",
    unit: str = "standard deviations of the baseline",
) -> Figure:
    """Drift scores over time with the threshold as a line.

    Args:
        dates: One per score.
        scores: Name to scores.
        threshold: Score above which drift is reported; None draws no line.
        shaded: (start, end, label) of periods to shade.
        title: Heading of the chart.
        unit: Unit of the scores.

    Raises:
        ConfigError: A series has another length than `dates`.
    """
    traces: Traces = []
    for index, (name, values) in enumerate(scores.items()):
        x, y = paired(name, dates, values)
        traces.append(_line(name, x, y, line={"color": color(index), "width": 2}))
    if not has_data(trace["y"] for trace in traces):
        return no_data(title)
    shapes, labels = _shaded_periods(shaded)
    if threshold is not None:
        shapes.append(_threshold_line(threshold))
        labels.append(_threshold_label(threshold))
    return figure(
        title,
        traces,
        hovermode="x unified",
        xaxis=axis(),
        yaxis=axis(f"score ({unit})", rangemode="tozero"),
        shapes=shapes,
        annotations=labels,
    )


def _shaded_periods(
    periods: Sequence[tuple[str, str, str]],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    shapes, labels = [], []
    for start, end, text in periods:
        shapes.append(
            {
                "type": "rect",
                "x0": start,
                "x1": end,
                "y0": 0,
                "y1": 1,
                "yref": "paper",
                "fillcolor": SHADE,
                "line": {"width": 0},
                "layer": "below",
            }
        )
        label = vertical_line(start, escaped(text))[1]
        labels.append({**label, "xanchor": "left"})
    return shapes, labels


def _threshold_line(threshold: float) -> dict[str, Any]:
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": threshold,
        "y1": threshold,
        "line": {"color": ALARM, "width": 1.5, "dash": "dash"},
    }


def _threshold_label(threshold: float) -> dict[str, Any]:
    return {
        "text": f"threshold {threshold:.3g}",
        "xref": "paper",
        "x": 1,
        "xanchor": "right",
        "y": threshold,
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"size": 11, "color": ALARM},
    }


def traffic_shares(
    times_min: Values,
    shares: Mapping[str, Values],
    events: Sequence[tuple[float, str]] = (),
    *,
    title: str = "Traffic shares",
) -> Figure:
    """Share of the requests each version got, as stacked steps from 0 to 100 %.

    Args:
        times_min: Minutes at which the shares changed.
        shares: Version to share of the traffic from that minute on, 0 to 1.
        events: (minute, label); numbered marks on the chart, explained in the legend.
        title: Heading of the chart.

    Raises:
        ConfigError: A series has another length than `times_min`.
    """
    traces: Traces = []
    for index, (version, values) in enumerate(shares.items()):
        x, y = paired(version, times_min, values)
        percent = [None if value is None else 100.0 * value for value in y]
        traces.append(
            {
                **_line(version, x, percent, line={"color": color(index), "width": 0}),
                "line": {"color": color(index), "width": 0.5, "shape": "hv"},
                "stackgroup": "shares",
                "hovertemplate": "%{y:.3~g} %",
            }
        )
    if not has_data(trace["y"] for trace in traces):
        return no_data(title)
    traces += [_event_mark(i, at, text) for i, (at, text) in enumerate(events, start=1)]
    drawn = figure(
        title,
        traces,
        height_px=360 + 18 * len(events),
        hovermode="x",
        xaxis=axis("minutes"),
        # The room above 100 % is for the marks of the events.
        yaxis=axis(
            "share of traffic (%)",
            range=[0, 114 if events else 100],
            tickvals=[0, 25, 50, 75, 100],
        ),
        shapes=[
            {**vertical_line(at, "")[0], "line": {"color": NEUTRAL, "width": 1, "dash": "dot"}}
            for at, _ in events
        ],
    )
    # Stacked areas would turn the legend round, and the events' numbers with it.
    drawn["layout"]["legend"]["traceorder"] = "normal"
    return drawn


def _event_mark(number: int, at_min: float, text: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers+text",
        "x": [at_min],
        "y": [107],
        "text": [f"<b>{number}</b>"],
        "name": f"{number} · " + "<br>".join(map(escaped, wrap(text, _LEGEND_WIDTH))),
        "marker": {"size": 18, "color": "#ffffff", "line": {"color": NEUTRAL, "width": 1.5}},
        "textfont": {"size": 11, "color": "#3b4048"},
        "hovertemplate": "%{x:.3~g} min",
        "cliponaxis": False,
    }


def interval_over_time(
    n_samples: Values,
    estimates: Values,
    lower: Values,
    upper: Values,
    label: str,
    *,
    title: str = "Difference with its always-valid interval",
    x_title: str = "samples",
) -> Figure:
    """An estimate that grows sharper with the samples, its interval, and the zero line.

    Args:
        n_samples: Number of samples at each look.
        estimates: The estimate at each look.
        lower: Lower end of the interval at each look.
        upper: Upper end of the interval at each look.
        label: What is estimated, with its unit.
        title: Heading of the chart.
        x_title: What the samples are.

    Raises:
        ConfigError: The four differ in length.
    """
    x, middle = paired("estimates", n_samples, estimates)
    low, high = paired("lower", n_samples, lower)[1], paired("upper", n_samples, upper)[1]
    if not has_data([middle, low, high]):
        return no_data(title)
    edge = {"color": color(0), "width": 0}
    band = "rgba(0,114,178,0.20)"
    zero = {**_threshold_line(0.0), "line": {"color": NEUTRAL, "width": 1.5, "dash": "dash"}}
    return figure(
        title,
        [
            {**_line("upper end", x, high, line=edge), "showlegend": False},
            {**_line("interval", x, low, line=edge), "fill": "tonexty", "fillcolor": band},
            _line("estimate", x, middle, line={"color": color(0), "width": 2.2}),
        ],
        hovermode="x unified",
        xaxis=axis(x_title),
        yaxis=axis(escaped(label)),
        shapes=[zero],
    )


def histogram(
    samples: Mapping[str, Values],
    x_title: str,
    *,
    n_bins: int = 40,
    title: str = "Distribution",
) -> Figure:
    """Share of each sample in equal bins over the common range.

    Args:
        samples: Name to values.
        x_title: What the values are, with their unit.
        n_bins: Number of bins.
        title: Heading of the chart.
    """
    present = {
        name: np.array([value for value in numbers(values) if value is not None])
        for name, values in samples.items()
    }
    present = {name: values for name, values in present.items() if values.size}
    if not present:
        return no_data(title)
    edges = np.histogram_bin_edges(np.concatenate(list(present.values())), bins=n_bins)
    traces = []
    for index, (name, values) in enumerate(present.items()):
        share = np.histogram(values, bins=edges)[0] / values.size
        line = {"color": color(index), "width": 2, "shape": "hvh"}
        centres = numbers((edges[:-1] + edges[1:]) / 2)
        traces.append({**_line(name, centres, numbers(100 * share), line=line), "fill": "tozeroy"})
    return figure(title, traces, xaxis=axis(x_title), yaxis=axis("share of values (%)"))


def _line(
    name: str, x: Sequence[Any], y: Sequence[float | None], *, line: Mapping[str, Any]
) -> dict[str, Any]:
    """A line; `None` in `y` is a gap."""
    return {
        "type": "scatter",
        # A single point has no line to show.
        "mode": "lines" if len(y) > 1 else "markers",
        "name": escaped(name),
        "x": list(x),
        "y": list(y),
        "line": dict(line),
        "hovertemplate": "%{y:.4~g}",
    }
