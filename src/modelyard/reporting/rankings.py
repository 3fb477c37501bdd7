"""Many things in order of one number, the first on top."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modelyard.reporting.figures import (
    ALARM,
    NEUTRAL,
    Figure,
    axis,
    bar_axis,
    color,
    escaped,
    figure,
    has_data,
    labels,
    no_data,
    numbers,
)

_ROW_PX = 24
_HEIGHT_OF_REST_PX = 130


@dataclass(frozen=True)
class Ranked:
    """One bar.

    Attributes:
        name: Beside it.
        value: Its length; None draws no bar.
        limit: Drawn as a mark across it; None draws none.
        is_over: Whether it has the colour of alarm.
    """

    name: str
    value: float | None
    limit: float | None = None
    is_over: bool = False


def ranked_bars(
    items: Sequence[Ranked],
    *,
    unit: str,
    over: str = "over its limit",
    within: str = "within",
    title: str = "Ranking",
) -> Figure:
    """Horizontal bars from top to bottom in the order given, which leave room for long names.

    Args:
        items: The bars; equal names stay apart.
        unit: Of values and limits.
        over: What the colour of alarm means.
        within: What the other colour means.
        title: Heading of the chart.
    """
    values = numbers([item.value for item in items])
    if not has_data([values]):
        return no_data(title)
    limits = numbers([item.limit for item in items])
    traces = [
        _bars(within, items, values, is_over=False, shade=color(0)),
        _bars(over, items, values, is_over=True, shade=ALARM),
        _marks(limits),
    ]
    return figure(
        title,
        [trace for trace in traces if trace["x"]],
        height_px=_HEIGHT_OF_REST_PX + _ROW_PX * len(items),
        bargap=0.3,
        barmode="overlay",
        xaxis=bar_axis(unit, [*values, *limits, 0.0]),
        yaxis=axis(
            tickvals=list(range(len(items))),
            ticktext=[escaped(label) for label in labels([item.name for item in items])],
            range=[len(items) - 0.5, -0.5],
            showgrid=False,
        ),
    )


def _bars(
    name: str,
    items: Sequence[Ranked],
    values: Sequence[float | None],
    *,
    is_over: bool,
    shade: str,
) -> dict[str, Any]:
    own = [i for i, item in enumerate(items) if item.is_over is is_over and values[i] is not None]
    return {
        "type": "bar",
        "orientation": "h",
        "name": escaped(name),
        "x": [values[i] for i in own],
        "y": own,
        "text": [f"{values[i]:.3g}" for i in own],
        "textposition": "outside",
        "textangle": 0,
        "cliponaxis": False,
        "hovertext": [escaped(items[i].name) for i in own],
        "hovertemplate": "%{hovertext}<br>%{x:.4~g}",
        "marker": {"color": shade},
    }


def _marks(limits: Sequence[float | None]) -> dict[str, Any]:
    own = [i for i, limit in enumerate(limits) if limit is not None]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "limit",
        "x": [limits[i] for i in own],
        "y": own,
        "hovertemplate": "limit %{x:.4~g}",
        "marker": {"symbol": "line-ns", "size": 14, "line": {"color": NEUTRAL, "width": 2}},
    }
