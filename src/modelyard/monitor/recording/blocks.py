"""Means of short stretches of predictions: where changes are dated, and what wanders how far."""

import math
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

    def add(self, at: float, n_records: int, rows: dict[str, NDArray[np.float64]]) -> None:
        """Take one block.

        Args:
            at: When it ended, Unix time.
            n_records: Predictions recorded by then.
            rows: Its values by stream, shape (n, columns) or (n,).
        """
        place = self._n_added % self._capacity
        self._at[place], self._n_records[place] = at, n_records
        for kept in self._means.values():
            kept[place] = np.nan
        with np.errstate(over="ignore", invalid="ignore"):
            for name, values in rows.items():
                if values.size:
                    means = _finite_means(values.reshape(len(values), -1))
                    self._ring(name, len(means))[place] = means
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


def _finite_means(table: NDArray[np.float64]) -> NDArray[np.float64]:
    means = np.add.reduce(table, axis=0) / len(table)
    # A sum of finite numbers seldom overflows; where it does, they are looked at one by one.
    if math.isfinite(np.add.reduce(means)):
        return np.asarray(means)
    known = np.isfinite(table)
    counts = known.sum(axis=0)
    sums = np.where(known, table, 0.0).sum(axis=0)
    return np.asarray(
        np.divide(sums, counts, out=np.full(table.shape[1], np.nan), where=counts > 0)
    )
