"""A threshold from what a score does while nothing has changed.

The states of a market follow one another: a window of a thousand of them wanders as far as fifty
independent values would, and a threshold made for independent data cries wolf. How far windows
wander shows when each is scored against the others.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import special

from modelyard.stats.intervals import alpha_of

Window = TypeVar("Window")
Score = TypeVar("Score")

# With fewer, one change of level among the windows would raise the limit above itself.
MIN_SCORES = 11
_FEWEST = 3
# A score so many times the second largest is no wandering.
_LEVEL_CHANGE = 3.0


def prediction_limit(scores: Sequence[float], *, confidence_level: float = 0.95) -> float:
    """The value that the next score exceeds with chance 1 - `confidence_level`.

    mean + t sd sqrt(1 + 1/k): the upper end of a one-sided prediction interval after k scores.
    NaN below two scores.

    Raises:
        ConfigError: `confidence_level` lies outside (0, 1).

    Source:
        Hahn and Meeker (1991), Statistical Intervals, section 4.8.
    """
    alpha = alpha_of(confidence_level)
    k = len(scores)
    if k < 2:  # noqa: PLR2004 - a spread needs two scores
        return math.nan
    t = float(special.stdtrit(k - 1, 1.0 - alpha))
    return float(np.mean(scores) + t * np.std(scores, ddof=1) * math.sqrt(1.0 + 1.0 / k))


def column_limits(
    scores: NDArray[np.float64], *, confidence_level: float = 0.95
) -> NDArray[np.float64]:
    """A limit for each column that all columns of the next window keep together.

    A column's scores are measured in their own mean, so that one that wanders does not raise the
    limit of the others. The largest of these ratios in each window is what is limited, so the
    chance that any column of the next window exceeds its limit is 1 - `confidence_level`,
    whatever the dependence of the columns.
    One or two windows that stand out by a factor of three from all others are left out: something
    did happen there (going away and coming back are two), which must not hide the next change.

    Args:
        scores: Of windows between which nothing changed, shape (windows, columns); NaN where
            there is none.
        confidence_level: As `prediction_limit`.

    Returns:
        shape (columns,); 0 for a column that never moved, NaN for one without scores.

    Raises:
        ConfigError: `confidence_level` lies outside (0, 1).
    """
    alpha_of(confidence_level)
    known = np.isfinite(scores)
    counts, sums = known.sum(axis=0), np.where(known, scores, 0.0).sum(axis=0)
    means = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    # Each window is measured in the mean of the others, as the next one will be.
    apart = (sums - np.where(known, scores, 0.0)) / np.maximum(counts - known, 1)
    ratios = np.divide(scores, apart, out=np.zeros_like(scores), where=known & (apart > 0.0))
    if len(ratios) < _FEWEST or not ratios.size:
        return np.asarray(means)
    largest = _without_events(np.sort(ratios.max(axis=1)))
    limit = prediction_limit(largest.tolist(), confidence_level=confidence_level)
    return np.asarray(means * limit)


def _without_events(ascending: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores without the largest one or two, if these are no wandering."""
    for n in (2, 1):
        rest = ascending[:-n]
        if len(rest) >= _FEWEST and ascending[-n] > _LEVEL_CHANGE * rest[-1]:
            return rest
    return ascending


def leave_one_out(
    blocks: Sequence[Window], score: Callable[[Sequence[Window], Window], Score]
) -> list[Score]:
    """Each block's score against all the others together.

    Args:
        blocks: In time order.
        score: `score(others, block)`.
    """
    return [score([*blocks[:i], *blocks[i + 1 :]], block) for i, block in enumerate(blocks)]


def successive(windows: Sequence[Window], score: Callable[[Window, Window], Score]) -> list[Score]:
    """Each window's score against the one before it.

    One change of level among the windows touches one score only, so a change that happened while
    the windows were collected does not hide itself.
    """
    return [score(windows[i], windows[i + 1]) for i in range(len(windows) - 1)]
