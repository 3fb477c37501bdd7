"""Whether columns have moved together in a way that none shows alone.

Both methods take two samples of rows and give a score and a p-value. Rows that follow one another
look different from rows of another time whatever they are, so both treat stretches of rows as one.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from modelyard._core.extras import require
from modelyard.stats.autocorrelation import effective_share

_N_PERMUTATIONS = 200
_N_FOLDS = 5
_MOST_ROWS = 500
_FEWEST_ROWS = 20
# Stretches to be shuffled among each other.
_FEWEST_STRETCHES = 10


def joint_drift(
    method: str,
    then: NDArray[np.float64],
    now: NDArray[np.float64],
    *,
    std: NDArray[np.float64],
    lag1: float,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Score and p-value of a joint change; NaN where too few complete rows are left.

    Args:
        method: `mmd` or `domain_classifier`.
        then: Rows of the reference, shape (n, columns).
        now: Rows of the window, shape (m, columns); of more than 500, 500 evenly spread ones.
        std: The reference's standard deviations; a column where it is NaN is left out.
        lag1: Largest autocorrelation of a column: how long stretches have to be.
        rng: Draws permutations and trees.

    Raises:
        MissingDependencyError: `domain_classifier` needs scikit-learn.
    """
    usable = np.isfinite(std) & np.isfinite(now).any(axis=0)
    a, b = (_complete(rows[:, usable] / std[usable]) for rows in (then, now))
    if min(len(a), len(b)) < _FEWEST_ROWS or not usable.any():
        return math.nan, math.nan
    thinning = max(1, len(now) // _MOST_ROWS)
    if method == "mmd":
        return _mmd(a, b, lag1=lag1**thinning if lag1 > 0 else 0.0, rng=rng)
    return _domain_classifier(a, b, lag1=lag1, rng=rng)


def _complete(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    known = rows[np.isfinite(rows).all(axis=1)]
    if len(known) <= _MOST_ROWS:
        return known
    return known[np.linspace(0, len(known) - 1, _MOST_ROWS).astype(np.intp)]


def _mmd(
    a: NDArray[np.float64], b: NDArray[np.float64], *, lag1: float, rng: np.random.Generator
) -> tuple[float, float]:
    """Squared maximum mean discrepancy, unbiased, Gaussian kernel, its p-value by permutation.

    The kernel's width is the median distance. Stretches of rows change sides as a whole.

    Source:
        Gretton et al. (2012), J. Machine Learning Research 13, 723-773, lemma 6.
    """
    rows = np.concatenate([a, b])
    squares = np.einsum("ij,ij->i", rows, rows)
    distances = np.maximum(squares[:, None] + squares - 2.0 * rows @ rows.T, 0.0)
    median = float(np.median(distances[np.triu_indices(len(rows), 1)])) or 1.0
    kernel = np.exp(-distances / median)
    np.fill_diagonal(kernel, 0.0)
    sides = np.empty((len(rows), _N_PERMUTATIONS + 1))
    sides[:, 0] = np.arange(len(rows)) < len(a)
    length = _stretch(lag1, len(rows))
    for i in range(1, _N_PERMUTATIONS + 1):
        sides[:, i] = _shuffled(sides[:, 0], length, rng)
    values = _mmd_of(kernel, sides)
    p_value = float((1 + (values[1:] >= values[0]).sum()) / (_N_PERMUTATIONS + 1))
    return float(values[0]), p_value


def _mmd_of(kernel: NDArray[np.float64], sides: NDArray[np.float64]) -> NDArray[np.float64]:
    """Discrepancy for each column of `sides`, 1 for rows of the one sample, else 0."""
    n = sides.sum(axis=0)
    m = len(sides) - n
    to_first = kernel @ sides
    within_first = np.einsum("ij,ij->j", sides, to_first)
    between = np.einsum("ij,ij->j", 1.0 - sides, to_first)
    within_second = kernel.sum() - within_first - 2.0 * between
    return np.asarray(
        within_first / (n * (n - 1)) + within_second / (m * (m - 1)) - 2 * between / (n * m)
    )


def _stretch(lag1: float, n: int) -> int:
    """Rows that change sides together: several times as long as rows remember."""
    memory = 1.0 / effective_share(lag1)
    return max(1, min(math.ceil(2.0 * memory), n // _FEWEST_STRETCHES))


def _shuffled(
    side: NDArray[np.float64], length: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Sides with stretches exchanged, from a random offset on."""
    n = len(side)
    offset = int(rng.integers(length))
    starts = np.arange(-offset, n, length)
    order = rng.permutation(len(starts))
    index = np.concatenate([np.arange(starts[i], starts[i] + length) for i in order])
    return np.asarray(side[index[(index >= 0) & (index < n)]])


def _domain_classifier(
    a: NDArray[np.float64], b: NDArray[np.float64], *, lag1: float, rng: np.random.Generator
) -> tuple[float, float]:
    """How well a forest tells the two samples apart: 2 AUC - 1, 0 for not at all, 1 for always.

    Each row is judged by trees that saw other stretches of time. The p-value is that of the
    Mann-Whitney test with the effective number of rows.

    Source:
        Lopez-Paz and Oquab (2017), Revisiting Classifier Two-Sample Tests, ICLR.
    """
    ensemble: Any = require("sklearn.ensemble", extra="drift")
    rows = np.concatenate([a, b])
    is_second = np.repeat([0, 1], [len(a), len(b)])
    fold = np.concatenate([np.arange(len(one)) * _N_FOLDS // len(one) for one in (a, b)])
    chance = np.empty(len(rows))
    for k in range(_N_FOLDS):
        forest = ensemble.RandomForestClassifier(
            n_estimators=50,
            min_samples_leaf=5,
            class_weight="balanced",
            random_state=int(rng.integers(2**31)),
        )
        forest.fit(rows[fold != k], is_second[fold != k])
        chance[fold == k] = forest.predict_proba(rows[fold == k])[:, 1]
    auc = _area(chance[is_second == 0], chance[is_second == 1])
    share = effective_share(lag1)
    n, m = len(a) * share, len(b) * share
    deviation = math.sqrt((n + m + 1.0) / (12.0 * n * m))
    return 2.0 * auc - 1.0, float(special.ndtr(-(auc - 0.5) / deviation))


def _area(low: NDArray[np.float64], high: NDArray[np.float64]) -> float:
    """Chance that a value of `high` is above one of `low`; equal ones count half."""
    ordered = np.sort(low)
    below = ordered.searchsorted(high, side="left") + ordered.searchsorted(high, side="right")
    return float(below.mean() / (2.0 * len(low)))
