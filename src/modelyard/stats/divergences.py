"""How far two histograms over the same bins are apart.

All functions take counts, shape (..., bins), of two samples, and give shape (...). Bins that are
empty in both do not count. Without a value in one of the samples the answer is NaN.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

# An empty bin has no logarithm: it is taken for this part of one value.
_EMPTY = 0.5


def population_stability(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Population stability index: sum of (p - q) ln(p / q). 0 for equal shares, no upper end.

    While nothing changes its mean is (bins - 1)(1/n + 1/m) for samples of n and m, so it has to
    be read beside the sample size.

    Args:
        a: Counts; a bin that is empty here only is taken for half a value.
        b: Counts of the other sample, same shape.

    Source:
        Lewis (1994), An Introduction to Credit Scoring; its distribution: Yurdakul and Naranjo
        (2020), Statistics in Transition 21, 89-100.
    """
    first, second = _counts(a), _counts(b)
    is_used = first + second > 0.0
    p = _shares(np.where(is_used, np.maximum(first, _EMPTY), 0.0))
    q = _shares(np.where(is_used, np.maximum(second, _EMPTY), 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.where(is_used, (p - q) * np.log(p / q), 0.0)
    return np.where(_is_known(first, second), parts.sum(axis=-1), np.nan)


def jensen_shannon(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Jensen-Shannon distance, base 2: 0 for equal shares, 1 for shares that never meet.

    Source:
        Endres and Schindelin (2003), IEEE Transactions on Information Theory 49, 1858-1860.
    """
    p, q = _shares(_counts(a)), _shares(_counts(b))
    middle = (p + q) / 2.0
    nats = (special.rel_entr(p, middle) + special.rel_entr(q, middle)).sum(axis=-1) / 2.0
    return np.asarray(np.sqrt(np.maximum(nats, 0.0) / np.log(2.0)))


def hellinger(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """Hellinger distance: 0 for equal shares, 1 for shares that never meet.

    Source:
        Hellinger (1909), Journal für die reine und angewandte Mathematik 136, 210-271.
    """
    gaps = np.sqrt(_shares(_counts(a))) - np.sqrt(_shares(_counts(b)))
    return np.asarray(np.sqrt((gaps * gaps).sum(axis=-1) / 2.0))


def homogeneity_p(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """P-value of the chi-square test that two samples of independent values have equal shares.

    NaN where all values are in one bin: nothing could differ.

    Source:
        Pearson (1900), Philosophical Magazine 50, 157-175; two samples: Cramér (1946),
        Mathematical Methods of Statistics, section 30.6. Equal to scipy's `chi2_contingency`
        without correction.
    """
    first, second = _counts(a), _counts(b)
    both = first + second
    n, m = first.sum(axis=-1, keepdims=True), second.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = (first * m - second * n) ** 2 / (n * m * both)
    statistic = np.where(both > 0.0, parts, 0.0).sum(axis=-1)
    freedom = (both > 0.0).sum(axis=-1) - 1.0
    p = special.chdtrc(np.maximum(freedom, 1.0), np.nan_to_num(statistic))
    return np.where(_is_known(first, second) & (freedom > 0), p, np.nan)


def _counts(given: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(given, dtype=np.float64)


def _shares(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    totals = counts.sum(axis=-1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0.0)
    return np.asarray(shares)


def _is_known(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray((a.sum(axis=-1) > 0.0) & (b.sum(axis=-1) > 0.0))
