"""How good predictions probably are, before it is known what comes of them.

A model that gives chances says itself how often it will be right. Where outcomes are known the
chances are first brought in line with how often it was: after a change of the inputs this holds as
long as what a chance means has not changed, which no estimate without outcomes can see.

Source: Guillory et al. (2021), ICCV 1134-1144 (difference of confidences); confidence-based
estimation with calibration as described by Białek et al. (2024), arXiv:2407.08649.
"""

import math

from modelyard.monitor.performance.calibration import Calibration
from modelyard.monitor.performance.measured import Measured, Rows, Z
from modelyard.monitor.performance.realised import are_chances, chances_of
from modelyard.stats.intervals import Interval


def estimated(predictions: Rows, calibration: Calibration | None) -> dict[str, Measured]:
    """Accuracy to expect of predictions whose outcome is not known.

    Args:
        predictions: Chances, shape (n, classes), or of the second of two classes, shape (n, 1).
        calibration: From earlier outcomes, if there were enough.

    Returns:
        `accuracy`; its interval holds for the share of right answers among these predictions,
        and allows for how few outcomes the calibration comes from. Empty without a usable row.
    """
    chances = chances_of(predictions)
    usable = are_chances(chances)
    if not usable.any():
        return {}
    confidence = chances[usable].max(axis=1).clip(0.0, 1.0)
    expected = confidence if calibration is None else calibration.accuracy_at(confidence)
    n, mean = len(expected), float(expected.mean())
    # Each answer is right or wrong by chance, beside how the chances themselves vary.
    variance = float((expected * (1.0 - expected)).sum()) / n**2
    if calibration is not None:
        variance = variance * calibration.clustering() + calibration.variance_at(confidence)
    half = Z * math.sqrt(variance)
    interval = Interval(max(mean - half, 0.0), min(mean + half, 1.0))
    return {"accuracy": Measured(value=mean, interval=interval, n=n)}
