"""When a stream's mean changed: the cumulative sum that is started anew while nothing happens."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

# Siegmund's correction for sums that jump over the threshold.
_OVERSHOOT = 1.166


@dataclass(frozen=True, kw_only=True, eq=False)
class Changes:
    """What `page_hinkley` found in each stream.

    Attributes:
        detected: Index of the value at which the sum first exceeded the threshold, shape
            (streams,); -1 where it never did.
        began: Index of the first value after the last moment without a sum: the estimate of when
            the mean changed; -1 as above.
        direction: 1 where it rose, -1 where it fell, 0 as above.
    """

    detected: NDArray[np.intp]
    began: NDArray[np.intp]
    direction: NDArray[np.int64]


def page_hinkley(values: NDArray[np.float64], *, allowance: float, threshold: float) -> Changes:
    """The first change of the mean in each stream, up or down.

    Args:
        values: Standardised, mean 0 and standard deviation 1 before the change, shape
            (n, streams), in time order; NaN counts as no news.
        allowance: What the mean may be off by unnoticed, in standard deviations.
        threshold: Sum that counts as a change (`sum_threshold`), in standard deviations.

    Source:
        Page (1954), Biometrika 41, 100-115; Hinkley (1971), Biometrika 58, 509-523, for the time
        of the change.
    """
    n, n_streams = values.shape
    if n == 0:
        none = np.full(n_streams, -1)
        return Changes(detected=none, began=none, direction=np.zeros(n_streams, np.int64))
    streams = np.ascontiguousarray(values.T)
    steps = np.concatenate([streams, -streams]) - allowance
    # A step back of the threshold empties every sum that is not over, one of twice that fills it:
    # a larger one would only take the sums' last digits.
    steps = np.clip(np.where(np.isfinite(steps), steps, 0.0), -threshold, 2.0 * threshold)
    totals = np.cumsum(steps, axis=1)
    # A sum that is set to zero whenever it falls below is the total less the least so far.
    sums = totals - np.minimum(np.minimum.accumulate(totals, axis=1), 0.0)
    is_over = sums > threshold
    detected = np.where(is_over.any(axis=1), is_over.argmax(axis=1), -1)
    began = detected.copy()
    for i in np.flatnonzero(detected >= 0).tolist():
        empty = np.flatnonzero(sums[i, : detected[i]] <= 0.0)
        began[i] = empty[-1] + 1 if empty.size else 0
    up, down = detected[:n_streams], detected[n_streams:]
    is_up = (up >= 0) & ((down < 0) | (up <= down))
    is_down = (down >= 0) & ~is_up
    return Changes(
        detected=np.where(is_up, up, down),
        began=np.where(is_up, began[:n_streams], began[n_streams:]),
        direction=is_up.astype(np.int64) - is_down,
    )


def without_step(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each column less its means before and after the step that explains most of its variance.

    What is left of independent values with one change of level is independent again; what
    wanders goes on wandering.

    Args:
        rows: shape (n, columns), in time order, finite, n of 2 or more.

    Source:
        Bai (1994), J. of Time Series Analysis 15, 453-472: least squares.
    """
    n = len(rows)
    centred = rows - rows.mean(axis=0)
    sums = np.cumsum(centred, axis=0)[:-1]
    k = np.arange(1, n, dtype=np.float64)[:, None]
    last = np.argmax(sums * sums / (k * (n - k)), axis=0)
    total = np.take_along_axis(sums, last[None], axis=0)[0]
    is_before = np.arange(n)[:, None] <= last
    return np.asarray(centred - np.where(is_before, total / (last + 1), -total / (n - last - 1)))


def sum_threshold(*, allowance: float, run_length: float) -> float:
    """The threshold at which a false change comes once in about `run_length` values, up or down.

    For independent normal values.

    Args:
        allowance: As in `page_hinkley`, above 0.
        run_length: Mean number of values to a false change, above 10.

    Source:
        Siegmund (1985), Sequential Analysis, equation 2.57, with his correction for overshoot.
    """

    def excess(threshold: float) -> float:
        b = 2.0 * allowance * (threshold + _OVERSHOOT)
        return (math.expm1(b) - b) / (2.0 * allowance * allowance) / 2.0 - run_length

    largest = math.log(4.0 * run_length * max(allowance, 1.0) ** 2 + 10.0) / allowance + 10.0
    return float(optimize.brentq(excess, 0.0, largest)) if excess(0.0) < 0.0 else 0.0
