"""Whether a distribution has moved: pure functions of a reference and a window.

By default the score of a column is its first Wasserstein distance from the reference in units of
the reference's standard deviation: 0.3 means that the distribution moved by 0.3 sigma. A column
has drifted when its score is over its limit and its p-value, adjusted for the number of columns
(Holm), is below 0.01. A column's limit is the threshold, or what the column does while nothing
changes if that is more.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelyard.monitor.drift.columns import SIGNIFICANCE, ColumnDrift, column_drift
from modelyard.monitor.drift.joint import joint_drift
from modelyard.monitor.drift.methods import (
    COLUMN_METHODS,
    WASSERSTEIN,
    ColumnMethod,
    default_threshold,
)
from modelyard.monitor.drift.past import PastSketches
from modelyard.monitor.drift.problems import N_NEWEST, problems_of
from modelyard.monitor.drift.references import Reference, dependence_of, scores_between
from modelyard.stats.calibration import MIN_SCORES, column_limits
from modelyard.stats.changepoint import without_step
from modelyard.stats.quantiles import midpoint_sketch

# Above this, a window holds so few independent values that a threshold made for them cries wolf.
AUTOCORRELATED = 0.5
# The same for how much more its means vary: 3 for a first-order autoregression of 0.5, and of
# independent values one column in 100,000 by chance.
WANDERING = 3.0
# Scores are skewed to the right, so a limit for 1 % of normal scores is exceeded by about 4 %.
CALIBRATION_LEVEL = 0.99


@dataclass(frozen=True, kw_only=True)
class DriftRule:
    """How drift is judged.

    Attributes:
        threshold: Score that may not be exceeded, in the method's unit.
        method: One of the column methods, or `mmd` or `domain_classifier`.
        min_samples: Rows below which there is no verdict.
        window_size: Rows that a window can hold.
        seed: Of what the joint methods draw.
    """

    threshold: float
    method: str = WASSERSTEIN.name
    min_samples: int = 200
    window_size: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        default_threshold(self.method)  # refuses what there is not


@dataclass(frozen=True, kw_only=True)
class _Dependence:
    """How much values say about the next ones: the largest of all columns, then and now."""

    lag1: float
    wander: float

    @classmethod
    def of(cls, reference: Reference, rows: NDArray[np.float64]) -> "_Dependence":
        """That of the reference and of a window without missing values."""
        now, wander = dependence_of(rows)
        return cls(lag1=max(reference.lag1, now), wander=max(reference.wander, wander))

    @property
    def is_strong(self) -> bool:
        """Whether limits for independent values would cry wolf."""
        return self.lag1 > AUTOCORRELATED or self.wander > WANDERING


@dataclass(frozen=True, kw_only=True)
class DriftVerdict:
    """What a window says about drift.

    Attributes:
        is_drifted: Whether a column is over its limit, significantly.
        score: Of the column that matters most; None without enough data.
        threshold: As set.
        effective_threshold: That column's limit after calibration: at least `threshold`.
        p_value: Adjusted, of that column; None without enough data.
        is_calibrated: Whether the limits can be trusted: the data are not autocorrelated, or
            enough windows have shown how far they wander.
        lag1: Largest autocorrelation of a column, of window and reference; None without data.
        reason: The verdict in words.
        columns: By column; None without enough data, and for a joint method.
        n: Rows of the window.
        method: Its label.
        rolling_score: Largest score against the last full windows; None without any.
        is_changing: Whether a column that has drifted also differs from the last full windows;
            None without drift or such windows.
        problem: What the window lacks that the baseline had, in words; empty if nothing.
        is_lost: Whether none of the newest rows holds a number.
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
    method: str = WASSERSTEIN.label
    rolling_score: float | None = None
    is_changing: bool | None = None
    problem: str = ""
    is_lost: bool = False


# Values whose squares overflow give a NaN or no verdict, never a warning to the caller.
@np.errstate(over="ignore", invalid="ignore")
def detect_drift(
    reference: Reference | None,
    rows: NDArray[np.float64],
    past: PastSketches,
    rule: DriftRule,
    *,
    n_since: int = 0,
) -> DriftVerdict:
    """Compare a window with the reference.

    Args:
        reference: What is normal; None while there is none.
        rows: The window, shape (n, columns), oldest first.
        past: The full windows before it.
        rule: How to judge.
        n_since: Predictions since the last of these rows came.
    """
    is_lost = len(rows) >= N_NEWEST and not np.isfinite(rows[-N_NEWEST:]).any()
    nothing = f"None of the newest {N_NEWEST} rows holds a number." if is_lost else ""
    if reference is None:
        problem = nothing
        reason = problem or "No baseline yet: call set_baseline()."
        return _no_verdict(reason, rule, n=len(rows), problem=problem, is_lost=is_lost)
    problem = _stopped(n_since, rule) or _wrong_width(reference, rows)
    cannot = problem or _too_few(len(rows), rule)
    if cannot:
        problem = problem or nothing
        return _no_verdict(cannot, rule, n=len(rows), problem=problem, is_lost=is_lost)
    lost = np.isfinite(reference.std) & ~np.isfinite(rows[-N_NEWEST:]).any(axis=0)
    rows = np.where(lost, np.nan, rows) if lost.any() else rows
    problem = " ".join(problems_of(reference, rows, lost))
    dependence = _dependence(reference, rows)
    method = COLUMN_METHODS.get(rule.method)
    if method is None:
        return _joint(reference, rows, rule, dependence=dependence, problem=problem)
    null = past.null_scores(reference, method)
    limits = _limits(null, rule, n_columns=rows.shape[1], n=len(rows))
    columns = column_drift(
        reference, rows, limits=limits, min_samples=rule.min_samples, method=method
    )
    if not np.isfinite(columns.scores).any():
        reason = (
            problem or f"No column has {rule.min_samples} finite values in window and baseline."
        )
        return _no_verdict(reason, rule, n=len(rows), problem=problem, is_lost=is_lost)
    return _verdict(
        columns, reference, past, rule, method, dependence=dependence, problem=problem,
        has_null=len(null) >= MIN_SCORES, n=len(rows),
    )  # fmt: skip


def _verdict(
    columns: ColumnDrift,
    reference: Reference,
    past: PastSketches,
    rule: DriftRule,
    method: ColumnMethod,
    *,
    dependence: _Dependence,
    problem: str,
    has_null: bool,
    n: int,
) -> DriftVerdict:
    worst = columns.worst
    is_drifted = bool(columns.is_drifted.any())
    is_calibrated = has_null or not dependence.is_strong
    rolling = _rolling(columns, reference, past, rule, method)
    is_changing = None
    if is_drifted and rolling is not None:
        is_changing = bool((rolling > columns.limits)[columns.is_drifted].any())
    return DriftVerdict(
        is_drifted=is_drifted,
        score=float(columns.scores[worst]),
        threshold=rule.threshold,
        effective_threshold=float(columns.limits[worst]),
        p_value=float(columns.adjusted[worst]),
        is_calibrated=is_calibrated,
        lag1=dependence.lag1,
        reason=problem
        if problem and not is_drifted
        else " ".join(
            [
                *([problem] if problem else []),
                _said(columns, worst, method),
                *_said_of_pace(is_changing=is_changing),
                *([] if is_calibrated else [_said_uncalibrated(dependence)]),
            ]
        ),
        columns=columns,
        n=n,
        method=method.label,
        rolling_score=None if rolling is None else float(np.nanmax(rolling)),
        is_changing=is_changing,
        problem=problem,
    )


def _limits(
    null: NDArray[np.float64], rule: DriftRule, *, n_columns: int, n: int
) -> NDArray[np.float64]:
    limits = np.full(n_columns, rule.threshold)
    if len(null) < MIN_SCORES:
        return limits
    # A window that is not full wanders further, as a mean of fewer values does.
    factor = math.sqrt(rule.window_size / min(n, rule.window_size))
    calibrated = column_limits(null, confidence_level=CALIBRATION_LEVEL) * factor
    return np.asarray(np.fmax(limits, calibrated))


def _rolling(
    columns: ColumnDrift,
    reference: Reference,
    past: PastSketches,
    rule: DriftRule,
    method: ColumnMethod,
) -> NDArray[np.float64] | None:
    """Scores against the last full windows; None without any that can be compared."""
    recent = past.recent(reference, n_each=rule.window_size)
    if recent is None:
        return None
    levels = recent.sketch.shape[1]
    now = columns.ordered if reference.categories else midpoint_sketch(columns.ordered, levels)
    scores = scores_between(recent.sketch, now, reference, method)
    return scores if np.isfinite(scores).any() else None


def _joint(
    reference: Reference,
    rows: NDArray[np.float64],
    rule: DriftRule,
    *,
    dependence: _Dependence,
    problem: str,
) -> DriftVerdict:
    score, p_value = joint_drift(
        rule.method,
        reference.sample,
        rows,
        std=reference.std,
        lag1=dependence.lag1,
        rng=np.random.default_rng(rule.seed),
    )
    if not math.isfinite(score):
        reason = problem or "Too few complete rows to look at all columns at once."
        return _no_verdict(reason, rule, n=len(rows), problem=problem)
    is_drifted = score > rule.threshold and p_value < SIGNIFICANCE
    text = (
        f"All columns together moved: {rule.method} {score:.3g}"
        if is_drifted
        else f"{rule.method} {score:.3g}"
    )
    return DriftVerdict(
        is_drifted=is_drifted,
        score=score,
        threshold=rule.threshold,
        effective_threshold=rule.threshold,
        p_value=p_value,
        is_calibrated=not dependence.is_strong,
        lag1=dependence.lag1,
        reason=f"{text} (threshold {rule.threshold:.3g}, p {p_value:.2g}).",
        columns=None,
        n=len(rows),
        method=rule.method,
        problem=problem,
    )


def _dependence(reference: Reference, rows: NDArray[np.float64]) -> _Dependence:
    complete = np.isfinite(rows).all(axis=0)
    chosen = rows if complete.all() else rows[:, complete]
    found = _Dependence.of(reference, chosen)
    if not found.is_strong or len(rows) < 2:  # noqa: PLR2004 - a step needs two rows
        return found
    # A change of level within the window is drift, and no sign that values always wander.
    return _Dependence.of(reference, without_step(chosen))


def _wrong_width(reference: Reference, rows: NDArray[np.float64]) -> str:
    if len(rows) == 0 or rows.shape[1] == reference.width:
        return ""
    return f"The baseline has {reference.width} columns, the window {rows.shape[1]}."


def _stopped(n_since: int, rule: DriftRule) -> str:
    return f"None came with the last {n_since} predictions." if n_since >= rule.window_size else ""


def _too_few(n: int, rule: DriftRule) -> str:
    needed = rule.min_samples
    if rule.window_size < needed:
        return (
            f"window_size is below the {needed} samples a verdict needs: it is {rule.window_size}."
        )
    return f"{n} samples in the window; a verdict needs {needed}." if n < needed else ""


def _no_verdict(
    reason: str, rule: DriftRule, *, n: int, problem: str = "", is_lost: bool = False
) -> DriftVerdict:
    method = COLUMN_METHODS.get(rule.method)
    return DriftVerdict(
        is_drifted=False,
        score=None,
        threshold=rule.threshold,
        effective_threshold=rule.threshold,
        p_value=None,
        is_calibrated=False,
        lag1=None,
        reason=reason,
        columns=None,
        n=n,
        method=rule.method if method is None else method.label,
        problem=problem,
        is_lost=is_lost,
    )


def _said(columns: ColumnDrift, worst: int, method: ColumnMethod) -> str:
    n_drifted, n_columns = int(columns.is_drifted.sum()), len(columns.scores)
    score, limit = float(columns.scores[worst]), float(columns.limits[worst])
    if n_drifted:
        by = f"{score:.3g}{method.unit}" if method.unit else f"{method.name} {score:.3g}"
        text = f"{n_drifted} of {n_columns} columns moved, the furthest over its limit by {by}"
    elif score > limit:
        text = f"Largest score {score:.3g}, over the threshold but not significant"
    else:
        text = f"Largest score {score:.3g} is within the threshold"
    untested = int(np.isnan(columns.scores).sum())
    tail = f" {untested} columns had too few finite values." if untested else ""
    return f"{text} (threshold {limit:.3g}).{tail}"


def _said_of_pace(*, is_changing: bool | None) -> list[str]:
    if is_changing is None:
        return []
    if is_changing:
        return ["It differs from the last full windows as well: it is still moving, or sudden."]
    return ["The last full windows were alike: it moved before them, or little by little."]


def _said_uncalibrated(dependence: _Dependence) -> str:
    return (
        f"Not calibrated: values follow one another (lag-1 {dependence.lag1:.2f}, means vary "
        f"{dependence.wander:.0f} times as much as independent ones) and fewer than "
        f"{MIN_SCORES + 1} full windows have shown how far they wander."
    )
