"""Several small plots under each other in one figure, so that each keeps its own scale."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelyard.reporting.figures import (
    MARGIN_BOTTOM_PX,
    MARGIN_TOP_PX,
    Figure,
    axis,
    bar_axis,
    color,
    escaped,
    figure,
    has_data,
    no_data,
    numbers,
)

Row = Mapping[str, Any]

_GAP_PX = 68.0
_BAR_PX = 20.0


@dataclass(frozen=True)
class Panel:
    """One of the small plots.

    Attributes:
        title: Heading above the panel.
        height_px: Height of its plotting area.
        xaxis: Axis as `figures.axis` gives it.
        yaxis: Axis as `figures.axis` gives it.
        traces: Plotly traces without axis names.
    """

    title: str
    height_px: float
    xaxis: Mapping[str, Any]
    yaxis: Mapping[str, Any]
    traces: Sequence[Mapping[str, Any]]


def stack(title: str, panels: Sequence[Panel]) -> Figure:
    """The panels from top to bottom; a name in several panels has one entry in the legend."""
    if not panels:
        return no_data(title)
    height = sum(panel.height_px for panel in panels) + _GAP_PX * (len(panels) - 1)
    traces: list[dict[str, Any]] = []
    layout: dict[str, Any] = {"annotations": []}
    named: set[str] = set()
    top = height
    for index, panel in enumerate(panels):
        suffix = "" if index == 0 else str(index + 1)
        domain = [max(0.0, (top - panel.height_px) / height), top / height]
        top -= panel.height_px + _GAP_PX
        layout[f"xaxis{suffix}"] = {**panel.xaxis, "anchor": f"y{suffix}"}
        layout[f"yaxis{suffix}"] = {**panel.yaxis, "anchor": f"x{suffix}", "domain": domain}
        layout["annotations"].append(_heading(panel.title, domain[1]))
        for trace in panel.traces:
            group = {"legendgroup": trace["name"], "showlegend": trace["name"] not in named}
            on = {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}
            traces.append({**group, **trace, **on})
            named.add(trace["name"])
    total_px = round(height) + MARGIN_TOP_PX + MARGIN_BOTTOM_PX
    return figure(title, traces, height_px=total_px, **layout)


def _heading(text: str, y: float) -> dict[str, Any]:
    return {
        "text": f"<b>{escaped(text)}</b>",
        "xref": "paper",
        "yref": "paper",
        "x": 0,
        "y": y,
        "xanchor": "left",
        "yanchor": "bottom",
        "yshift": 2,
        "showarrow": False,
        "font": {"size": 12},
    }


def bar_panel(
    title: str,
    rows: Sequence[Row],
    measure: str,
    *,
    unit: str,
    category: str,
    series: str,
    series_names: Sequence[str],
) -> Panel | None:
    """Horizontal bars of one measure, which leave room for long names on a phone too.

    Args:
        title: Heading of the panel.
        rows: Dicts with the category, the series and perhaps the measure.
        measure: Key of the values.
        unit: Their unit.
        category: Key of the group a bar stands in.
        series: Key of what gives a bar its colour.
        series_names: All series of the figure, so that colours agree between panels.

    Returns:
        None when no row has a value.
    """
    values = numbers([row.get(measure) for row in rows])
    if not has_data([values]):
        return None
    traces = []
    for index, name in enumerate(series_names):
        own = [i for i, row in enumerate(rows) if str(row[series]) == name]
        bar = {
            "type": "bar",
            "orientation": "h",
            "name": escaped(name),
            "y": [escaped(str(rows[i][category])) for i in own],
            "x": [values[i] for i in own],
            "texttemplate": "%{x:.3~g}",
            "textposition": "outside",
            "textangle": 0,
            "cliponaxis": False,
            "hovertemplate": "%{x:.4~g} " + escaped(unit),
            "marker": {"color": color(index)},
        }
        traces.append(bar)
    return Panel(
        title=title,
        height_px=20 + _BAR_PX * len(rows),
        xaxis=bar_axis(unit, values),
        yaxis=axis(autorange="reversed", type="category", showgrid=False),
        traces=traces,
    )
