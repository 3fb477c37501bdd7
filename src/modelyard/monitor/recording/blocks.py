"""Means of short stretches of predictions: where changes are dated, and what wanders how far."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


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


@dataclass(frozen=True, eq=False)
class Parts:
    """The values of several blocks, one after another.

    Of a block that is partly gone the rest counts; one that is all gone has no mean.

    Attributes:
        table: shape (n, columns) or (n,), oldest first; what is gone is missing at the top.
        stops: Where each block ends, counted from the end of the table: 0 or below.
    """

    table: NDArray[np.float64]
    stops: ArrayLike

    def means(self) -> NDArray[np.float64]:
        """Means of the finite values, shape (blocks, columns); NaN where there is none."""
        table = self.table.reshape(len(self.table), -1)
        stops = np.maximum(len(table) + np.asarray(self.stops), 0)
        starts = np.concatenate([[0], stops[:-1]])
        n = int(stops[0])
        if n and (stops - starts == n).all():
            cubes = table[: stops[-1]].reshape(len(stops), n, -1)
            means = np.add.reduce(cubes, axis=1) / n
            # Not finite where a value is not, and seldom otherwise.
            if math.isfinite(np.add.reduce(means, axis=None)):
                return np.asarray(means)
        known = [_finite_means(table[a:b]) for a, b in zip(starts, stops, strict=True)]
        return np.array(known).reshape(len(stops), -1)


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

    def add(self, at: Sequence[float], n_records: ArrayLike, parts: Mapping[str, Parts]) -> None:
        """Take blocks, oldest first.

        Args:
            at: When each ended, Unix time.
            n_records: Predictions recorded by then.
            parts: Their values by stream.
        """
        places = (self._n_added + np.arange(len(at))) % self._capacity
        self._at[places], self._n_records[places] = at, n_records
        for kept in self._means.values():
            kept[places] = np.nan
        with np.errstate(over="ignore", invalid="ignore"):
            for name, one in parts.items():
                if one.table.size:
                    means = one.means()
                    self._ring(name, means.shape[1])[places] = means
        self._n_added += len(at)

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
    known = np.isfinite(table)
    counts = known.sum(axis=0)
    sums = np.where(known, table, 0.0).sum(axis=0)
    return np.asarray(
        np.divide(sums, counts, out=np.full(table.shape[1], np.nan), where=counts > 0)
    )
