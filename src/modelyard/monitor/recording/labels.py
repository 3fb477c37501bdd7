"""Text among numbers: a category's label and the code that stands for it."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

# Whole numbers of so many bits are floats without loss.
_CODE_BITS = 52
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


# What tables hold in the place of a number, in lower case.
_MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "none", "null", "nil", "-", "--", "?"})


class Labels:
    """The labels seen so far, and the columns they were in. Not thread-safe: its owner locks.

    Attributes:
        by_code: Labels by their codes.
        columns: Columns that hold labels.
        takes_labels: Whether there may be any; without them text that is no number is NaN.
    """

    def __init__(self) -> None:
        self.by_code: dict[float, str] = {}
        self.columns: set[int] = set()
        self.takes_labels = True

    def coded(self, values: Sequence[Any]) -> NDArray[np.float64]:
        """Numbers as they are and labels as codes, shape as given; NaN for anything else.

        Text that is a number is that number, and what stands for a missing value is missing:
        neither makes a category of a column of numbers.

        Args:
            values: A list, or a list of lists of one length, of numbers and text.
        """
        rows = np.array(values, dtype=object)
        table = rows.reshape(-1, rows.shape[-1]) if rows.ndim else rows.reshape(1, 1)
        codes = np.empty(table.shape)
        for place, value in np.ndenumerate(table):
            is_text = isinstance(value, str)
            codes[place] = self._of_text(value, column=place[-1]) if is_text else number_of(value)
        return codes.reshape(rows.shape)

    def _of_text(self, text: str, *, column: int) -> float:
        if text.strip().lower() in _MISSING:
            return math.nan
        # A column of categories keeps to labels: "7" is one beside "A".
        number = math.nan if column in self.columns else number_of(text)
        if math.isfinite(number) or not self.takes_labels:
            return number
        return self._code(text, column=column)

    def _code(self, label: str, *, column: int) -> float:
        code = code_of(label)
        self.columns.add(column)
        if len(self.by_code) < _MOST_LABELS:
            self.by_code.setdefault(code, label)
        return code
