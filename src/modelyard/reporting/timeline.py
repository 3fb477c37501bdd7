"""When things lasted: a bar from beginning to end for each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modelyard.reporting.figures import Figure, axis, escaped, figure, labels, no_data

_ROW_PX = 26
_HEIGHT_OF_REST_PX = 110


@dataclass(frozen=True)
class Lasting:
    """Something that lasted.

    Attributes:
        row: In which row it is drawn.
        kind: What gives it its colour.
        start: ISO 8601.
        end: The same; equal to `start` for a moment.
        text: Shown when pointed at.
    """

    row: str
    kind: str
    start: str
    end: str
    text: str = ""


def timeline(
    items: Sequence[Lasting], colors: Sequence[tuple[str, str]], *, title: str = "Timeline"
) -> Figure:
    """What lasted from when to when, a row a name.

    Args:
        items: In any order; rows come in the order of their first item.
        colors: Kind and colour, in the order of the legend; a kind without items is left out.
        title: Heading of the chart.
    """
    if not items:
        return no_data(title)
    rows = list(dict.fromkeys(item.row for item in items))
    traces = [
        _bars(kind, shade, own, rows)
        for kind, shade in colors
        if (own := [item for item in items if item.kind == kind])
    ]
    return figure(
        title,
        traces,
        height_px=_HEIGHT_OF_REST_PX + _ROW_PX * len(rows),
        xaxis=axis(type="date"),
        yaxis=axis(
            tickvals=list(range(len(rows))),
            ticktext=[escaped(label) for label in labels(rows)],
            range=[len(rows) - 0.5, -0.5],
        ),
    )


def _bars(kind: str, shade: str, items: Sequence[Lasting], rows: Sequence[str]) -> dict[str, Any]:
    # A line with a gap after each bar; the markers show what was over at once.
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": escaped(kind),
        "x": [moment for item in items for moment in (item.start, item.end, None)],
        "y": [place for item in items for place in (*[rows.index(item.row)] * 2, None)],
        "text": [text for item in items for text in (escaped(item.text),) * 2 + ("",)],
        "hovertemplate": "%{x}<br>%{text}",
        "line": {"color": shade, "width": 10},
        "marker": {"color": shade, "size": 10, "symbol": "square"},
    }
