"""A threshold from what a score does while nothing has changed.

The states of a market follow one another: a window of a thousand of them wanders as far as fifty
independent values would, and a threshold made for independent data cries wolf. How far windows
wander shows when each is scored against the others.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from scipy import special

from modelyard.stats.intervals import alpha_of

Window = TypeVar("Window")

# With fewer, one change of level among the windows would raise the limit above itself.
MIN_SCORES = 11


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


def leave_one_out(
    blocks: Sequence[Window], score: Callable[[Sequence[Window], Window], float]
) -> list[float]:
    """Each block's score against all the others together.

    Args:
        blocks: In time order.
        score: `score(others, block)`.
    """
    return [score([*blocks[:i], *blocks[i + 1 :]], block) for i, block in enumerate(blocks)]


def successive(windows: Sequence[Window], score: Callable[[Window, Window], float]) -> list[float]:
    """Each window's score against the one before it.

    One change of level among the windows touches one score only, so a change that happened while
    the windows were collected does not hide itself.
    """
    return [score(windows[i], windows[i + 1]) for i in range(len(windows) - 1)]
