"""Several tests at once."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """P-values adjusted so that any of them below alpha is a false alarm with chance alpha.

    Valid whatever the dependence of the tests. Same order as given; at most 1.

    Source:
        Holm (1979), Scandinavian J. of Statistics 6, 65-70.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    steps = p[order] * np.arange(p.size, 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def benjamini_hochberg(p_values: ArrayLike) -> NDArray[np.float64]:
    """P-values adjusted so that of those below alpha, at most a share of alpha is false.

    On average, and for tests that are independent or depend positively on each other. Same order
    as given; at most 1.

    Source:
        Benjamini and Hochberg (1995), J. Royal Statistical Society B 57, 289-300.
        Reference numbers: `tests/reference/experiments.json`, from statsmodels.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")[::-1]
    steps = p[order] * p.size / np.arange(p.size, 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.minimum.accumulate(steps), 1.0)
    return adjusted
