"""Columns of categories: how often each value came, then and now.

A category is a column of zeros and ones. The score of a categorical column is the largest of these
columns' scores, the change of a category's share in units of sqrt(share (1 - share)), so that 0.3
means what it means for numbers.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.monitor.drift.methods import MAX_SCORE
from modelyard.stats.divergences import homogeneity_p

# Rarer ones are tested together: the test needs about this many values in a category.
_FEWEST = 5.0


@dataclass(frozen=True, kw_only=True)
class Categories:
    """What values a column had, and how often.

    Attributes:
        values: Codes or numbers, ascending.
        counts: How often each came.
    """

    values: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, column: NDArray[np.float64]) -> "Categories":
        """Those of a column, shape (n,); what is not finite is left out."""
        values, counts = np.unique(column[np.isfinite(column)], return_counts=True)
        return cls(values=tuple(values.tolist()), counts=tuple(counts.tolist()))

    def to_plain(self) -> dict[str, Any]:
        """As plain values."""
        return {"values": list(self.values), "counts": list(self.counts)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Categories":
        """Those that `to_plain` described."""
        return cls(values=tuple(plain["values"]), counts=tuple(plain["counts"]))


def compare_categories(then: Categories, now: Categories) -> tuple[float, float]:
    """Score and p-value of a change; NaN without values.

    Args:
        then: The reference's.
        now: The window's.
    """
    was, is_now = _aligned(then, now)
    n, m = was.sum(), is_now.sum()
    if n == 0 or m == 0:
        return math.nan, math.nan
    if len(was) == 1:
        return 0.0, 1.0
    share = was / n
    # A share of none or all has no deviation: that of half a value in the reference stands in.
    kept = np.clip(share, 0.5 / n, 1.0 - 0.5 / n)
    scores = np.abs(is_now / m - share) / np.sqrt(kept * (1.0 - kept))
    p_value = float(homogeneity_p(*_pooled(was, is_now)))
    return min(float(scores.max()), MAX_SCORE), 1.0 if math.isnan(p_value) else p_value


def _aligned(then: Categories, now: Categories) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values = sorted({*then.values, *now.values})
    known = [dict(zip(one.values, one.counts, strict=True)) for one in (then, now)]
    was, is_now = (np.array([counts.get(value, 0) for value in values], float) for counts in known)
    return was, is_now


def _pooled(
    was: NDArray[np.float64], is_now: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Counts with the rare categories in one bin."""
    is_rare = was + is_now < 2 * _FEWEST
    return tuple(  # type: ignore[return-value]  # two in, two out
        np.append(counts[~is_rare], counts[is_rare].sum()) for counts in (was, is_now)
    )
