"""Realised, estimated and business figures together, as plain values."""

from collections.abc import Collection, Mapping
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from modelyard._core.plain import finite_or_none
from modelyard.monitor.performance.estimated import Calibration, estimated
from modelyard.monitor.performance.kinds import PredictionKind
from modelyard.monitor.performance.realised import Measured, measured_mean, realised
from modelyard.stats.sharpe import sharpe_ratio

Rows = NDArray[np.float64]


class FigureDict(TypedDict):
    """A figure with its 95 % interval; None where it cannot be known."""

    value: float | None
    lower: float | None
    upper: float | None
    n: int


class PerformanceDict(TypedDict):
    """What `get_performance` gives.

    `realised` needs outcomes, `estimated` chances; both are empty without. `metrics` holds mean
    and interval of every business metric, and `sharpe` for those that are returns. `calibrated`
    says whether estimates were brought in line with outcomes.
    """

    kind: str
    n_outcomes: int
    n_unmatched: int
    realised: dict[str, FigureDict]
    estimated: dict[str, FigureDict]
    calibrated: bool
    metrics: dict[str, dict[str, FigureDict]]


def performance_of(
    kind: PredictionKind,
    predictions: Rows,
    pairs: tuple[Rows, Rows],
    metrics: Mapping[str, Rows],
    *,
    n_unmatched: int,
    return_metrics: Collection[str],
    periods_per_year: float,
) -> PerformanceDict:
    """Everything that can be said about how good predictions are.

    Args:
        kind: What the predictions are.
        predictions: The window, shape (n, outputs).
        pairs: Predictions and truths, as `Outcomes.pairs` gives them.
        metrics: The last values of each business metric.
        n_unmatched: Outcomes that came too late for their prediction.
        return_metrics: Metrics that are returns.
        periods_per_year: For annualising Sharpe ratios.
    """
    is_chance = kind is PredictionKind.PROBABILITIES
    calibration = Calibration.of(*pairs) if is_chance and len(pairs[0]) else None
    guessed = estimated(predictions, calibration) if is_chance and len(predictions) else {}
    return {
        "kind": kind.value,
        "n_outcomes": len(pairs[0]),
        "n_unmatched": n_unmatched,
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


def _of_metric(values: Rows, *, is_return: bool, periods_per_year: float) -> dict[str, FigureDict]:
    found = {"mean": _figure(measured_mean(values))}
    if is_return:
        ratio = sharpe_ratio(values, periods_per_year=periods_per_year)
        interval = ratio.interval()
        found["sharpe"] = _figure(Measured(value=ratio.value, interval=interval, n=ratio.n))
    return found


def _plain(measured: Mapping[str, Measured]) -> dict[str, FigureDict]:
    return {name: _figure(one) for name, one in measured.items()}


def _figure(one: Measured) -> FigureDict:
    numbers: list[Any] = [one.value, one.interval.lower, one.interval.upper]
    value, lower, upper = (finite_or_none(number) for number in numbers)
    return {"value": value, "lower": lower, "upper": upper, "n": one.n}
