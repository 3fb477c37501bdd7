"""The full windows before the current one, and what they say of how far windows wander."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from modelyard.monitor.drift.methods import ColumnMethod
from modelyard.monitor.drift.references import (
    Reference,
    reference_of_windows,
    scores_between,
)
from modelyard.stats.calibration import MIN_SCORES, successive

# Windows that stand for the recent past.
_N_RECENT = 5


class PastSketches:
    """Sketches of the last full windows of one kind.

    What is worked out from them is kept: it changes only when another window is full.

    Args:
        sketches: Oldest first, each shape (columns, levels).
    """

    def __init__(self, sketches: Sequence[NDArray[np.float64]] = ()) -> None:
        self._sketches = tuple(sketches)
        self._null: dict[str, tuple[Reference, NDArray[np.float64]]] = {}
        self._recent: tuple[Reference, Reference | None] | None = None

    def null_scores(self, reference: Reference, method: ColumnMethod) -> NDArray[np.float64]:
        """Scores of windows between which nothing changed, shape (windows, columns).

        Those the reference was made of, each against all the others; or else those of the past,
        each against the one before it.
        """
        known = reference.null.get(method.name)
        if known is not None and len(known) >= MIN_SCORES:
            return known
        kept = self._null.get(method.name)
        if kept is None or kept[0] is not reference:
            kept = self._null[method.name] = (reference, self._successive(reference, method))
        return kept[1]

    def recent(self, reference: Reference, *, n_each: int) -> Reference | None:
        """The last windows together, in the scales of `reference`; None without any.

        Args:
            reference: What is normal.
            n_each: Rows of each window.
        """
        if self._recent is None or self._recent[0] is not reference:
            newest = self._sketches[-_N_RECENT:]
            self._recent = (reference, reference_of_windows(newest, reference, n_each=n_each))
        return self._recent[1]

    def _successive(self, reference: Reference, method: ColumnMethod) -> NDArray[np.float64]:
        usable = [one for one in self._sketches if len(one) == reference.width and one.size]
        usable = [one for one in usable if one.shape == usable[-1].shape]
        scores = successive(usable, lambda a, b: scores_between(a, b, reference, method))
        return np.array(scores).reshape(-1, reference.width)
