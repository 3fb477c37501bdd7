"""Standard scores with the statistics of the training part."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modelyard._core.errors import InputError
from modelyard.trading.data import Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Scaler:
    """Subtracts a mean, divides by a standard deviation and limits what is left.

    Attributes:
        mean: Per column, shape (n_columns,).
        std: Per column, positive; a column that never moved in training has 1.
        limit: Scores are cut to [-limit, limit]: one crash must not own the gradient.
    """

    mean: Floats
    std: Floats
    limit: float = 5.0

    @classmethod
    def fit(cls, values: Floats, *, limit: float = 5.0) -> "Scaler":
        """Statistics of `values`, shape (n_rows, n_columns).

        Raises:
            InputError: No rows, or a value is not finite.
        """
        if len(values) == 0 or not np.isfinite(values).all():
            raise InputError(
                f"Cannot fit a scaler to {len(values)} rows: at least one row is needed and every "
                "value must be finite. Drop the warm-up rows first."
            )
        std = values.std(axis=0)
        return cls(mean=values.mean(axis=0), std=np.where(std > 0, std, 1.0), limit=limit)

    def apply(self, values: ArrayLike) -> NDArray[np.float32]:
        """Scores of `values`, same shape; NaN stays NaN."""
        scores = (_floats(values) - self.mean) / self.std
        return np.clip(scores, -self.limit, self.limit).astype(np.float32)

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold; `from_dict` gives the scaler back."""
        return {"mean": self.mean.tolist(), "std": self.std.tolist(), "limit": self.limit}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> "Scaler":
        """The scaler that `to_dict` wrote."""
        return cls(
            mean=_floats(stored["mean"]), std=_floats(stored["std"]), limit=float(stored["limit"])
        )


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)
