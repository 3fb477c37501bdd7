"""Predictions and what came of them, in pairs."""

from collections import deque
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard._core.errors import ConfigError
from modelyard.monitor.recording.labels import Labels
from modelyard.monitor.recording.rings import as_rows

Row = NDArray[np.float64]


class Outcomes:
    """The last pairs. Not thread-safe: the monitor that owns it locks.

    Args:
        size: How many are kept.
    """

    def __init__(self, size: int) -> None:
        self._pairs: deque[tuple[Row, Row]] = deque(maxlen=size)
        self.labels = Labels()
        self.n_added = 0
        self.n_unmatched = 0

    def truth_of(self, value: Any) -> Row:
        """An outcome as numbers, shape (outputs,); a label as its code.

        Raises:
            ConfigError: It is neither a number, nor a list of them, nor a label.
        """
        rows = as_rows(value, self.labels)
        if rows is None:
            raise ConfigError(
                "An outcome is a number, a list of numbers or a label, or metrics by name such "
                f"as {{'return': 0.01}}; got {type(value).__qualname__} {value!r}."
            )
        return np.array(rows, np.float64).reshape(-1)

    def add(self, prediction: Row | None, truth: Row) -> None:
        """Take a pair; a prediction that is no longer known is only counted."""
        if prediction is None:
            self.n_unmatched += 1
        else:
            self._pairs.append((prediction, truth))
            self.n_added += 1

    def pairs(self, *, newest: int | None = None) -> tuple[Row, Row]:
        """Predictions, shape (n, outputs), and truths, shape (n, k), oldest first.

        Those of another form than the newest are left out.

        Args:
            newest: How many of the last to look at; all by default.
        """
        n = len(self._pairs) if newest is None else min(newest, len(self._pairs))
        if not n:
            return np.empty((0, 0)), np.empty((0, 0))
        kept = list(islice(self._pairs, len(self._pairs) - n, None))
        forms = [(len(prediction), len(truth)) for prediction, truth in kept]
        alike = [pair for pair, form in zip(kept, forms, strict=True) if form == forms[-1]]
        predictions, truths = zip(*alike, strict=True)
        return np.stack(predictions), np.stack(truths)
