"""The dictionaries that `ModelMonitor` gives: plain, JSON-serialisable, NaN as None."""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from modelyard._core.plain import finite_or_none
from modelyard.monitor.alerting.alerts import AlertDict
from modelyard.monitor.drift.detection import DriftVerdict
from modelyard.monitor.drift.explaining import Explanation
from modelyard.monitor.drift.references import Reference
from modelyard.monitor.recording.data import WindowData
from modelyard.monitor.recording.health import Health
from modelyard.stats.quantiles import quantiles

N_TOP_FEATURES = 10
N_CLASSES = 100
_LEVELS = {"p05": 0.05, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p95": 0.95}


class Latency(TypedDict):
    """Latency of the window in milliseconds; None without predictions."""

    mean_ms: float | None
    median_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class PredictionStats(TypedDict):
    """The window's predictions, all outputs together, and each output's mean and spread.

    Of classes, numbers say nothing and are None; `classes` then holds their shares (0 to 1), of
    the 100 most frequent, the largest first; None for numbers and chances.
    """

    n: int
    mean: float | None
    std: float | None
    quantiles: dict[str, float | None]
    per_output: dict[str, list[float | None]]
    classes: dict[str, float] | None


class ColumnDict(TypedDict):
    """One output or feature; None where it could not be tested.

    `drift_score` may not exceed `threshold`, both in the method's unit.
    """

    name: str
    index: int
    drift_score: float | None
    threshold: float
    p_value: float | None
    adjusted_p_value: float | None
    is_drifted: bool


class DistributionDict(TypedDict):
    """The quantiles of one column at 0, 1, ... 100 %; empty where nothing is known."""

    name: str
    index: int
    reference: list[float]
    window: list[float]


class ContributionDict(TypedDict):
    """What the shift of one feature adds to that of an output.

    `contribution` is in standard deviations of the output, `share` a part of the output's shift.
    """

    name: str
    index: int
    contribution: float
    share: float | None


class ExplanationDict(TypedDict):
    """Which features the drift of an output comes from, the largest contribution first.

    `shift` is the output's, in its standard deviations; `r_squared` how much of the output the
    features explain linearly in the window, 0 to 1: how far the split can be believed.
    """

    output: int
    shift: float
    r_squared: float
    features: list[ContributionDict]


class DriftDict(TypedDict):
    """What `detect_prediction_drift` and `detect_feature_drift` give.

    `drift_score` is that of the column furthest over its limit, in the method's unit (by default
    standard deviations of the baseline), and None without enough data; `effective_threshold` is
    that column's limit. `rolling_score` is the largest score against the last full windows;
    `is_changing` whether what has drifted differs from them too. `explained_by` is there where
    predictions have drifted, and None where it cannot be known.
    """

    is_drifted: bool
    drift_score: float | None
    threshold: float
    effective_threshold: float
    method: str
    p_value: float | None
    calibrated: bool
    autocorrelation: float | None
    n_samples: int
    reason: str
    rolling_score: float | None
    is_changing: bool | None
    explained_by: NotRequired[ExplanationDict | None]
    per_output: NotRequired[list[ColumnDict]]
    per_feature: NotRequired[list[ColumnDict]]
    top_features: NotRequired[list[ColumnDict]]


class Summary(TypedDict):
    """What `get_summary` gives.

    `at` is when the verdicts were worked out, `last_prediction_at` when the newest prediction
    came, both ISO 8601, and `last_prediction_age_s` how long ago that was; None before the first.
    `window_size` is the window's capacity, `n_window` how many predictions are in it,
    `baseline` one of `none`, `collecting`, `set`. `throughput_qps` is of the window up to now: of
    a stream that has stopped it falls.
    """

    model_name: str
    at: str
    last_prediction_at: str | None
    last_prediction_age_s: float | None
    total_predictions: int
    window_size: int
    n_window: int
    latency: Latency
    throughput_qps: float | None
    error_rate: float | None
    prediction: PredictionStats
    metrics: dict[str, dict[str, float | int | None]]
    drift: dict[str, DriftDict]
    active_alerts: list[AlertDict]
    baseline: str
    odd_values: dict[str, int]
    versions: dict[str, int]


def latency_of(health: Health) -> Latency:
    """The window's latency."""
    return {
        "mean_ms": finite_or_none(health.latency_mean_ms),
        "median_ms": finite_or_none(health.latency_median_ms),
        "p95_ms": finite_or_none(health.latency_p95_ms),
        "p99_ms": finite_or_none(health.latency_p99_ms),
    }


def throughput_of(data: WindowData, *, now_s: float) -> float | None:
    """Predictions a second over the window; None below two or while no time has passed.

    Args:
        data: The window.
        now_s: By the monotonic clock: a stream that has stopped grows slower.
    """
    n_gaps = data.health.n_predictions - 1
    if data.duration_s <= 0.0 or n_gaps < 1 or data.last_s is None:
        return None
    idle_s = now_s - data.last_s - data.duration_s / n_gaps
    return n_gaps / (data.duration_s + max(idle_s, 0.0))


def ago(age_s: float) -> str:
    """How long ago something was, for people."""
    for unit, length_s, until_s in (("s", 1, 100), ("min", 60, 6_000), ("h", 3_600, 172_800)):
        if age_s < until_s:
            return f"{age_s // length_s:.0f} {unit} ago"
    return f"{age_s // 86_400:.0f} days ago"


# Values whose squares overflow give a NaN or no verdict, never a warning to the caller.
@np.errstate(over="ignore", invalid="ignore")
def prediction_stats(rows: NDArray[np.float64]) -> PredictionStats:
    """The window's predictions, shape (n, outputs); what is not finite is left out."""
    known = rows[np.isfinite(rows)]
    return {
        "n": len(rows),
        "mean": finite_or_none(known.mean()) if known.size else None,
        "std": finite_or_none(known.std()) if known.size else None,
        "quantiles": quantiles_of(known),
        "per_output": {
            "mean": [_mean(column) for column in rows.T],
            "std": [_std(column) for column in rows.T],
        },
        "classes": None,
    }


def class_shares(rows: NDArray[np.float64]) -> dict[float, float]:
    """Share of each of the most frequent classes among predictions, the largest first.

    Args:
        rows: Classes, text as its code, shape (n, outputs); what is not finite is left out.
    """
    classes, counts = np.unique(rows[np.isfinite(rows)], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:N_CLASSES]
    shares = counts[order] / max(counts.sum(), 1)
    return dict(zip(classes[order].tolist(), shares.tolist(), strict=True))


def class_stats(
    shares: Mapping[float, float], labels: Mapping[float, str], *, n: int, n_outputs: int
) -> PredictionStats:
    """The window's predictions where they are classes.

    Args:
        shares: By class, as `class_shares` gives them.
        labels: Of classes that are text, by code.
        n: Predictions.
        n_outputs: Of a prediction.
    """
    return {
        "n": n,
        "mean": None,
        "std": None,
        "quantiles": quantiles_of(np.empty(0)),
        "per_output": {"mean": [None] * n_outputs, "std": [None] * n_outputs},
        "classes": {labels.get(one, f"{one:.16g}"): share for one, share in shares.items()},
    }


def quantiles_of(values: NDArray[np.float64]) -> dict[str, float | None]:
    """`p05` to `p95` of the finite values; None without any."""
    known = values[np.isfinite(values)]
    found = quantiles(known, list(_LEVELS.values())) if known.size else [None] * len(_LEVELS)
    return dict(zip(_LEVELS, found, strict=True))


def drift_dict(verdict: DriftVerdict) -> DriftDict:
    """A verdict without its columns."""
    return {
        "is_drifted": verdict.is_drifted,
        "drift_score": verdict.score,
        "threshold": verdict.threshold,
        "effective_threshold": verdict.effective_threshold,
        "method": verdict.method,
        "p_value": verdict.p_value,
        "calibrated": verdict.is_calibrated,
        "autocorrelation": verdict.lag1,
        "n_samples": verdict.n,
        "reason": verdict.reason,
        "rolling_score": finite_or_none(verdict.rolling_score),
        "is_changing": verdict.is_changing,
    }


def prediction_drift_dict(verdict: DriftVerdict, names: Sequence[str] | None) -> DriftDict:
    """A verdict with its outputs."""
    result = drift_dict(verdict)
    result["per_output"] = _columns(verdict, names, prefix="output")
    return result


def feature_drift_dict(verdict: DriftVerdict, names: Sequence[str] | None) -> DriftDict:
    """A verdict with its features, and the ten that moved most."""
    result = drift_dict(verdict)
    columns = _columns(verdict, names, prefix="feature")
    tested = [column for column in columns if column["drift_score"] is not None]
    ranked = sorted(tested, key=_excess, reverse=True)
    result["per_feature"] = columns
    result["top_features"] = ranked[:N_TOP_FEATURES]
    return result


def distributions_of(
    reference: Reference | None,
    rows: NDArray[np.float64],
    indexes: Sequence[int],
    names: Sequence[str],
    *,
    kind: str,
) -> list[DistributionDict]:
    """Quantiles of columns in the baseline and in the window.

    Args:
        reference: Of the baseline, if there is one.
        rows: The window, shape (n, columns).
        indexes: Which columns; those that are in neither are left out.
        names: As far as known; others are named as the verdicts on drift name them.
        kind: `prediction` or `feature`.
    """
    prefix = "output" if kind == "prediction" else kind
    width = max(reference.width if reference else 0, rows.shape[1])
    found: list[DistributionDict] = []
    for i in indexes:
        if not 0 <= i < width:
            continue
        then = reference.sketch[i] if reference and i < reference.width else np.empty(0)
        now = rows[:, i] if i < rows.shape[1] else np.empty(0)
        found.append(
            {
                "name": names[i] if i < len(names) else f"{prefix}_{i}",
                "index": int(i),
                "reference": _hundredths(then),
                "window": _hundredths(now),
            }
        )
    return found


def _hundredths(values: NDArray[np.float64]) -> list[float]:
    known = values[np.isfinite(values)]
    return quantiles(known, [i / 100 for i in range(101)]) if known.size else []


def explained_by(found: Explanation | None, names: Sequence[str]) -> ExplanationDict | None:
    """An explanation with the ten features that add most; None without one."""
    if found is None:
        return None
    order = np.argsort(-np.abs(np.nan_to_num(found.contributions)))[:N_TOP_FEATURES]
    return {
        "output": found.output,
        "shift": found.shift,
        "r_squared": found.r_squared,
        "features": [
            {
                "name": names[i] if i < len(names) else f"feature_{i}",
                "index": int(i),
                "contribution": float(found.contributions[i]),
                "share": float(found.contributions[i] / found.shift) if found.shift else None,
            }
            for i in order
            if np.isfinite(found.contributions[i])
        ],
    }


def _excess(column: ColumnDict) -> tuple[bool, float]:
    """What ranks columns: drifted ones first, then by how far each is over its own limit."""
    score, threshold = column["drift_score"] or 0.0, column["threshold"]
    return column["is_drifted"], score / threshold if threshold > 0.0 else score


def _columns(
    verdict: DriftVerdict, names: Sequence[str] | None, *, prefix: str
) -> list[ColumnDict]:
    if verdict.columns is None:
        return []
    found = verdict.columns
    rows = zip(
        found.scores.tolist(),
        found.limits.tolist(),
        found.p_values.tolist(),
        found.adjusted.tolist(),
        found.is_drifted.tolist(),
        strict=True,
    )
    has_names = bool(names) and names is not None and len(names) == len(found.scores)
    return [
        {
            "name": names[index] if names is not None and has_names else f"{prefix}_{index}",
            "index": index,
            "drift_score": finite_or_none(score),
            "threshold": limit,
            "p_value": finite_or_none(p_value),
            "adjusted_p_value": finite_or_none(adjusted),
            "is_drifted": is_drifted,
        }
        for index, (score, limit, p_value, adjusted, is_drifted) in enumerate(rows)
    ]


def _mean(column: NDArray[Any]) -> float | None:
    known = column[np.isfinite(column)]
    return finite_or_none(known.mean()) if known.size else None


def _std(column: NDArray[Any]) -> float | None:
    known = column[np.isfinite(column)]
    return finite_or_none(known.std()) if known.size else None
