"""How often what was said with a confidence was right."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from modelyard.monitor.performance.measured import Rows, variance_of_mean
from modelyard.monitor.performance.realised import are_chances, are_positions, chances_of

# Pairs below which chances are taken as they are.
MIN_PAIRS = 200


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """How often what was said with a confidence was right: rising steps.

    Attributes:
        confidence: Every one that came, ascending, shape (k,).
        accuracy: Of predictions with this confidence, never falling, shape (k,).
        places: Of each pair, in time order, the place of its confidence, shape (n,).
        is_right: Of each pair, 1 where it was right, else 0, shape (n,).
    """

    confidence: Rows
    accuracy: Rows
    places: NDArray[np.intp]
    is_right: Rows

    @classmethod
    def of(cls, predictions: Rows, truths: Rows) -> "Calibration | None":
        """That of pairs; None where they are too few or do not go together.

        Args:
            predictions: Chances, shape (n, classes) or (n, 1), in time order.
            truths: Classes, shape (n, 1).

        Source:
            Isotonic regression: Zadrozny and Elkan (2002), KDD 694-699.
        """
        if len(predictions) < MIN_PAIRS or truths.shape[1] != 1:
            return None
        chances = chances_of(predictions)
        usable = are_chances(chances) & are_positions(truths[:, 0], chances.shape[1])
        if usable.sum() < MIN_PAIRS:
            return None
        chances, right = chances[usable], truths[usable, 0]
        is_right = (chances.argmax(axis=1) == right).astype(np.float64)
        # Pairs of one confidence are one point with their weight: taken one by one they would be
        # sorted by nothing, and the regression would find an order in them.
        confidence, places = np.unique(chances.max(axis=1), return_inverse=True)
        counts = np.bincount(places)
        shares = np.bincount(places, is_right) / counts
        steps = optimize.isotonic_regression(shares, weights=counts).x
        return cls(
            confidence=confidence,
            accuracy=np.asarray(steps, np.float64),
            places=places,
            is_right=is_right,
        )

    def accuracy_at(self, confidence: Rows) -> Rows:
        """The accuracy to expect, between the steps by a straight line."""
        return np.interp(confidence, self.confidence, self.accuracy)

    def variance_at(self, confidence: Rows) -> float:
        """Variance of the mean of `accuracy_at` that comes from having so few pairs.

        Never below that of independent pairs, whose share on a step is drawn a little towards a
        half: where all pairs of a step were right, they show no spread at all.
        """
        steps = np.concatenate([[0], (np.diff(self.accuracy) != 0.0).cumsum()])
        weights = np.bincount(steps, self._weights(confidence))
        of_pair = steps[self.places]
        counts = np.bincount(of_pair)
        hits = np.bincount(of_pair, self.is_right)
        influence = (weights / counts)[of_pair] * (self.is_right - (hits / counts)[of_pair])
        own = variance_of_mean(influence * len(influence))
        share = (hits + 0.5) / (counts + 1.0)
        independent = float((weights**2 * share * (1.0 - share) / counts).sum())
        return max(own, independent)

    def clustering(self) -> float:
        """By how much right answers that follow one another widen the variance; at least 1."""
        rest = self.is_right - self.accuracy[self.places]
        rest = rest - rest.mean()
        own = float(rest @ rest) / len(rest)
        return max(1.0, variance_of_mean(rest) * len(rest) / own) if own > 0.0 else 1.0

    def _weights(self, confidence: Rows) -> Rows:
        """The part of each confidence in the mean of `accuracy_at`, shape (k,); their sum is 1."""
        n, last = len(confidence), len(self.confidence) - 1
        place = np.interp(confidence, self.confidence, np.arange(last + 1.0))
        below = place.astype(np.intp)
        above = np.minimum(below + 1, last)
        part = place - below
        return np.asarray(
            np.bincount(below, 1.0 - part, last + 1) + np.bincount(above, part, last + 1)
        ) / float(n)
