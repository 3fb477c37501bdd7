"""The last values of something, in memory that is allocated once.

Nothing here locks: the window that owns a ring does.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard.monitor.recording.labels import Labels

# Wider rows (a whole sequence, say) would cost more memory than they tell.
MAX_WIDTH = 4096
# Rows up to this width are kept longer than a window, to be joined with late outcomes.
NARROW_WIDTH = 64
# Rows between two looks for NaN: one look at many costs a tenth of many looks.
_CHECK_EVERY = 100
# After more rows of another width in a row than these, that is the width.
_MOST_OTHERS = 50


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

    def extend(self, values: NDArray[np.float64]) -> None:
        """Take several numbers, shape (k,), oldest first."""
        _put(self._values, self.n_added, values)
        self.n_added += len(values)

    def values(self, *, newest: int | None = None) -> NDArray[np.float64]:
        """A copy, oldest first; of the `newest` only, if given."""
        return _newest(self._values, self.n_added, newest)


class Events:
    """The last `capacity` predictions as events: how long each took, whether it failed, when.

    Args:
        capacity: How many are kept.
    """

    def __init__(self, capacity: int) -> None:
        self._latencies_s, self._errors = np.empty(capacity), np.empty(capacity)
        self._times_s = np.empty(capacity)
        self._capacity = capacity
        self._known_from = 0  # what came before this one went by elsewhere
        self.n_added = 0

    def add(self, latency_s: float, *, error: bool, time_s: float) -> int:
        """Take one; the oldest goes when there are too many.

        Returns:
            How many there were, with this one.
        """
        n_before = self.n_added
        place = n_before % self._capacity
        self._latencies_s[place] = latency_s
        self._errors[place] = error
        self._times_s[place] = time_s
        self.n_added = n_before + 1
        return n_before + 1

    def extend(
        self,
        latencies_s: NDArray[np.float64],
        errors: NDArray[np.float64],
        times_s: NDArray[np.float64],
        *,
        n_gone: int = 0,
    ) -> None:
        """Take several, each array of shape (k,), oldest first.

        Args:
            latencies_s: Seconds; NaN where unknown.
            errors: 1 where one failed, else 0.
            times_s: When.
            n_gone: How many more there were before them, of which nothing is known.
        """
        if n_gone:
            self.n_added += n_gone
            self._known_from = self.n_added
        _put(self._latencies_s, self.n_added, latencies_s)
        _put(self._errors, self.n_added, errors)
        _put(self._times_s, self.n_added, times_s)
        self.n_added += len(errors)

    def latencies_s(self, *, newest: int | None = None) -> NDArray[np.float64]:
        """A copy, oldest first; of the `newest` only, if given."""
        return self._known(self._latencies_s, newest)

    def errors(self, *, newest: int | None = None) -> NDArray[np.float64]:
        """A copy, oldest first; of the `newest` only, if given."""
        return self._known(self._errors, newest)

    def times_s(self, *, newest: int | None = None) -> NDArray[np.float64]:
        """A copy, oldest first; of the `newest` only, if given."""
        return self._known(self._times_s, newest)

    @property
    def n_known(self) -> int:
        """How many were added since the last of which nothing is known."""
        return self.n_added - self._known_from

    def _known(self, ring: NDArray[np.float64], newest: int | None) -> NDArray[np.float64]:
        n = self.n_known if newest is None else min(newest, self.n_known)
        return _newest(ring, self.n_added, n)


class Rows:
    """The last rows of numbers, all of the width of the first.

    Args:
        size: How many there are in a window.
        kept: How many are kept if they are narrow (64 numbers at most); `size` otherwise.
        labels: Of the text in them. Rows hold its codes; in a column of numbers they are NaN to
            whoever asks for `numbers` or `means`, and counted as such.
    """

    def __init__(
        self, size: int, *, kept: int | None = None, labels: Labels | None = None
    ) -> None:
        self._size = size
        self._labels = labels or Labels()
        self._kept = max(size, kept or size)
        self._rows: NDArray[np.float64] | None = None
        self._n_checked = 0
        self._n_non_finite = 0
        self.width = 0
        self.n_added = 0
        self.n_refused = 0
        self._other_width = self._n_other = self._other_end = 0
        # Before the rows that were not looked at yet are overwritten.
        self._check_every = min(_CHECK_EVERY, size)
        # Of the finite values of each column since `take_means`.
        self._sums, self._counts = np.zeros(0), np.zeros(0, np.int64)
        self._means_from = 0

    @property
    def n_non_finite(self) -> int:
        """Rows so far that held NaN or infinities."""
        self._look_over()
        return self._n_non_finite

    def add(self, rows: NDArray[Any]) -> None:
        """Take one row, shape (width,), or several, shape (k, ...).

        A row with NaN or infinities is kept and counted; one of another width is counted, and a
        row of NaN takes its place, so that old rows do not stand for the present.
        """
        kept = self._rows
        if kept is not None and rows.ndim == 1 and len(rows) == self.width:
            kept[self.n_added % len(kept)] = rows
            self.n_added += 1
            if self.n_added - self._n_checked >= self._check_every:
                self._look_over()
        else:
            self._add_table(rows)

    @property
    def first(self) -> int:
        """The number of the oldest row in the window."""
        return self.n_added - min(self.n_added, self._size)

    def add_missing(self) -> bool:
        """Let a row of NaN stand for one that could not be read, once the width is known.

        Old rows must not stand for the present. It is not counted here.

        Returns:
            Whether it does.
        """
        if self._rows is None:
            return False
        self._look_over()
        self._rows[self.n_added % len(self._rows)] = math.nan
        self.n_added += 1
        self._n_checked = self.n_added
        return True

    def values(self, *, newest: int | None = None) -> NDArray[np.float64]:
        """A copy of the window, shape (n, width), oldest first; of the `newest` only, if given."""
        if self._rows is None:
            return np.empty((0, 0))
        return _newest(self._rows, self.n_added, min(newest or self._size, self._size))

    def numbers(self) -> NDArray[np.float64]:
        """As `values`, with NaN for text that has strayed into a column of numbers."""
        return self._without_strays(self.values())

    def look(self, *, newest: int) -> NDArray[np.float64]:
        """The newest rows, shape (n, width), oldest first, without a copy where that is possible.

        Only until the next `add`, and not to be written to.
        """
        if self._rows is None:
            return np.empty((0, 0))
        n = min(newest, self.n_added, self._size)
        start = (self.n_added - n) % len(self._rows)
        if start + n <= len(self._rows):
            return self._rows[start : start + n]
        return _newest(self._rows, self.n_added, n)

    def at(self, position: int) -> NDArray[np.float64] | None:
        """A copy of the row that was added as the `position`-th; None if it is gone."""
        if self._rows is None or not 0 <= self.n_added - position - 1 < len(self._rows):
            return None
        row = np.array(self._rows[position % len(self._rows)])
        return self._without_strays(row.reshape(1, -1)).reshape(-1)

    def take_means(self) -> NDArray[np.float64] | None:
        """Means of the rows since the last call, shape (width,); None if there were none.

        Of finite values only; NaN where a column had none.
        """
        self._look_over()
        if self.n_added == self._means_from:
            return None
        means = finite_ratio(self._sums, self._counts)
        self._means_from = self.n_added
        self._sums[:], self._counts[:] = 0.0, 0
        return means

    def _add_table(self, rows: NDArray[Any]) -> None:
        # (b, 64, 155) is b rows of 9,920 numbers.
        table = np.atleast_2d(rows) if rows.ndim <= 2 else rows.reshape(len(rows), -1)  # noqa: PLR2004 - more than a table
        width = table.shape[-1]
        if width != self.width and (not self.width or self._is_new_width(width, len(table))):
            self._take_width(width)
        if self._rows is None or width != self.width:
            self.n_refused += 1
            if self._rows is None:
                return
            table = np.full((min(len(table), self._size), self.width), math.nan)
            self._look_over()
            self._n_checked += len(table)  # these are counted as refused
        self._look_over()  # a part may overwrite what was not looked at
        for start in range(0, len(table), self._check_every):
            part = table[start : start + self._check_every]
            _put(self._rows, self.n_added, part)
            self.n_added += len(part)
            if len(part) == self._check_every:  # of the first row alone nothing is known yet
                self._look_over()

    def _take_width(self, width: int) -> None:
        if 0 < width <= MAX_WIDTH:
            n_rows = self._kept if width <= NARROW_WIDTH else self._size
            self._rows = np.full((n_rows, width), math.nan)
            self.width = width
            self._sums, self._counts = np.zeros(width), np.zeros(width, np.int64)

    def _is_new_width(self, width: int, n_rows: int) -> bool:
        """Whether so many rows of another width came in a row that the first was the odd one."""
        if width != self._other_width or self._other_end != self.n_added:
            self._n_other = 0
        self._other_width = width
        self._n_other += n_rows
        self._other_end = self.n_added + min(n_rows, self._size)
        return self._n_other > _MOST_OTHERS

    def _without_strays(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        if not self._labels.columns:
            return rows
        return self._labels.without_strays(rows, self.look(newest=self._size))

    def _look_over(self) -> None:
        """Count the new rows that hold NaN or infinities, and add up what is finite."""
        n_new = self.n_added - self._n_checked
        if n_new > 0 and self._rows is not None:
            newest = self._without_strays(self.look(newest=n_new))
            with np.errstate(over="ignore", invalid="ignore"):
                sums = np.add.reduce(newest, axis=0)
                counts: Any = len(newest)
                # A sum finds out at a third of the cost; one that overflows is looked at again.
                if not math.isfinite(np.add.reduce(sums)):
                    known = np.isfinite(newest)
                    self._n_non_finite += int((~known).any(axis=1).sum())
                    sums, counts = np.where(known, newest, 0.0).sum(axis=0), known.sum(axis=0)
                self._sums += sums
                self._counts += counts
        self._n_checked = max(self._n_checked, self.n_added)


def finite_means(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of the finite values of each column; NaN where there are none."""
    known = np.isfinite(table)
    return finite_ratio(np.where(known, table, 0.0).sum(axis=0), known.sum(axis=0))


def finite_ratio(sums: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sums over counts; NaN where nothing was counted."""
    with np.errstate(invalid="ignore"):
        return np.asarray(
            np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
        )


def _put(ring: NDArray[np.float64], n_added: int, values: NDArray[Any]) -> None:
    """Write values at the end of a ring to which `n_added` were added before."""
    n_skipped = max(0, len(values) - len(ring))
    values = values[n_skipped:]
    start = (n_added + n_skipped) % len(ring)
    n_first = min(len(values), len(ring) - start)
    ring[start : start + n_first] = values[:n_first]
    ring[: len(values) - n_first] = values[n_first:]


def _newest(ring: NDArray[np.float64], n_added: int, n: int | None) -> NDArray[np.float64]:
    """A copy of the newest `n` values of a ring, oldest first."""
    n = min(n_added, len(ring), len(ring) if n is None else n)
    start = (n_added - n) % len(ring)
    if start + n <= len(ring):
        return ring[start : start + n].copy()
    return np.concatenate([ring[start:], ring[: start + n - len(ring)]])
