"""Whether one sample tends to be larger than the other, whatever the shape of either."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from modelyard.stats.significance import Contrast, contrast_of, no_contrast


def rank_contrast(a: NDArray[Any], b: NDArray[Any]) -> Contrast:
    """Chance that a value of `b` exceeds one of `a` (ties count half), against a half.

    Spreads and shapes may differ: the test is Brunner and Munzel's. Where no value of one sample
    lies among those of the other, the placements do not vary at all, which would say certainty
    after five values a side; the variance is then that with one value a side misplaced.

    Args:
        a: Values of the control, shape (n,), finite.
        b: Values of the treatment, shape (m,), finite.

    Returns:
        `mean_a` is 0.5 and `mean_b` the probability. Without variance below two values a side.

    Source:
        DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44, 837-845; degrees of freedom:
        Brunner and Munzel (2000), Biometrical J. 42, 17-25.
    """
    if min(len(a), len(b)) < 2:  # noqa: PLR2004 - a variance needs two values
        return no_contrast()
    below_b, above_a = _placements(b, a), 1.0 - _placements(a, b)
    parts = [
        (float(above_a.var(ddof=1)) / len(a), len(a) - 1.0),
        (float(below_b.var(ddof=1)) / len(b), len(b) - 1.0),
    ]
    if parts[0][0] + parts[1][0] <= 0.0:
        parts = [(1.0 / (len(side) * len(side)), len(side) - 1.0) for side in (a, b)]
    return contrast_of(
        mean_a=0.5,
        mean_b=float(below_b.mean()),
        parts=parts,
        n=4.0 * len(a) * len(b) / (len(a) + len(b)),
    )


def rank_influences(
    a: NDArray[Any], b: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What each value of `a` and of `b` adds to the chance of `rank_contrast`, mean 0 in each."""
    above_a, below_b = 1.0 - _placements(a, b), _placements(b, a)
    return above_a - above_a.mean(), below_b - below_b.mean()


def mann_whitney(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Two-sided p-value that both samples come from one distribution; 1.0 without values.

    Source:
        Mann and Whitney (1947), Annals of Mathematical Statistics 18, 50-60, with the correction
        for ties, by scipy: exact below nine values without ties.
    """
    if min(len(a), len(b)) == 0:
        return 1.0
    p_value = float(stats.mannwhitneyu(b, a, alternative="two-sided").pvalue)
    return p_value if np.isfinite(p_value) else 1.0


def _placements(values: NDArray[Any], among: NDArray[Any]) -> NDArray[np.float64]:
    """Of each value: the share of `among` below it, equal ones counted half."""
    ordered = np.sort(among)
    below = np.searchsorted(ordered, values, side="left")
    not_above = np.searchsorted(ordered, values, side="right")
    return np.asarray((below + not_above) / (2.0 * len(among)))
