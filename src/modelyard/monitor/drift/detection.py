"""Whether a distribution has moved: pure functions of a reference and a window.

The score of a column is its first Wasserstein distance from the reference in units of the
reference's standard deviation: 0.3 means that the distribution moved by 0.3 sigma. The score of
several columns is the largest. They are drifted when one column's score is over the threshold
and its Kolmogorov-Smirnov p-value, adjusted for the number of columns (Holm), is below 0.05.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelyard.monitor.drift.baseline import Reference
from modelyard.monitor.drift.sketches import MAX_SCORE, sketch_score
from modelyard.stats.autocorrelation import lag1
from modelyard.stats.calibration import MIN_SCORES, prediction_limit, successive
from modelyard.stats.distances import (
    kolmogorov_smirnov,
    kolmogorov_smirnov_p,
    sort_columns,
    wasserstein,
)
from modelyard.stats.multiplicity import holm
from modelyard.stats.quantiles import midpoint_sketch

METHOD = "wasserstein/std + ks"
SIGNIFICANCE = 0.05
# Above this, a window holds so few independent values that a threshold made for them cries wolf.
AUTOCORRELATED = 0.5
# Scores are skewed to the right, so a limit for 1 % of normal scores is exceeded by about 4 %.
CALIBRATION_LEVEL = 0.99
# A column without a usable value in this many newest rows has stopped: older ones say nothing.
N_NEWEST = 50


@dataclass(frozen=True, kw_only=True)
class ColumnDrift:
    """How far each column has moved; NaN where a column could not be tested.

    Attributes:
        scores: In the reference's standard deviations, shape (columns,).
        p_values: Kolmogorov-Smirnov, shape (columns,).
        adjusted: The same, adjusted for the number of columns, shape (columns,).
        is_drifted: Whether it is over the threshold, significantly, shape (columns,).
    """

    scores: NDArray[np.float64]
    p_values: NDArray[np.float64]
    adjusted: NDArray[np.float64]
    is_drifted: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class DriftVerdict:
    """What a window says about drift.

    Attributes:
        is_drifted: Whether a column is over the effective threshold, significantly.
        score: Largest score; None without enough data.
        threshold: As set.
        effective_threshold: After calibration: at least `threshold`.
        p_value: Adjusted, of the column with the largest score; None without enough data.
        is_calibrated: Whether the threshold can be trusted: the data are not autocorrelated, or
            enough windows have shown how far they wander.
        lag1: Largest autocorrelation of a column, of window and reference; None without data.
        reason: The verdict in words.
        columns: By column; None without enough data.
        n: Rows of the window.
        problem: What the window lacks that the baseline had, in words; empty if nothing.
    """

    is_drifted: bool
    score: float | None
    threshold: float
    effective_threshold: float
    p_value: float | None
    is_calibrated: bool
    lag1: float | None
    reason: str
    columns: ColumnDrift | None
    n: int
    problem: str = ""


# Values whose squares overflow give a NaN or no verdict, never a warning to the caller.
@np.errstate(over="ignore", invalid="ignore")
def detect_drift(
    reference: Reference | None,
    rows: NDArray[np.float64],
    *,
    threshold: float,
    null_scores: Sequence[float],
    min_samples: int,
    window_size: int | None = None,
) -> DriftVerdict:
    """Compare a window with the reference.

    Args:
        reference: What is normal; None while there is none.
        rows: The window, shape (n, columns), oldest first.
        threshold: Score that may not be exceeded, in standard deviations.
        null_scores: Scores of windows between which nothing changed.
        min_samples: Rows below which there is no verdict.
        window_size: Rows that the window can hold, if it has a limit.
    """
    if reference is None:
        reason = "No baseline yet: call set_baseline()."
        return _no_verdict(reason, threshold=threshold, n=len(rows))
    problem = _wrong_width(reference, rows)
    cannot = problem or _too_few(len(rows), min_samples, window_size)
    if cannot:
        return _no_verdict(cannot, threshold=threshold, n=len(rows), problem=problem)
    lost = np.isfinite(reference.std) & ~np.isfinite(rows[-N_NEWEST:]).any(axis=0)
    problem = _lost(int(lost.sum()), rows.shape[1])
    rows = np.where(lost, np.nan, rows) if problem else rows
    has_null = len(null_scores) >= MIN_SCORES
    limit = threshold
    if has_null:
        limit = prediction_limit(null_scores, confidence_level=CALIBRATION_LEVEL)
    effective = max(threshold, limit)
    columns = column_drift(reference, rows, threshold=effective, min_samples=min_samples)
    if not np.isfinite(columns.scores).any():
        reason = problem or f"No column has {min_samples} finite values in window and baseline."
        return _no_verdict(reason, threshold=threshold, n=len(rows), problem=problem)
    autocorrelation = max(reference.lag1, _largest_lag1(rows))
    worst = int(np.nanargmax(columns.scores))
    is_calibrated = has_null or autocorrelation <= AUTOCORRELATED
    reason = _reason(columns, effective, is_calibrated, autocorrelation)
    if problem:
        # What is left may be within the threshold; the window as a whole is not.
        reason = f"{problem} {reason}" if columns.is_drifted.any() else problem
    return DriftVerdict(
        is_drifted=bool(columns.is_drifted.any()),
        score=float(columns.scores[worst]),
        threshold=threshold,
        effective_threshold=effective,
        p_value=float(columns.adjusted[worst]),
        is_calibrated=is_calibrated,
        lag1=autocorrelation,
        reason=reason,
        columns=columns,
        n=len(rows),
        problem=problem,
    )


def column_drift(
    reference: Reference, rows: NDArray[np.float64], *, threshold: float, min_samples: int
) -> ColumnDrift:
    """Score and test each column.

    Args:
        reference: What is normal.
        rows: shape (n, columns); NaN and infinities are left out by column, and a column with
            fewer than `min_samples` finite values is not tested.
        threshold: Score that may not be exceeded.
        min_samples: See above.
    """
    counts = np.isfinite(rows).sum(axis=0)
    testable = (counts >= min_samples) & np.isfinite(reference.std)
    complete = testable & (counts == len(rows))
    scores = np.full(rows.shape[1], np.nan)
    p_values = np.full(rows.shape[1], np.nan)
    scores[complete], p_values[complete] = _compare(reference, complete, rows[:, complete])
    for index in np.flatnonzero(testable & ~complete):
        one = np.zeros_like(complete)
        one[index] = True
        known = rows[np.isfinite(rows[:, index]), index]
        scores[one], p_values[one] = _compare(reference, one, known[:, None])
    adjusted = np.full(rows.shape[1], np.nan)
    adjusted[testable] = holm(p_values[testable])
    # Comparisons with NaN are False: a column that was not tested has not drifted.
    is_drifted = (scores > threshold) & (adjusted < SIGNIFICANCE)
    return ColumnDrift(scores=scores, p_values=p_values, adjusted=adjusted, is_drifted=is_drifted)


def scores_between(
    sketches: Sequence[NDArray[np.float64]], std: NDArray[np.float64]
) -> list[float]:
    """Score of each past window against the one before it, those of the reference's width.

    Args:
        sketches: Quantiles of the windows, oldest first, each shape (columns, levels).
        std: The reference's standard deviations, shape (columns,).
    """
    width = len(std)
    usable = [sketch for sketch in sketches if len(sketch) == width and sketch.size]
    usable = [sketch for sketch in usable if sketch.shape == usable[-1].shape]
    return successive(usable, lambda a, b: sketch_score(a, b, std))


def _compare(
    reference: Reference, chosen: NDArray[np.bool_], rows: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    ordered = sort_columns(rows)
    sketch = reference.sketch[chosen]
    distance = wasserstein(sketch, midpoint_sketch(ordered, sketch.shape[1]))
    statistic = kolmogorov_smirnov(ordered, sketch)
    scores = np.minimum(distance / reference.std[chosen], MAX_SCORE)
    return scores, kolmogorov_smirnov_p(statistic, ordered.shape[1], reference.n)


def _largest_lag1(rows: NDArray[np.float64]) -> float:
    complete = np.isfinite(rows).all(axis=0)
    return float(np.nan_to_num(lag1(rows[:, complete])).max()) if complete.any() else 0.0


def _wrong_width(reference: Reference, rows: NDArray[np.float64]) -> str:
    if len(rows) == 0 or rows.shape[1] == reference.width:
        return ""
    return f"The baseline has {reference.width} columns, the window {rows.shape[1]}."


def _too_few(n: int, min_samples: int, window_size: int | None) -> str:
    if window_size is not None and window_size < min_samples:
        return (
            f"window_size is below the {min_samples} samples a verdict needs: it is {window_size}."
        )
    return f"{n} samples in the window; a verdict needs {min_samples}." if n < min_samples else ""


def _lost(n_lost: int, n_columns: int) -> str:
    if not n_lost:
        return ""
    return (
        f"{n_lost} of {n_columns} columns had too few finite values: none in the newest "
        f"{N_NEWEST} rows, which held NaN or had another width."
    )


def _no_verdict(reason: str, *, threshold: float, n: int, problem: str = "") -> DriftVerdict:
    return DriftVerdict(
        is_drifted=False,
        score=None,
        threshold=threshold,
        effective_threshold=threshold,
        p_value=None,
        is_calibrated=False,
        lag1=None,
        reason=reason,
        columns=None,
        n=n,
        problem=problem,
    )


def _reason(
    columns: ColumnDrift,
    effective: float,
    is_calibrated: bool,  # noqa: FBT001 - private, one caller
    autocorrelation: float,
) -> str:
    n_drifted, n_columns = int(columns.is_drifted.sum()), len(columns.scores)
    score = float(np.nanmax(columns.scores))
    if n_drifted:
        text = f"{n_drifted} of {n_columns} columns moved, up to {score:.3g} standard deviations"
    elif score > effective:
        text = f"Largest score {score:.3g}, over the threshold but not significant"
    else:
        text = f"Largest score {score:.3g} is within the threshold"
    text += f" (threshold {effective:.3g})."
    untested = int(np.isnan(columns.scores).sum())
    if untested:
        text += f" {untested} columns had too few finite values."
    if not is_calibrated and math.isfinite(autocorrelation):
        text += (
            f" Not calibrated: values follow one another (lag-1 {autocorrelation:.2f}) and fewer "
            f"than {MIN_SCORES + 1} full windows have shown how far they wander."
        )
    return text
