"""Realised, estimated and business figures together, as plain values."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np

from modelyard._core.plain import finite_or_none
from modelyard.monitor.performance.calibration import Calibration
from modelyard.monitor.performance.estimated import estimated
from modelyard.monitor.performance.kinds import PredictionKind
from modelyard.monitor.performance.measured import Measured, Rows, measured_mean
from modelyard.monitor.performance.realised import realised
from modelyard.monitor.performance.truths import numbers_of, problem_of
from modelyard.stats.sharpe import sharpe_ratio


class FigureDict(TypedDict):
    """A figure with its 95 % interval; None where it cannot be known."""

    value: float | None
    lower: float | None
    upper: float | None
    n: int


class PerformanceDict(TypedDict):
    """What `get_performance` gives.

    `realised` needs outcomes, `estimated` chances; both are empty without. `reason` says why
    outcomes could not be compared with what was predicted, or some of them; empty when all could.
    `metrics` holds mean and interval of every business metric, and `sharpe` for those that are
    returns. `calibrated` says whether estimates were brought in line with outcomes.
    """

    kind: str
    n_outcomes: int
    n_unmatched: int
    reason: str
    realised: dict[str, FigureDict]
    estimated: dict[str, FigureDict]
    calibrated: bool
    metrics: dict[str, dict[str, FigureDict]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """What came of predictions.

    Attributes:
        predictions: Those whose outcome is known, shape (n, outputs), in time order.
        truths: Their outcomes, shape (n, k); text as its code.
        labels: Outcomes that are text, by code.
        n_unmatched: Outcomes that came too late for their prediction.
    """

    predictions: Rows = field(default_factory=lambda: np.empty((0, 0)))
    truths: Rows = field(default_factory=lambda: np.empty((0, 0)))
    labels: Mapping[float, str] = field(default_factory=dict)
    n_unmatched: int = 0


def performance_of(
    kind: PredictionKind,
    predictions: Rows,
    known: Known,
    metrics: Mapping[str, Rows],
    *,
    output_names: Sequence[str] = (),
    return_metrics: Collection[str],
    periods_per_year: float,
) -> PerformanceDict:
    """Everything that can be said about how good predictions are.

    Args:
        kind: What the predictions are.
        predictions: The window, shape (n, outputs).
        known: What came of earlier ones.
        metrics: The last values of each business metric.
        output_names: What outcomes that are text name, in the order of the chances.
        return_metrics: Metrics that are returns.
        periods_per_year: For annualising Sharpe ratios.
    """
    pairs, reason = _compared(kind, known, output_names)
    is_chance = kind is PredictionKind.PROBABILITIES
    calibration = Calibration.of(*pairs) if is_chance and len(pairs[0]) else None
    guessed = estimated(predictions, calibration) if is_chance and len(predictions) else {}
    return {
        "kind": kind.value,
        "n_outcomes": len(pairs[0]),
        "n_unmatched": known.n_unmatched,
        "reason": reason,
        "realised": _plain(realised(kind, *pairs)),
        "estimated": _plain(guessed),
        "calibrated": calibration is not None,
        "metrics": {
            name: _of_metric(
                values, is_return=name in return_metrics, periods_per_year=periods_per_year
            )
            for name, values in metrics.items()
        },
    }


def _compared(
    kind: PredictionKind, known: Known, output_names: Sequence[str]
) -> tuple[tuple[Rows, Rows], str]:
    """Predictions with what they are compared with, and why that is not possible of all."""
    predictions, truths = known.predictions, known.truths
    if len(truths):
        truths = numbers_of(
            kind, truths, known.labels, output_names, n_outputs=predictions.shape[1]
        )
    lost = set(known.truths[np.isnan(truths)].tolist())
    labels = [label for code, label in known.labels.items() if code in lost]
    return (predictions, truths), problem_of(kind, predictions, truths, labels)


def _of_metric(values: Rows, *, is_return: bool, periods_per_year: float) -> dict[str, FigureDict]:
    found = {"mean": _figure(measured_mean(values))}
    if is_return:
        # It has no unit: in that of the largest value no square overflows.
        size = float(np.abs(values[np.isfinite(values)]).max(initial=0.0)) or 1.0
        ratio = sharpe_ratio(values / size, periods_per_year=periods_per_year)
        interval = ratio.interval()
        found["sharpe"] = _figure(Measured(value=ratio.value, interval=interval, n=ratio.n))
    return found


def _plain(measured: Mapping[str, Measured]) -> dict[str, FigureDict]:
    return {name: _figure(one) for name, one in measured.items()}


def _figure(one: Measured) -> FigureDict:
    numbers: list[Any] = [one.value, one.interval.lower, one.interval.upper]
    value, lower, upper = (finite_or_none(number) for number in numbers)
    return {"value": value, "lower": lower, "upper": upper, "n": one.n}
