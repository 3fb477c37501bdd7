"""Who got which share of the requests."""

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

from modelyard.reporting.figures import (
    NEUTRAL,
    Figure,
    Values,
    axis,
    color,
    escaped,
    figure,
    has_data,
    line_trace,
    no_data,
    paired,
    vertical_line,
)

Traces = list[dict[str, Any]]

# Characters a legend line may have to fit on a phone; plotly.js does not wrap.
_LEGEND_WIDTH = 38


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
                **line_trace(version, x, percent, line={"color": color(index), "width": 0}),
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
