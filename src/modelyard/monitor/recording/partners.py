"""Which features came with which prediction."""

import numpy as np
from numpy.typing import NDArray


class Partners:
    """Of each row of features, the number of the prediction it goes with.

    Both are counted up side by side, so that only a change of the distance is kept.

    Args:
        size: How many of the last rows are asked for.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._distance: int | None = None
        # From which row on which distance holds; None where rows have no partner.
        self._changes: list[tuple[int, int | None]] = [(0, None)]

    def add(self, row: int, prediction: int | None) -> None:
        """Note that rows from this one on go with predictions from that one on, or with none."""
        distance = None if prediction is None else prediction - row
        if distance != self._distance:
            self._distance = distance
            self._changes.append((row, distance))
            if len(self._changes) > 2 * self._size:
                self._forget(row)

    def values(self, n_rows: int) -> NDArray[np.intp]:
        """The partner of each of the last rows, -1 for none, oldest first.

        Args:
            n_rows: How many rows there were in all.
        """
        first = max(0, n_rows - self._size)
        found = np.full(n_rows - first, -1, np.intp)
        stop = n_rows
        for start, distance in reversed(self._changes):
            if distance is not None and start < stop:
                rows = np.arange(max(start, first), stop)
                found[rows - first] = rows + distance
            stop = min(stop, start)
            if stop <= first:
                break
        return found

    def _forget(self, row: int) -> None:
        """Leave out what held only for rows that nobody asks for any more."""
        starts = [start for start, _ in self._changes]
        n_gone = sum(start <= row - self._size for start in starts[1:])
        del self._changes[:n_gone]
