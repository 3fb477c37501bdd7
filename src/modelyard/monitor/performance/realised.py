"""How good predictions were, once it is known what came of them."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelyard.monitor.performance.kinds import PredictionKind
from modelyard.stats.intervals import Interval
from modelyard.stats.sharpe import long_run_covariance

_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
# Chances of 0 and 1 that turn out wrong would have an infinite loss.
_SMALLEST_CHANCE = 1e-12
_FEWEST = 10

Rows = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A mean and how far it can be believed.

    Attributes:
        value: In its unit; NaN without values.
        interval: 95 %, for values that may follow one another; NaN below ten.
        n: Values it is made of.
    """

    value: float
    interval: Interval
    n: int


def measured_mean(values: Rows) -> Measured:
    """The mean of values in time order, shape (n,); what is not finite is left out."""
    known = values[np.isfinite(values)]
    n = len(known)
    mean = float(known.mean()) if n else math.nan
    if n < _FEWEST:
        return Measured(value=mean, interval=Interval(math.nan, math.nan), n=n)
    spread = float(long_run_covariance((known - mean)[:, None])[0, 0])
    half = _Z * math.sqrt(max(spread, 0.0) / n)
    return Measured(value=mean, interval=Interval(mean - half, mean + half), n=n)


def realised(kind: PredictionKind, predictions: Rows, truths: Rows) -> dict[str, Measured]:
    """What predictions were worth, by name.

    Classes: `accuracy`. Chances: `accuracy`, `log_loss`, `brier`, and for two classes `roc_auc`.
    Numbers: `mae`, `mse`, `bias` (prediction less truth), `direction` (share with the truth's
    sign) and `correlation`, of all outputs together.

    Args:
        kind: What the predictions are.
        predictions: shape (n, outputs), in time order.
        truths: shape (n, k): the class or its position among the chances (k = 1), or as many
            numbers as outputs.

    Returns:
        Empty where the two do not go together.
    """
    if len(predictions) == 0:
        return {}
    if kind is PredictionKind.PROBABILITIES:
        return _of_chances(predictions, truths)
    if predictions.shape != truths.shape:
        return {}
    if kind is PredictionKind.CLASS:
        return {"accuracy": measured_mean((predictions == truths).all(axis=1).astype(float))}
    return _of_numbers(predictions, truths)


def chances_of(predictions: Rows) -> Rows:
    """Chances of every class, shape (n, classes): a single one is that of the second of two."""
    if predictions.shape[1] == 1:
        return np.concatenate([1.0 - predictions, predictions], axis=1)
    return predictions


def _of_chances(predictions: Rows, truths: Rows) -> dict[str, Measured]:
    chances = chances_of(predictions)
    classes = truths[:, 0]
    usable = (
        np.isfinite(chances).all(axis=1)
        & (classes == np.floor(classes))
        & (classes >= 0)
        & (classes < chances.shape[1])
    )
    if truths.shape[1] != 1 or not usable.any():
        return {}
    chances, right = chances[usable], classes[usable].astype(np.intp)
    given = chances[np.arange(len(right)), right]
    is_right = np.eye(chances.shape[1])[right]
    found = {
        "accuracy": measured_mean((chances.argmax(axis=1) == right).astype(float)),
        "log_loss": measured_mean(-np.log(np.clip(given, _SMALLEST_CHANCE, 1.0))),
        "brier": measured_mean(((chances - is_right) ** 2).sum(axis=1)),
    }
    if chances.shape[1] == 2:  # noqa: PLR2004 - two classes
        found["roc_auc"] = _roc_auc(chances[:, 1], right == 1)
    return found


def _of_numbers(predictions: Rows, truths: Rows) -> dict[str, Measured]:
    gaps = predictions - truths
    usable = np.isfinite(gaps).all(axis=1)
    if not usable.any():
        return {}
    gaps, said, came = gaps[usable], predictions[usable], truths[usable]
    is_same = np.where(came == 0.0, np.nan, np.sign(said) == np.sign(came))
    return {
        "mae": measured_mean(np.abs(gaps).mean(axis=1)),
        "mse": measured_mean((gaps * gaps).mean(axis=1)),
        "bias": measured_mean(gaps.mean(axis=1)),
        "direction": measured_mean(is_same.ravel()),
        "correlation": _correlation(said.ravel(), came.ravel()),
    }


def _correlation(a: Rows, b: Rows) -> Measured:
    """Pearson's, with Fisher's interval (independent pairs)."""
    n = len(a)
    if n < _FEWEST or not (np.ptp(a) > 0.0 and np.ptp(b) > 0.0):
        return Measured(value=math.nan, interval=Interval(math.nan, math.nan), n=n)
    r = float(np.corrcoef(a, b)[0, 1])
    middle, half = math.atanh(min(max(r, -0.999999), 0.999999)), _Z / math.sqrt(n - 3)
    return Measured(
        value=r, interval=Interval(math.tanh(middle - half), math.tanh(middle + half)), n=n
    )


def _roc_auc(chance: Rows, is_one: NDArray[np.bool_]) -> Measured:
    """Area under the ROC curve, interval by Hanley and McNeil (1982), Radiology 143, 29-36."""
    ones, zeros = chance[is_one], np.sort(chance[~is_one])
    n, m = len(ones), len(zeros)
    if not n or not m:
        return Measured(value=math.nan, interval=Interval(math.nan, math.nan), n=n + m)
    below = zeros.searchsorted(ones, side="left") + zeros.searchsorted(ones, side="right")
    area = float(below.mean() / (2.0 * m))
    one, two = area / (2.0 - area), 2.0 * area * area / (1.0 + area)
    spread = area * (1 - area) + (n - 1) * (one - area**2) + (m - 1) * (two - area**2)
    half = _Z * math.sqrt(max(spread, 0.0) / (n * m))
    return Measured(value=area, interval=Interval(area - half, area + half), n=n + m)
