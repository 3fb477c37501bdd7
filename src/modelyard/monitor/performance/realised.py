"""How good predictions were, once it is known what came of them."""

import math

import numpy as np
from numpy.typing import NDArray

from modelyard.monitor.performance.kinds import PredictionKind
from modelyard.monitor.performance.measured import (
    FEWEST,
    Measured,
    Rows,
    Z,
    effective_number,
    measured_mean,
    measured_share,
    unknown,
    variance_of_mean,
)
from modelyard.stats.intervals import Interval
from modelyard.stats.proportions import wilson_interval

# Chances of 0 and 1 that turn out wrong would have an infinite loss.
_SMALLEST_CHANCE = 1e-12
# What rounding may add to a chance.
_ROUNDING = 1e-6
_LARGEST_CORRELATION = 1.0 - 1e-9


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
        return _of_classes(predictions, truths)
    return _of_numbers(predictions, truths)


def chances_of(predictions: Rows) -> Rows:
    """Chances of every class, shape (n, classes): a single one is that of the second of two."""
    if predictions.shape[1] == 1:
        return np.concatenate([1.0 - predictions, predictions], axis=1)
    return predictions


def are_chances(rows: Rows) -> NDArray[np.bool_]:
    """Which rows hold nothing but numbers from 0 to 1, shape (n,)."""
    return np.asarray(((rows >= -_ROUNDING) & (rows <= 1.0 + _ROUNDING)).all(axis=1))


def are_positions(classes: Rows, n_classes: int) -> NDArray[np.bool_]:
    """Which are whole numbers from 0 on, below the number of classes, shape (n,)."""
    return np.asarray((classes == np.floor(classes)) & (classes >= 0) & (classes < n_classes))


def _of_classes(predictions: Rows, truths: Rows) -> dict[str, Measured]:
    is_known = np.isfinite(predictions).all(axis=1) & np.isfinite(truths).all(axis=1)
    if not is_known.any():
        return {}
    is_right = (predictions == truths).all(axis=1)[is_known]
    return {"accuracy": measured_share(is_right[:, None].astype(np.float64))}


def _of_chances(predictions: Rows, truths: Rows) -> dict[str, Measured]:
    chances = chances_of(predictions)
    classes = truths[:, 0]
    usable = are_chances(chances) & are_positions(classes, chances.shape[1])
    if truths.shape[1] != 1 or not usable.any():
        return {}
    chances, right = np.clip(chances[usable], 0.0, 1.0), classes[usable].astype(np.intp)
    given = chances[np.arange(len(right)), right]
    truth = np.eye(chances.shape[1])[right]
    is_right = (chances.argmax(axis=1) == right).astype(np.float64)
    found = {
        "accuracy": measured_share(is_right[:, None]),
        "log_loss": measured_mean(-np.log(np.clip(given, _SMALLEST_CHANCE, 1.0))),
        "brier": measured_mean(((chances - truth) ** 2).sum(axis=1)),
    }
    if chances.shape[1] == 2:  # noqa: PLR2004 - two classes
        found["roc_auc"] = _roc_auc(chances[:, 1], right == 1)
    return found


# Squares of values that overflow are left out as what is not finite, without a warning.
@np.errstate(over="ignore", invalid="ignore")
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
        "direction": measured_share(is_same),
        "correlation": _correlation(said, came),
    }


def _correlation(a: Rows, b: Rows) -> Measured:
    """Pearson's over all values, shapes (n, outputs); unknown without spread.

    The interval is by Fisher's transform, never narrower than for independent normal pairs:
    where the relation is perfect, the pairs themselves show no spread at all.

    Source:
        Influence function: Devlin, Gnanadesikan and Kettenring (1975), Biometrika 62, 531-545.
    """
    n = a.size
    if len(a) < FEWEST or not (np.ptp(a) > 0.0 and np.ptp(b) > 0.0):
        return unknown(n)
    a, b = _standardised(a), _standardised(b)
    r = float(np.clip((a * b).mean(), -1.0, 1.0))
    influence = (a * b - r / 2.0 * (a * a + b * b)).mean(axis=1)
    inside = min(max(r, -_LARGEST_CORRELATION), _LARGEST_CORRELATION)
    own = math.sqrt(variance_of_mean(influence)) / (1.0 - inside * inside)
    middle, half = math.atanh(inside), Z * max(own, 1.0 / math.sqrt(n - 3))
    return Measured(
        value=r, interval=Interval(math.tanh(middle - half), math.tanh(middle + half)), n=n
    )


def _standardised(values: Rows) -> Rows:
    # In units of the largest value no square overflows.
    scaled = values / np.abs(values).max()
    scaled = scaled - scaled.mean()
    return np.asarray(scaled / scaled.std())


def _roc_auc(chance: Rows, is_one: NDArray[np.bool_]) -> Measured:
    """Area under the ROC curve; unknown with one class or one chance only.

    Its interval is Wilson's for the number of independent values that would tell as much. For
    independent pairs that number is never below the size of the smaller class, which it is
    taken for where the classes are perfectly apart and show no spread.

    Source:
        Influence function: DeLong, DeLong and Clarke-Pearson (1988), Biometrics 44, 837-845;
        largest variance: Birnbaum and Klose (1957), Annals of Math. Statistics 28, 933-945.
    """
    n, n_ones = len(chance), int(is_one.sum())
    if not 0 < n_ones < n or not np.ptp(chance) > 0.0:
        return unknown(n)
    ones, zeros = np.sort(chance[is_one]), np.sort(chance[~is_one])
    # Of each row, the share of the other class that lies on its right side; ties count half.
    placed = np.where(is_one, _share_below(zeros, chance), 1.0 - _share_below(ones, chance))
    area = float(placed[is_one].mean())
    influence = (placed - area) * n / np.where(is_one, n_ones, n - n_ones)
    fewer = min(n_ones, n - n_ones)
    n_effective = effective_number(area, influence, least=1.0, most=n, unseen=fewer)
    return Measured(value=area, interval=wilson_interval(area, n_effective), n=n)


def _share_below(ordered: Rows, values: Rows) -> Rows:
    left = ordered.searchsorted(values, side="left")
    return (left + ordered.searchsorted(values, side="right")) / (2.0 * len(ordered))
