"""Text among numbers: a category's label and the code that stands for it."""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

# Whole numbers of so many bits are floats without loss.
_CODE_BITS = 52
# One code in a million is smaller; among numbers few whole ones are as large.
_SMALL_FOR_A_CODE = 2.0**32
# So many times as many as of the other kind leave no doubt.
_CLEARLY = 3
# Labels are shown to people; of a column of free text nobody reads all.
_MOST_LABELS = 10_000


def code_of(label: str) -> float:
    """The number that stands for a label among floats; the same one in every process."""
    return float(xxhash.xxh3_64_intdigest(label.encode()) >> (64 - _CODE_BITS))


def number_of(value: Any) -> float:
    """A number of any kind as a float; NaN for what is none."""
    try:
        return float(value)
    except Exception:  # noqa: BLE001 - whatever is handed in must not stop the caller's loop
        return math.nan


# What tables hold in the place of a value, in lower case.
_MISSING = frozenset({"na", "n/a", "#n/a", "none", "null", "nil", "-", "--", "?"})


class Labels:
    """The labels seen so far, and the columns they were in. Not thread-safe: its owner locks.

    Any text that is no number gets a code; whether a column is one of labels, or one of numbers
    into which some text has strayed, is judged by what a whole window of it holds.

    Attributes:
        by_code: Labels by their codes.
        columns: Columns in which there were labels.
        takes_labels: Whether there may be any; without them text that is no number is NaN.
        declared: Gives the columns that hold labels whatever they get.
        usual: Gives the columns that hold labels in the baseline; None where there is none.
    """

    def __init__(self) -> None:
        self.by_code: dict[float, str] = {}
        self.columns: set[int] = set()
        self.takes_labels = True
        self.declared: Callable[[], Collection[int]] = frozenset
        self.usual: Callable[[], Collection[int] | None] = lambda: None
        self._codes = (np.empty(0), np.empty(0))
        self._words: dict[str, float] = {}  # codes of labels that are no numbers

    def coded(self, values: Sequence[Any]) -> NDArray[np.float64]:
        """Numbers as they are and labels as codes, shape as given; NaN for anything else.

        Text that is a number is that number, but in a column that was declared.

        Args:
            values: A list, or a list of lists of one length, of numbers and text.
        """
        rows = np.array(values, dtype=object)
        table = rows.reshape(-1, rows.shape[-1]) if rows.ndim else rows.reshape(1, 1)
        codes = np.empty(table.shape)
        declared = self.declared()
        for place, value in np.ndenumerate(table):
            column = place[-1]
            if not isinstance(value, str):
                codes[place] = number_of(value)
            else:
                codes[place] = self._of_text(value, column, is_label=column in declared)
        return codes.reshape(rows.shape)

    def columns_of(self, rows: NDArray[np.float64]) -> frozenset[int]:
        """The columns of these rows that hold more labels than numbers, or were declared.

        What a column is in the baseline it stays until three of four values say otherwise: where
        half are codes of digits it would be now the one and now the other. What stands for a
        missing value is neither, and changes nothing, as when each signal is "none".

        Args:
            rows: As `coded` gives them, shape (n, columns).
        """
        known = {column for column in tuple(self.columns) if column < rows.shape[1]}
        found = {column for column in known if self._is_of_labels(rows[:, column], column)}
        return frozenset(self.declared()) | found

    def without_strays(
        self, rows: NDArray[np.float64], window: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Rows with NaN for each label outside of the columns of labels; a copy if there is any.

        Args:
            rows: As `coded` gives them, shape (n, columns).
            window: The rows that the columns are judged by; these by default.
        """
        known = [column for column in tuple(self.columns) if column < rows.shape[1]]
        codes = np.concatenate(self._known_codes())
        is_label = {column: self._are_in(rows[:, column], codes) for column in known}
        if not any(found.any() for found in is_label.values()):
            return rows
        columns = self.columns_of(rows if window is None else window)
        is_copy = False
        for column in known:
            if column not in columns and is_label[column].any():
                rows = rows if is_copy else rows.copy()
                rows[is_label[column], column] = math.nan
                is_copy = True
        return rows

    def _is_of_labels(self, values: NDArray[np.float64], column: int) -> bool:
        labels, missing = self._known_codes()
        n_labels, n_missing = self._are_in(values, labels).sum(), np.isin(values, missing).sum()
        n_numbers = np.isfinite(values).sum() - n_labels - n_missing
        usual = self.usual()
        if usual is None:
            return bool(n_labels > n_numbers)
        if column in usual:
            return bool(_CLEARLY * n_labels >= n_numbers and n_labels + n_missing)
        return bool(n_labels > _CLEARLY * n_numbers)

    def _are_in(
        self, values: NDArray[np.float64], codes: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        found = np.isin(values, codes)
        if len(self.by_code) >= _MOST_LABELS:  # there are others, of which nothing is known
            is_whole = np.isfinite(values) & (values == np.floor(values))
            found |= is_whole & (values >= _SMALL_FOR_A_CODE)
        return found

    def _known_codes(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Codes of labels, and of what stands for a missing value."""
        if sum(map(len, self._codes)) != len(self.by_code):
            # A copy at once: another thread may be reading a new one.
            labels = tuple(self.by_code.items())
            is_missing = np.array([label.strip().lower() in _MISSING for _, label in labels], bool)
            codes = np.array([code for code, _ in labels])
            self._codes = (codes[~is_missing], codes[is_missing])
        return self._codes

    def _of_text(self, text: str, column: int, *, is_label: bool) -> float:
        code = self._words.get(text)
        if code is not None:
            self.columns.add(column)
            return code
        if not is_label:
            try:
                return float(text)
            except ValueError:
                pass
        if not text.strip() or not self.takes_labels:
            return math.nan
        return self._code(text, column, is_label=is_label)

    def _code(self, label: str, column: int, *, is_label: bool) -> float:
        code = code_of(label)
        self.columns.add(column)
        if len(self.by_code) < _MOST_LABELS:
            self.by_code.setdefault(code, label)
            if not is_label:
                self._words[label] = code
        return code
