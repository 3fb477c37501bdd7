"""The last values of something, in memory that is allocated once.

Nothing here locks: the window that owns a ring does.
"""

import math
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Wider rows (a whole sequence, say) would cost more memory than they tell.
MAX_WIDTH = 4096


class Series:
    """The last `capacity` numbers.

    Args:
        capacity: How many are kept.
    """

    def __init__(self, capacity: int) -> None:
        self._values = np.empty(capacity)
        self._capacity = capacity
        self.n_added = 0

    def add(self, value: float) -> None:
        """Take one number; the oldest goes when there are too many."""
        self._values[self.n_added % self._capacity] = value
        self.n_added += 1

    def values(self) -> NDArray[np.float64]:
        """A copy, oldest first."""
        return _in_order(self._values, self.n_added, self._capacity)


class Rows:
    """The last `capacity` rows of numbers, all of the width of the first.

    Args:
        capacity: How many are kept.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._rows: NDArray[np.float64] | None = None
        self._ones = np.empty(0)
        self.n_added = 0
        self.n_non_finite = 0
        self.n_refused = 0

    @property
    def width(self) -> int:
        """Numbers in a row; 0 before the first."""
        return len(self._ones)

    def add(self, rows: NDArray[Any]) -> None:
        """Take one row, shape (width,), or several, shape (k, ...).

        A row with NaN or infinities is kept and counted; one of another width is counted, and a
        row of NaN takes its place, so that old rows do not stand for the present.
        """
        # (b, 64, 155) is b rows of 9,920 numbers; the common (width,) and (1, width) stay as is.
        if rows.ndim > 2:  # noqa: PLR2004 - more than a table
            rows = rows.reshape(len(rows), -1)
        width = rows.shape[-1]
        if self._rows is None and 0 < width <= MAX_WIDTH:
            self._rows = np.empty((self._capacity, width))
            self._ones = np.ones(width)
        if self._rows is None or width != len(self._ones):
            self._refuse(1 if rows.ndim == 1 else len(rows))
        elif rows.ndim == 1 or len(rows) == 1:
            self._add_one(self._rows, rows)
        else:
            for row in rows[-self._capacity :]:
                self._add_one(self._rows, row)

    def values(self) -> NDArray[np.float64]:
        """A copy, shape (n, width), oldest first."""
        if self._rows is None:
            return np.empty((0, 0))
        return _in_order(self._rows, self.n_added, self._capacity)

    def _refuse(self, n_rows: int) -> None:
        self.n_refused += 1
        if self._rows is not None:
            for _ in range(min(n_rows, self._capacity)):
                self._rows[self.n_added % self._capacity] = math.nan
                self.n_added += 1

    def _add_one(self, kept: NDArray[np.float64], row: NDArray[Any]) -> None:
        place = self.n_added % self._capacity
        kept[place] = row
        self.n_added += 1
        # One product finds NaN and infinities at a third of the cost of isfinite; a sum of large
        # finite numbers that overflows is told apart by looking again.
        with np.errstate(over="ignore", invalid="ignore"):
            total = kept[place].dot(self._ones)
        if not math.isfinite(total) and not np.isfinite(kept[place]).all():
            self.n_non_finite += 1


def as_rows(value: Any) -> NDArray[Any] | None:
    """`value` as an array of one or two dimensions and more, or None if it holds no numbers.

    Args:
        value: A number, a list, an array or a tensor on any device.
    """
    if not isinstance(value, np.ndarray):
        value = _as_array(value)
        if value is None:
            return None
    if value.dtype.kind not in "biuf" or value.size == 0:
        return None
    return np.atleast_1d(value)


def _as_array(value: Any) -> NDArray[Any] | None:
    # A tensor cannot exist before torch was imported, so torch is never imported here.
    torch = sys.modules.get("torch")
    try:
        if isinstance(value, int | float):
            return np.array([float(value)])
        if torch is None or not isinstance(value, torch.Tensor):
            return np.asarray(value)
        plain = value.detach().cpu()
        # NumPy has no bfloat16.
        return np.asarray(plain.float() if plain.dtype == torch.bfloat16 else plain)
    except Exception:  # noqa: BLE001 - whatever is handed in must not stop the caller's loop
        return None


def _in_order(kept: NDArray[np.float64], n_added: int, capacity: int) -> NDArray[np.float64]:
    if n_added <= capacity:
        return kept[:n_added].copy()
    start = n_added % capacity
    return np.concatenate([kept[start:], kept[:start]])
