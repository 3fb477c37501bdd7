"""Drift over time."""

from collections.abc import Mapping, Sequence
from typing import Any

from modelyard.reporting.figures import (
    ALARM,
    SHADE,
    Figure,
    Times,
    Values,
    axis,
    color,
    escaped,
    figure,
    has_data,
    line_trace,
    no_data,
    paired,
    threshold_label,
    threshold_line,
    vertical_line,
)
from modelyard.reporting.panels import Panel, stack

Traces = list[dict[str, Any]]


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
        traces.append(line_trace(name, x, y, line={"color": color(index), "width": 2}))
    if not has_data(trace["y"] for trace in traces):
        return no_data(title)
    shapes, labels = _shaded_periods(shaded)
    if threshold is not None:
        shapes.append(threshold_line(threshold))
        labels.append(threshold_label(threshold))
    return figure(
        title,
        traces,
        hovermode="x unified",
        xaxis=axis(),
        yaxis=axis(f"score ({unit})", rangemode="tozero"),
        shapes=shapes,
        annotations=labels,
    )


def scores_against_limits(
    scores: Mapping[str, tuple[Times, Values, Values]],
    *,
    title: str = "Drift",
    unit: str = "standard deviations",
) -> Figure:
    """A panel a score, with the limit that held at each time.

    Args:
        scores: Name to times, scores and limits.
        title: Heading of the chart.
        unit: Unit of scores and limits.

    Raises:
        ConfigError: Times, scores and limits of a name differ in number.
    """
    panels: list[Panel] = []
    for name, (dates, values, limits) in scores.items():
        x, y = paired(name, dates, values)
        if not has_data([y]):
            continue
        limit = paired(name, dates, limits)[1]
        line = line_trace("score", x, y, line={"color": color(0), "width": 2})
        # A limit held for the whole of what ended at its time.
        dashed = {"color": ALARM, "width": 1.5, "dash": "dash", "shape": "vh"}
        panels.append(
            Panel(
                title=name,
                height_px=150,
                xaxis=axis(**({"matches": "x"} if panels else {})),
                yaxis=axis(unit if not panels else "", rangemode="tozero"),
                traces=[line, line_trace("limit", x, limit, line=dashed)],
            )
        )
    return stack(title, panels)


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
