"""The look all charts share, and how values become what Plotly's JSON can hold.

A figure here is a plain dict with `data` and `layout`, as `plotly.js` takes it. Building one
needs no import of plotly, and the same dict can be sent to a page, a dashboard or
`plotly.graph_objects.Figure`.
"""

import html
import math
import os.path
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from modelyard._core.errors import ConfigError

Figure: TypeAlias = dict[str, Any]
Values: TypeAlias = Sequence[float | None] | NDArray[Any]
Times: TypeAlias = Sequence[str | date | float | None] | NDArray[Any]

# Okabe and Ito (2008), told apart with every common colour blindness; black is left out
# (invisible on a dark page) and yellow (too faint on a light one).
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C6D31")
NEUTRAL = "#8A8F98"
ALARM = "#D55E00"
# Half transparent grey is right on white and on near-black.
GRID = "rgba(128,128,128,0.22)"
SHADE = "rgba(128,128,128,0.14)"

MARGIN_TOP_PX = 28
MARGIN_BOTTOM_PX = 64
LOG_SCALE_FROM_RATIO = 20.0
# Characters of a name beside a bar that leave room for the bar on a phone.
LABEL_WIDTH = 24
# Of what names have in common, so many characters before the first that differs.
_CONTEXT = 6


def color(index: int) -> str:
    """Palette colour of the series at `index`; colours repeat after the seventh."""
    return PALETTE[index % len(PALETTE)]


def escaped(text: str) -> str:
    """`text` as plotly.js shows it literally: its labels take a few HTML tags otherwise."""
    return html.escape(text, quote=False)


def labels(names: Sequence[str]) -> list[str]:
    """Names short enough to stand beside bars, with the part that tells one from another."""
    short = [_shortened(name) for name in names]
    alike: dict[str, list[int]] = {}
    for i, label in enumerate(short):
        alike.setdefault(label, []).append(i)
    for group in alike.values():
        own = [names[i] for i in group]
        if len(set(own)) > 1:
            n_alike = len(os.path.commonprefix(own))  # noqa: RUF071 - of characters is meant
            start = max(0, n_alike - _CONTEXT)
            for i in group:
                short[i] = _shortened(f"…{names[i][start:]}", n_last=0)
    return short


def _shortened(text: str, n_last: int = LABEL_WIDTH // 2 - 1) -> str:
    """`text`, or its beginning and its last characters: names differ at both ends."""
    if len(text) <= LABEL_WIDTH:
        return text
    return f"{text[: LABEL_WIDTH - 1 - n_last]}…{text[len(text) - n_last :]}"


def numbers(values: Values) -> list[float | None]:
    """`values` as floats of seven digits; None, NaN and infinities as None, a gap."""
    return [_number(value) for value in values]


def _number(value: Any) -> float | None:
    if value is None or not math.isfinite(float(value)):
        return None
    # A chart shows three digits; seventeen would double the file.
    return float(f"{float(value):.7g}")


def times(values: Times) -> list[str | float | None]:
    """`values` as ISO 8601 text (dates) or floats (plain numbers)."""
    return [_time(value) for value in values]


def _time(value: Any) -> str | float | None:
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else str(value)
    if isinstance(value, date):  # datetime is a date
        return value.isoformat()
    return value if isinstance(value, str) else _number(value)


def paired(name: str, x: Times, y: Values) -> tuple[list[str | float | None], list[float | None]]:
    """Both as plain lists.

    Raises:
        ConfigError: They differ in length.
    """
    if len(x) != len(y):
        raise ConfigError(
            f"{name!r} has {len(x)} positions and {len(y)} values; give one value per position."
        )
    return times(x), numbers(y)


def has_data(series: Iterable[Iterable[float | None]]) -> bool:
    """Whether at least one value can be drawn."""
    return any(value is not None for values in series for value in values)


def is_wide(values: Iterable[float | None]) -> bool:
    """Whether a log scale shows more: all positive, and the largest 20 times the smallest."""
    present = [value for value in values if value is not None]
    return (
        bool(present) and min(present) > 0 and max(present) / min(present) > LOG_SCALE_FROM_RATIO
    )


def axis(title: str = "", **options: Any) -> dict[str, Any]:
    """An axis in the common look."""
    return {
        "title": {"text": title, "standoff": 10, "font": {"size": 12}},
        "automargin": True,
        "zeroline": False,
        "showline": False,
        "gridcolor": GRID,
        "ticks": "",
        "tickfont": {"size": 11},
        **options,
    }


def bar_axis(title: str, values: Iterable[float | None]) -> dict[str, Any]:
    """The axis along which bars grow, with room for the labels at their ends."""
    present = [value for value in values if value is not None] or [0.0]
    if is_wide(present):
        low, high = math.log10(min(present)), math.log10(max(present))
        span = high - low
        return axis(title, type="log", dtick=1, range=[low - 0.15 * span, high + 0.25 * span])
    low, high = min(0.0, *present), max(0.0, *present)
    room = 0.25 * (high - low) or 1.0
    return axis(title, range=[low - room if low < 0 else 0.0, high + room if high > 0 else 0.0])


def figure(
    title: str, traces: Sequence[Mapping[str, Any]], *, height_px: int = 360, **layout: Any
) -> Figure:
    """A figure in the common look; `layout` adds to it and wins over it."""
    return {
        "data": [dict(trace) for trace in traces],
        "layout": {
            "title": {"text": title, "x": 0, "xanchor": "left", "font": {"size": 15}},
            "height": height_px,
            "margin": {"l": 56, "r": 16, "t": MARGIN_TOP_PX, "b": MARGIN_BOTTOM_PX},
            "font": {
                "family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
                "size": 12,
                "color": "#3b4048",
            },
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": list(PALETTE),
            "hovermode": "closest",
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 0,
                "yref": "container",
                "yanchor": "bottom",
                "font": {"size": 12},
            },
            **layout,
        },
    }


def no_data(title: str) -> Figure:
    """A figure that says there is nothing to draw."""
    hidden = {"visible": False}
    note = {
        "text": "no data",
        "xref": "paper",
        "yref": "paper",
        "x": 0.5,
        "y": 0.5,
        "showarrow": False,
        "font": {"size": 14},
    }
    return figure(title, [], height_px=160, xaxis=hidden, yaxis=hidden, annotations=[note])


def vertical_line(x: str | float | None, text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A dashed line over the whole height with its label on top: a shape and an annotation."""
    shape = {
        "type": "line",
        "x0": x,
        "x1": x,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"color": NEUTRAL, "width": 1.5, "dash": "dash"},
    }
    label = {
        "text": text,
        "x": x,
        "y": 1,
        "yref": "paper",
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"size": 11},
    }
    return shape, label


def threshold_line(threshold: float) -> dict[str, Any]:
    """A dashed line across the whole width: a shape."""
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": threshold,
        "y1": threshold,
        "line": {"color": ALARM, "width": 1.5, "dash": "dash"},
    }


def threshold_label(threshold: float) -> dict[str, Any]:
    """What the line says, at its right end: an annotation."""
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


def line_trace(
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
