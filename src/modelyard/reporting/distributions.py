"""How values are spread."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from modelyard.reporting.panels import Panel, stack

Traces = list[dict[str, Any]]

# Of the drawn range, so that a value that occurs often at its end is not cut off.
_MARGIN = 0.03
# Beyond it, sums and differences of two values would be no numbers.
_LARGEST = 1e300


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


def quantile_histograms(
    columns: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    n_bins: int = 40,
    title: str = "Distributions",
) -> Figure:
    """A panel a column, in it the distribution of each sample, drawn from its quantiles.

    Args:
        columns: Column to sample to its quantiles at equal steps from 0 to 100 %; a sample
            without any is left out. The range drawn is that of the middle 98 %.
        n_bins: Number of bins.
        title: Heading of the chart.
    """
    names = list(dict.fromkeys(name for samples in columns.values() for name in samples))
    panels = []
    for column, samples in columns.items():
        present = {
            name: values
            for name, given in samples.items()
            if (values := np.sort(_finite(given))).size > 1
        }
        if not present:
            continue
        edges = _edges(list(present.values()), n_bins)
        panels.append(
            Panel(
                title=column,
                height_px=130,
                xaxis=axis(),
                yaxis=axis("%", rangemode="tozero"),
                traces=[
                    _steps(name, edges, values, shade=color(names.index(name)))
                    for name, values in present.items()
                ],
            )
        )
    return stack(title, panels)


def shares_between(
    quantiles: NDArray[np.float64], edges: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Part of a distribution in each bin, 0 to 1.

    Args:
        quantiles: At equal steps from 0 to 100 %, sorted; between two of them values are taken to
            be spread evenly.
        edges: Of the bins, sorted; all but the last value below an edge belong to the bin before.
    """
    levels = np.linspace(0.0, 1.0, len(quantiles))
    above = np.searchsorted(quantiles, edges, side="right")
    inside = np.clip(above, 1, len(quantiles) - 1)
    low, high = quantiles[inside - 1], quantiles[inside]
    width = np.where(high > low, high - low, 1.0)
    within = levels[inside - 1] + (edges - low) / width * (levels[inside] - levels[inside - 1])
    below = np.where(above == 0, 0.0, np.where(above == len(quantiles), 1.0, within))
    return np.diff(below)


def _finite(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    return np.clip(array[np.isfinite(array)], -_LARGEST, _LARGEST)


def _edges(samples: Sequence[NDArray[np.float64]], n_bins: int) -> NDArray[np.float64]:
    ends = [(values[len(values) // 100], values[-1 - len(values) // 100]) for values in samples]
    low, high = min(first for first, _ in ends), max(last for _, last in ends)
    spread = (high - low) or max(abs(high), 1.0)
    margin = _MARGIN * spread
    return np.linspace(low - margin, high + margin, n_bins + 1)


def _steps(
    name: str, edges: NDArray[np.float64], quantiles: NDArray[np.float64], *, shade: str
) -> dict[str, Any]:
    share = shares_between(quantiles, edges)
    line = {"color": shade, "width": 2, "shape": "hvh"}
    centres = numbers((edges[:-1] + edges[1:]) / 2)
    return {
        **line_trace(name, centres, numbers(100 * share), line=line),
        "fill": "tozeroy",
        "hovertemplate": "%{y:.3~g} % near %{x:.4~g}",
    }
