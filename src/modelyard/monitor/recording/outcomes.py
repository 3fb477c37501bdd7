"""Predictions and what came of them, in pairs."""

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard._core.errors import ConfigError
from modelyard.monitor.recording.arrays import as_rows
from modelyard.monitor.recording.labels import Labels

Row = NDArray[np.float64]
Pair = tuple[Row, Row]


class Outcomes:
    """The last pairs. Not thread-safe: the monitor that owns it locks.

    Args:
        size: How many are kept.
    """

    def __init__(self, size: int) -> None:
        self._pairs: deque[Pair] = deque(maxlen=size)
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

    def kept(self, *, newest: int | None = None) -> list[Pair]:
        """The last pairs, oldest first: a copy to be worked on without the lock.

        Args:
            newest: How many at most; all by default.
        """
        n = len(self._pairs)
        return list(islice(self._pairs, 0 if newest is None else max(0, n - newest), None))

    def pairs(self, *, newest: int | None = None) -> tuple[Row, Row]:
        """As `pairs_of(kept(newest=newest))`."""
        return pairs_of(self.kept(newest=newest))


def pairs_of(kept: Sequence[Pair]) -> tuple[Row, Row]:
    """Predictions, shape (n, outputs), and truths, shape (n, k), oldest first.

    Those of another form than the newest are left out.

    Args:
        kept: As `Outcomes.kept` gives them.
    """
    if not kept:
        return np.empty((0, 0)), np.empty((0, 0))
    form = [len(part) for part in kept[-1]]
    alike = [pair for pair in kept if [len(part) for part in pair] == form]
    predictions, truths = zip(*alike, strict=True)
    return np.stack(predictions), np.stack(truths)
