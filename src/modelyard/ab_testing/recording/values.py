"""Every value of a stream, for what cannot be told from sums: quantiles, ranks, Sharpe ratios."""

import numpy as np
from numpy.typing import NDArray

_FIRST_CAPACITY = 64


class Values:
    """Numbers in the order in which they came, 8 bytes each. Not thread-safe: its owner locks.

    What `view` gave stays as it was: values are only ever added, and a full buffer is replaced by
    a larger one.
    """

    def __init__(self) -> None:
        self._buffer = np.empty(_FIRST_CAPACITY)
        self.n = 0

    def add(self, value: float) -> None:
        """Take one number."""
        if self.n == len(self._buffer):
            larger = np.empty(2 * self.n)
            larger[: self.n] = self._buffer
            self._buffer = larger
        self._buffer[self.n] = value
        self.n += 1

    def view(self) -> NDArray[np.float64]:
        """All of them, shape (n,), oldest first; not to be written to."""
        view = self._buffer[: self.n]
        view.flags.writeable = False
        return view
