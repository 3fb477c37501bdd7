"""How good predictions probably are, before it is known what comes of them.

A model that gives chances says itself how often it will be right. Where outcomes are known the
chances are first brought in line with how often it was: after a change of the inputs this holds as
long as what a chance means has not changed, which no estimate without outcomes can see.

Source: Guillory et al. (2021), ICCV 1134-1144 (difference of confidences); confidence-based
estimation with calibration as described by Białek et al. (2024), arXiv:2407.08649.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from modelyard.monitor.performance.realised import Measured, chances_of, measured_mean
from modelyard.stats.intervals import Interval

# Pairs below which chances are taken as they are.
MIN_PAIRS = 200

Rows = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """How often what was said with a confidence was right: rising steps.

    Attributes:
        confidence: Ascending, shape (k,).
        accuracy: Of predictions with this confidence, ascending, shape (k,).
    """

    confidence: Rows
    accuracy: Rows

    @classmethod
    def of(cls, predictions: Rows, truths: Rows) -> "Calibration | None":
        """That of pairs; None where they are too few or do not go together.

        Args:
            predictions: Chances, shape (n, classes) or (n, 1).
            truths: Classes, shape (n, 1).

        Source:
            Isotonic regression: Zadrozny and Elkan (2002), KDD 694-699.
        """
        if len(predictions) < MIN_PAIRS or truths.shape[1] != 1:
            return None
        chances = chances_of(predictions)
        usable = np.isfinite(chances).all(axis=1) & np.isfinite(truths[:, 0])
        if usable.sum() < MIN_PAIRS:
            return None
        chances, right = chances[usable], truths[usable, 0]
        confidence = chances.max(axis=1)
        order = np.argsort(confidence, kind="stable")
        is_right = (chances.argmax(axis=1) == right).astype(np.float64)[order]
        steps = optimize.isotonic_regression(is_right).x
        return cls(confidence=confidence[order], accuracy=np.asarray(steps, np.float64))

    def accuracy_at(self, confidence: Rows) -> Rows:
        """The accuracy to expect, between the steps by a straight line."""
        return np.interp(confidence, self.confidence, self.accuracy)


def estimated(predictions: Rows, calibration: Calibration | None) -> dict[str, Measured]:
    """Accuracy to expect of predictions whose outcome is not known.

    Args:
        predictions: Chances, shape (n, classes), or of the second of two classes, shape (n, 1).
        calibration: From earlier outcomes, if there were enough.

    Returns:
        `accuracy`; its interval holds for the number of right answers among these predictions.
        Empty without a usable row.
    """
    chances = chances_of(predictions)
    usable = np.isfinite(chances).all(axis=1) & (chances >= 0.0).all(axis=1)
    if not usable.any():
        return {}
    confidence = chances[usable].max(axis=1)
    expected = confidence if calibration is None else calibration.accuracy_at(confidence)
    mean = measured_mean(expected)
    # Each answer is right or wrong by chance, beside how the chances themselves vary.
    own = float((expected * (1.0 - expected)).sum()) / len(expected) ** 2
    half = 1.959963984540054 * math.sqrt(own)
    return {
        "accuracy": Measured(
            value=mean.value, interval=Interval(mean.value - half, mean.value + half), n=mean.n
        )
    }
