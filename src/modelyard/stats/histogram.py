"""Quantiles of a stream in bounded memory, with a stated error."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modelyard._core.errors import ConfigError


class LogHistogram:
    """Counts of positive values in buckets whose widths grow with the value.

    A quantile is off by at most `relative_error` of itself, as long as the value lies between
    `smallest` and `largest`; values outside count as these. Not thread-safe: its owner locks.

    Args:
        smallest: Values below count as this; above 0.
        largest: Values above count as this.
        relative_error: Bound on a quantile's error, as part of the value, between 0 and 1.

    Source:
        Masson, Rim and Lee (2019), DDSketch, Proceedings of the VLDB Endowment 12, 2195-2205.
    """

    def __init__(
        self, *, smallest: float = 1e-7, largest: float = 1e4, relative_error: float = 0.01
    ) -> None:
        self._smallest, self._largest = smallest, largest
        self.relative_error = relative_error
        self._gamma = (1 + relative_error) / (1 - relative_error)
        n_buckets = math.ceil(math.log(largest / smallest) / math.log(self._gamma)) + 1
        self._counts: NDArray[np.int64] = np.zeros(n_buckets, np.int64)
        self._sum = 0.0

    @property
    def n(self) -> int:
        """How many values were added."""
        return int(self._counts.sum())

    def add(self, values: ArrayLike) -> None:
        """Count values; each 0 or more, in any unit."""
        given = np.asarray(values, np.float64).reshape(-1)
        clipped = np.clip(given, self._smallest, self._largest)
        places = np.ceil(np.log(clipped / self._smallest) / math.log(self._gamma))
        counts = np.bincount(places.astype(np.intp), minlength=len(self._counts))
        self._counts += counts[: len(self._counts)]
        self._sum += float(given.sum())

    @property
    def counts(self) -> dict[int, int]:
        """How many values lie in each bucket that holds any, by its number."""
        places = np.flatnonzero(self._counts)
        return dict(zip(places.tolist(), self._counts[places].tolist(), strict=True))

    def to_plain(self) -> dict[str, Any]:
        """All of it as plain values; of the buckets only those that hold something."""
        return {
            "smallest": self._smallest,
            "largest": self._largest,
            "relative_error": self.relative_error,
            "counts": [[place, n] for place, n in self.counts.items()],
            "sum": self._sum,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "LogHistogram":
        """The histogram that `to_plain` described.

        Raises:
            KeyError, TypeError, ValueError, IndexError: It describes none.
        """
        histogram = cls(
            smallest=plain["smallest"],
            largest=plain["largest"],
            relative_error=plain["relative_error"],
        )
        for place, n in plain["counts"]:
            histogram._counts[place] = n
        histogram._sum = float(plain["sum"])
        return histogram

    def merge(self, other: "LogHistogram") -> None:
        """Add the counts of another histogram of the same buckets.

        Raises:
            ConfigError: Its buckets are others.
        """
        if self._buckets != other._buckets:  # noqa: SLF001 - of its own kind
            raise ConfigError(
                f"Histograms of other buckets cannot be merged: {self._buckets} and "
                f"{other._buckets} (smallest, largest, relative_error)."  # noqa: SLF001 - as above
            )
        self._counts += other._counts  # noqa: SLF001 - of its own kind
        self._sum += other._sum  # noqa: SLF001 - of its own kind

    @property
    def _buckets(self) -> tuple[float, float, float]:
        return self._smallest, self._largest, self.relative_error

    def mean(self) -> float | None:
        """Mean of all values, exactly; None without any."""
        n = self.n
        return self._sum / n if n else None

    def quantiles(self, levels: Sequence[float]) -> list[float | None]:
        """The values below which these shares lie; None without any value.

        Args:
            levels: Each in [0, 1].
        """
        running = np.cumsum(self._counts)
        n = int(running[-1])
        if n == 0:
            return [None] * len(levels)
        places = [int(np.searchsorted(running, level * (n - 1), side="right")) for level in levels]
        # The middle of a bucket, in the sense that both its ends are equally far, relatively.
        return [
            self._smallest * 2 * self._gamma**place / (self._gamma + 1)
            if place
            else self._smallest
            for place in places
        ]
