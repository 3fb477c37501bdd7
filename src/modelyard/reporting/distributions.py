"""How values are spread."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from modelyard.reporting.figures import (
    Figure,
    Values,
    axis,
    color,
    figure,
    line_trace,
    no_data,
    numbers,
)

Traces = list[dict[str, Any]]


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
        traces.append(
            {**line_trace(name, centres, numbers(100 * share), line=line), "fill": "tozeroy"}
        )
    return figure(title, traces, xaxis=axis(x_title), yaxis=axis("share of values (%)"))
