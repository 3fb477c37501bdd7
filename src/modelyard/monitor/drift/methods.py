"""How far each column has moved, by the method asked for."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelyard._core.errors import ConfigError
from modelyard.stats.distances import kolmogorov_smirnov, kolmogorov_smirnov_p, wasserstein
from modelyard.stats.divergences import (
    hellinger,
    homogeneity_p,
    jensen_shannon,
    population_stability,
)
from modelyard.stats.quantiles import midpoint_sketch

Columns = NDArray[np.float64]

# A column that was constant and is so no longer has no deviation to be measured in.
MAX_SCORE = 1000.0
_N_BINS = 10


@dataclass(frozen=True, kw_only=True)
class ColumnMethod:
    """One way of comparing columns with a reference.

    In both functions `sketch` and `ordered` hold a column in each row, ascending, and the answer
    has shape (columns,).

    Attributes:
        name: As given to `drift_method`.
        label: With its test of significance, as reported.
        unit: Of its scores, in words; empty where they have none.
        default_threshold: In that unit.
        scores: `scores(sketch, std, ordered)`, `std` the reference's standard deviations.
        p_values: `p_values(sketch, ordered, sizes)`, `sizes` the rows behind each of them.
    """

    name: str
    label: str
    unit: str = ""
    default_threshold: float
    scores: Callable[[Columns, Columns, Columns], Columns]
    p_values: Callable[[Columns, Columns, tuple[int, int]], Columns]


# Values whose sums overflow have no score, and never a warning to the caller.
@np.errstate(over="ignore", invalid="ignore")
def _wasserstein(sketch: Columns, std: Columns, ordered: Columns) -> Columns:
    distance = wasserstein(sketch, midpoint_sketch(ordered, sketch.shape[1]))
    return np.asarray(np.minimum(distance / std, MAX_SCORE))


def _kolmogorov_smirnov(
    sketch: Columns,
    std: Columns,  # noqa: ARG001 - every method is called alike
    ordered: Columns,
) -> Columns:
    return kolmogorov_smirnov(ordered, sketch)


def _kolmogorov_smirnov_p(sketch: Columns, ordered: Columns, sizes: tuple[int, int]) -> Columns:
    return kolmogorov_smirnov_p(kolmogorov_smirnov(ordered, sketch), *sizes)


def _binned(
    divergence: Callable[[Columns, Columns], Columns],
) -> Callable[[Columns, Columns, Columns], Columns]:
    def scores(
        sketch: Columns,
        std: Columns,  # noqa: ARG001 - every method is called alike
        ordered: Columns,
    ) -> Columns:
        return divergence(*_histograms(sketch, ordered))

    return scores


def _homogeneity_p(sketch: Columns, ordered: Columns, sizes: tuple[int, int]) -> Columns:
    was, now = _histograms(sketch, ordered)
    scales = sizes[0] / sketch.shape[1], sizes[1] / ordered.shape[1]
    p_values = homogeneity_p(was * scales[0], now * scales[1])
    # All in one bin, then and now: nothing has moved.
    return np.where(np.isnan(p_values), 1.0, p_values)


def _histograms(sketch: Columns, ordered: Columns) -> tuple[Columns, Columns]:
    """Counts of both over tenths of the first, each shape (columns, bins)."""
    positions = (np.arange(1, _N_BINS) * sketch.shape[1]) // _N_BINS
    # Halfway between two values, so that nothing lies on an edge unless many do.
    edges = (sketch[:, positions - 1] + sketch[:, positions]) / 2.0
    return _counts(sketch, edges), _counts(ordered, edges)


def _counts(ordered: Columns, edges: Columns) -> Columns:
    """Values between the edges and on them, shape (columns, 2 edges + 1).

    An edge is a bin of its own: a column of a few values has many on an edge, and one that was
    constant leaves it to either side.
    """
    ends = np.empty((len(ordered), 2 * edges.shape[1]))
    for i, (values, at) in enumerate(zip(ordered, edges, strict=True)):
        ends[i, 0::2] = values.searchsorted(at, side="left")
        ends[i, 1::2] = values.searchsorted(at, side="right")
    # Edges that are equal would count their values twice: what comes after never starts earlier.
    ends = np.maximum.accumulate(ends, axis=1)
    return np.diff(ends, axis=1, prepend=0.0, append=ordered.shape[1])


WASSERSTEIN = ColumnMethod(
    name="wasserstein",
    label="wasserstein/std + ks",
    unit=" standard deviations",
    default_threshold=0.3,
    scores=_wasserstein,
    p_values=_kolmogorov_smirnov_p,
)

COLUMN_METHODS = {
    method.name: method
    for method in (
        WASSERSTEIN,
        ColumnMethod(
            name="ks",
            label="ks",
            default_threshold=0.15,
            scores=_kolmogorov_smirnov,
            p_values=_kolmogorov_smirnov_p,
        ),
        ColumnMethod(
            name="psi",
            label="psi + chi-square",
            default_threshold=0.2,
            scores=_binned(population_stability),
            p_values=_homogeneity_p,
        ),
        ColumnMethod(
            name="js",
            label="jensen-shannon + chi-square",
            default_threshold=0.15,
            scores=_binned(jensen_shannon),
            p_values=_homogeneity_p,
        ),
        ColumnMethod(
            name="hellinger",
            label="hellinger + chi-square",
            default_threshold=0.15,
            scores=_binned(hellinger),
            p_values=_homogeneity_p,
        ),
    )
}
# Methods that look at all columns at once.
JOINT_METHODS = {"domain_classifier": 0.2, "mmd": 0.05}


def default_threshold(method: str) -> float:
    """The threshold that a method of this name has of its own.

    Raises:
        ConfigError: There is no such method.
    """
    if method in COLUMN_METHODS:
        return COLUMN_METHODS[method].default_threshold
    if method in JOINT_METHODS:
        return JOINT_METHODS[method]
    raise ConfigError(
        f"No drift method {method!r}. There are: {', '.join([*COLUMN_METHODS, *JOINT_METHODS])}."
    )
