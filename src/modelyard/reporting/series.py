"""Lines: equity, training, an estimate that grows sharper."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modelyard.reporting.figures import (
    NEUTRAL,
    Figure,
    Times,
    Values,
    axis,
    color,
    escaped,
    figure,
    has_data,
    is_wide,
    line_trace,
    no_data,
    numbers,
    paired,
    threshold_line,
    vertical_line,
)
from modelyard.reporting.panels import Panel, stack

Traces = list[dict[str, Any]]


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
        traces.append(line_trace(name, x, y, line=line))
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
        line = line_trace(name, x, y, line={"color": color(len(panels)), "width": 2})
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


@dataclass(frozen=True)
class TimePanel:
    """Lines that share a scale.

    Attributes:
        title: Heading above them.
        unit: Of the values.
        curves: Name to (times, values).
    """

    title: str
    unit: str
    curves: Mapping[str, tuple[Times, Values]]


def values_over_time(panels: Sequence[TimePanel], *, title: str = "History") -> Figure:
    """Panels above each other on one time axis; one without values is left out.

    Args:
        panels: From top to bottom.
        title: Heading of the chart.

    Raises:
        ConfigError: Times and values of a curve differ in number.
    """
    drawn: list[Panel] = []
    for panel in panels:
        curves = {name: paired(name, *curve) for name, curve in panel.curves.items()}
        if not has_data(y for _, y in curves.values()):
            continue
        lines = [
            line_trace(name, x, y, line={"color": color(index), "width": 2})
            for index, (name, (x, y)) in enumerate(curves.items())
        ]
        # One line is named by its heading.
        shown = {} if len(lines) > 1 else {"showlegend": False}
        values = [value for _, y in curves.values() for value in y]
        scale = {"type": "log", "dtick": 1} if is_wide(values) else {"rangemode": "tozero"}
        drawn.append(
            Panel(
                title=panel.title,
                height_px=130,
                xaxis=axis(**({"matches": "x"} if drawn else {})),
                yaxis=axis(panel.unit, **scale),
                traces=[{**line, **shown} for line in lines],
            )
        )
    return stack(title, drawn)


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
    zero = {**threshold_line(0.0), "line": {"color": NEUTRAL, "width": 1.5, "dash": "dash"}}
    return figure(
        title,
        [
            {**line_trace("upper end", x, high, line=edge), "showlegend": False},
            {**line_trace("interval", x, low, line=edge), "fill": "tonexty", "fillcolor": band},
            line_trace("estimate", x, middle, line={"color": color(0), "width": 2.2}),
        ],
        hovermode="x unified",
        xaxis=axis(x_title),
        yaxis=axis(escaped(label)),
        shapes=[zero],
    )
