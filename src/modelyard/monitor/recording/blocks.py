"""Means of short stretches of predictions: where changes are dated, and what wanders how far."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockMeans:
    """Means of consecutive blocks, oldest first.

    Attributes:
        at: When each block ended, Unix time.
        n_records: Predictions recorded by then.
        means: By stream (`latency_ms`, `error_rate`, `prediction`, `feature`), shape
            (blocks, columns); NaN where a block had no finite value.
    """

    at: NDArray[np.float64]
    n_records: NDArray[np.int64]
    means: dict[str, NDArray[np.float64]]

    def __len__(self) -> int:
        """Number of blocks."""
        return len(self.at)


class Blocks:
    """The last blocks. Not thread-safe: the window that owns it locks.

    Args:
        capacity: How many are kept.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._at = np.zeros(capacity)
        self._n_records = np.zeros(capacity, np.int64)
        self._means: dict[str, NDArray[np.float64]] = {}
        self._n_added = 0

    def add(self, at: float, n_records: int, means: Mapping[str, NDArray[np.float64]]) -> None:
        """Take one block.

        Args:
            at: When it ended, Unix time.
            n_records: Predictions recorded by then.
            means: Its means by stream, shape (columns,).
        """
        place = self._n_added % self._capacity
        self._at[place], self._n_records[place] = at, n_records
        for name, kept in self._means.items():
            if name not in means:
                kept[place] = np.nan
        for name, values in means.items():
            self._ring(name, len(values))[place] = values
        self._n_added += 1

    def values(self) -> BlockMeans:
        """A copy, oldest first."""
        n = min(self._n_added, self._capacity)
        order = (np.arange(n) + self._n_added - n) % self._capacity
        return BlockMeans(
            at=self._at[order],
            n_records=self._n_records[order],
            means={name: kept[order] for name, kept in self._means.items()},
        )

    def _ring(self, name: str, width: int) -> NDArray[np.float64]:
        kept = self._means.get(name)
        if kept is None or kept.shape[1] != width:
            kept = self._means[name] = np.full((self._capacity, width), np.nan)
        return kept
