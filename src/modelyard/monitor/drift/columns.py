"""Each column of a window against the reference."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelyard.monitor.drift.categories import Categories, compare_categories
from modelyard.monitor.drift.methods import ColumnMethod
from modelyard.monitor.drift.references import Reference
from modelyard.stats.distances import sort_columns
from modelyard.stats.divergences import homogeneity_p
from modelyard.stats.multiplicity import holm

SIGNIFICANCE = 0.01


@dataclass(frozen=True, kw_only=True, eq=False)
class ColumnDrift:
    """How far each column has moved; NaN where a column could not be tested.

    Attributes:
        scores: In the method's unit, shape (columns,).
        limits: Which each may not exceed, shape (columns,).
        p_values: Of the method's test, shape (columns,).
        adjusted: The same, adjusted for the number of columns, shape (columns,).
        is_drifted: Whether it is over its limit, significantly, shape (columns,).
        ordered: The values that were tested, shape (columns, n), rows ascending; NaN where a
            column was not.
    """

    scores: NDArray[np.float64]
    limits: NDArray[np.float64]
    p_values: NDArray[np.float64]
    adjusted: NDArray[np.float64]
    is_drifted: NDArray[np.bool_]
    ordered: NDArray[np.float64]

    @property
    def worst(self) -> int:
        """The column that matters most: drifted before not drifted, then furthest over its limit.

        There must be one that was tested.
        """
        excess = np.nan_to_num(self.scores / self.limits, nan=-1.0)
        return int(np.argmax(np.where(self.is_drifted, excess + excess.max(), excess)))


def column_drift(
    reference: Reference,
    rows: NDArray[np.float64],
    *,
    limits: NDArray[np.float64],
    min_samples: int,
    method: ColumnMethod,
) -> ColumnDrift:
    """Compare each column.

    Args:
        reference: What is normal.
        rows: shape (n, columns); NaN and infinities are left out by column, and a column with
            fewer than `min_samples` finite values is not tested.
        limits: Scores that may not be exceeded, shape (columns,).
        min_samples: See above.
        method: How.
    """
    n, width = rows.shape
    ordered = sort_columns(rows)
    counts = np.isfinite(rows).sum(axis=0)
    testable = (counts >= min_samples) & np.isfinite(reference.std)
    complete = testable & (counts == n)
    scores, p_values = np.full(width, np.nan), np.full(width, np.nan)
    everything = complete.all()
    chosen = slice(None) if everything else complete  # no copies where nothing is left out
    sketch, sizes = reference.sketch[chosen], (reference.n, n)
    scores[chosen] = method.scores(sketch, reference.std[chosen], ordered[chosen])
    p_values[chosen] = method.p_values(sketch, ordered[chosen], sizes)
    for i in np.flatnonzero(testable & ~complete).tolist():
        known = np.sort(rows[np.isfinite(rows[:, i]), i])[None]
        one = slice(i, i + 1)
        sketch, sizes = reference.sketch[one], (reference.n, known.shape[1])
        scores[one] = method.scores(sketch, reference.std[one], known)
        p_values[one] = method.p_values(sketch, known, sizes)
    for i in np.flatnonzero(testable & _is_constant(reference)).tolist():
        p_values[i] = _p_of_constant(reference, i, rows[:, i])
    for i, then in reference.categories.items():
        if testable[i]:
            scores[i], p_values[i] = compare_categories(then, Categories.of(rows[:, i]))
    adjusted = np.full(width, np.nan)
    adjusted[testable] = holm(p_values[testable])
    # Comparisons with NaN are False: a column that was not tested has not drifted.
    return ColumnDrift(
        scores=scores,
        limits=limits,
        p_values=p_values,
        adjusted=adjusted,
        is_drifted=(scores > limits) & (adjusted < SIGNIFICANCE),
        ordered=ordered,
    )


def _is_constant(reference: Reference) -> NDArray[np.bool_]:
    sketch = reference.sketch
    if not sketch.shape[1]:
        return np.zeros(len(sketch), np.bool_)
    return np.asarray(sketch[:, -1] - sketch[:, 0] <= reference.std)


def _p_of_constant(reference: Reference, i: int, column: NDArray[np.float64]) -> float:
    """P-value of how many values are others than the one there was.

    A distribution function hardly moves where few values do, and here each is a surprise.
    """
    known = column[np.isfinite(column)]
    is_other = np.abs(known - reference.sketch[i, 0]) > reference.std[i]
    n_others = float(is_other.sum())
    if not n_others:
        return 1.0
    return float(homogeneity_p([reference.n, 0.0], [len(known) - n_others, n_others]))
