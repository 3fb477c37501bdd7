"""Which features a drift of the predictions comes from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modelyard.monitor.drift.references import Reference

# Of the features' own spread: keeps the slopes of features that move together apart.
_RIDGE = 1e-2
_FEWEST_ROWS_PER_FEATURE = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """The shift of one output, split by features.

    Attributes:
        output: Index of the output.
        shift: Its mean's shift, in the baseline's standard deviations.
        contributions: What each feature's shift adds to it, same unit, shape (features,).
        r_squared: Share of the output's variance in the window that the features explain linearly,
            0 to 1: how far the split can be believed.
    """

    output: int
    shift: float
    contributions: NDArray[np.float64]
    r_squared: float


def explain_shift(
    output: int,
    predictions: NDArray[np.float64],
    features: NDArray[np.float64],
    *,
    prediction_reference: Reference,
    feature_reference: Reference,
) -> Explanation | None:
    """Split an output's shift into what each feature's shift adds: slope times shift.

    The slopes are those of a ridge regression of the output on all features in the window.

    Args:
        output: Index of the output.
        predictions: Of the window, shape (n, outputs).
        features: That came with them, row by row, shape (n, features).
        prediction_reference: What was normal.
        feature_reference: The same for features.

    Returns:
        None where rows and features do not pair, or are too few for as many slopes.

    Source:
        Hoerl and Kennard (1970), Technometrics 12, 55-67.
    """
    if len(predictions) != len(features) or features.shape[1] != feature_reference.width:
        return None
    y, is_usable = predictions[:, output], np.isfinite(feature_reference.std)
    x = features[:, is_usable] / feature_reference.std[is_usable]
    complete = np.isfinite(x).all(axis=1) & np.isfinite(y)
    x, y = x[complete], y[complete] / prediction_reference.std[output]
    if len(y) < max(_FEWEST_ROWS_PER_FEATURE * x.shape[1], 1) or not x.size:
        return None
    slopes, r_squared = _ridge(x, y)
    means = feature_reference.sketch[is_usable].mean(axis=1) / feature_reference.std[is_usable]
    contributions = np.full(features.shape[1], np.nan)
    contributions[is_usable] = slopes * (x.mean(axis=0) - means)
    scale = prediction_reference.std[output]
    shift = float(y.mean() - prediction_reference.sketch[output].mean() / scale)
    return Explanation(
        output=output, shift=shift, contributions=contributions, r_squared=r_squared
    )


def _ridge(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    centred, target = x - x.mean(axis=0), y - y.mean()
    gram = centred.T @ centred
    np.fill_diagonal(gram, gram.diagonal() + _RIDGE * len(y))
    slopes = np.linalg.solve(gram, centred.T @ target)
    total = float(target @ target)
    rest = target - centred @ slopes
    return slopes, max(0.0, 1.0 - float(rest @ rest) / total) if total > 0 else 0.0
