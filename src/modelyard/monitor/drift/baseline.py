"""What is normal: the distributions and the health that later windows are compared with."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard._core.errors import ConfigError
from modelyard.monitor.drift.sketches import (
    rounded,
    sketch_from_plain,
    sketch_of,
    sketch_score,
    sketch_to_plain,
)
from modelyard.monitor.recording.health import Health
from modelyard.monitor.recording.rings import as_rows
from modelyard.monitor.recording.windows import WindowData
from modelyard.stats.autocorrelation import lag1
from modelyard.stats.calibration import MIN_SCORES, leave_one_out
from modelyard.stats.quantiles import midpoint_sketch

SKETCH_SIZE = 200
# Of a column that never changed, anything below this share of its value is rounding.
_ROUNDING = 1e-6
_SMALLEST_SCALE = 1e-12


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The distribution of several columns in normal times.

    Attributes:
        sketch: Quantiles, shape (columns, levels), rows ascending; NaN where a column had none.
        std: Standard deviations, shape (columns,); a floor for constant columns.
        n: Rows it was made of.
        lag1: Largest autocorrelation of a column, -1 to 1.
        null_scores: Scores of parts of the reference against the others; empty if it was a
            single window.
    """

    sketch: NDArray[np.float64]
    std: NDArray[np.float64]
    n: int
    lag1: float
    null_scores: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.std)

    def to_plain(self) -> dict[str, Any]:
        """All of it as plain values, quantiles to six digits."""
        return {
            "sketch": sketch_to_plain(self.sketch),
            "std": [rounded(value) for value in self.std.tolist()],
            "n": self.n,
            "lag1": self.lag1,
            "null_scores": list(self.null_scores),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Reference":
        """The reference that `to_plain` described."""
        return cls(
            sketch=sketch_from_plain(plain["sketch"]),
            std=np.array([math.nan if v is None else v for v in plain["std"]], dtype=np.float64),
            n=plain["n"],
            lag1=plain["lag1"],
            null_scores=tuple(plain["null_scores"]),
        )


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Everything that is normal about a model.

    Attributes:
        set_at: When it was set, ISO 8601.
        predictions: None if there were too few.
        features: None if there were too few.
        health: Latency, errors and metrics at the time; None if nothing had been recorded.
    """

    set_at: str
    predictions: Reference | None
    features: Reference | None
    health: Health | None

    def to_plain(self) -> dict[str, Any]:
        """All of it as plain values, so that it can travel with a version."""
        return {
            "set_at": self.set_at,
            "predictions": None if self.predictions is None else self.predictions.to_plain(),
            "features": None if self.features is None else self.features.to_plain(),
            "health": None if self.health is None else self.health.to_plain(),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Baseline":
        """The baseline that `to_plain` described.

        Raises:
            ConfigError: It did not.
        """
        try:
            predictions, features, health = (
                plain["predictions"],
                plain["features"],
                plain["health"],
            )
            return cls(
                set_at=plain["set_at"],
                predictions=None if predictions is None else Reference.from_plain(predictions),
                features=None if features is None else Reference.from_plain(features),
                health=None if health is None else Health.from_plain(health),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"This is not a baseline of a monitor ({error!r}). "
                "Give load_baseline what baseline_state returned."
            ) from error


def baseline_of_window(data: WindowData, *, set_at: str, min_samples: int) -> Baseline:
    """The baseline that one window gives; a part with fewer than `min_samples` rows has none."""
    predictions, features = (
        reference_of(rows) if len(rows) >= min_samples else None
        for rows in (data.predictions, data.features)
    )
    return Baseline(set_at=set_at, predictions=predictions, features=features, health=data.health)


def reference_of_data(given: Any, *, what: str, min_samples: int, block_size: int) -> Reference:
    """The reference that data from elsewhere give.

    Args:
        given: Numbers, shape (n, ...) or (n,), oldest first.
        what: Their name, for the message.
        min_samples: Rows that are needed.
        block_size: Rows of a window.

    Raises:
        ConfigError: No numbers, fewer than `min_samples` rows, or no column with a finite value.
    """
    rows = as_rows(given)
    if rows is None:
        raise ConfigError(f"The baseline's {what} must be numbers, shape (n, columns).")
    # A flat array of past values is one column, not one row.
    table = np.asarray(rows.reshape(len(rows), -1), dtype=np.float64)
    if len(table) < min_samples:
        raise ConfigError(
            f"A baseline needs {min_samples} rows of {what} or more, got {len(table)}. "
            "Lower min_drift_samples only if you know why."
        )
    if not np.isfinite(table).any():
        raise ConfigError(
            f"None of the baseline's {table.size} {what} is finite: all are NaN or infinite, so "
            "nothing could be compared with them."
        )
    return reference_of_blocks(table, block_size=block_size)


# Values whose squares overflow give a NaN or no verdict, never a warning to the caller.
@np.errstate(over="ignore", invalid="ignore")
def reference_of(rows: NDArray[np.float64]) -> Reference:
    """The reference that one window gives.

    Args:
        rows: shape (n, columns), oldest first; NaN and infinities are left out by column.
    """
    known = np.where(np.isfinite(rows), rows, np.nan)
    complete = np.isfinite(known).all(axis=0)
    autocorrelation = lag1(known[:, complete]) if complete.any() else np.zeros(1)
    return Reference(
        sketch=sketch_of(rows, SKETCH_SIZE),
        std=_scales(known),
        n=len(rows),
        lag1=float(np.nan_to_num(autocorrelation).max()),
    )


def reference_of_blocks(rows: NDArray[np.float64], *, block_size: int) -> Reference:
    """The reference that a long stretch gives, calibrated where it holds enough blocks.

    Each block of `block_size` rows is scored against all the others, which shows how far a
    window wanders while nothing has changed.

    Args:
        rows: shape (n, columns), oldest first.
        block_size: Rows of a window.
    """
    reference = reference_of(rows)
    blocks = [
        sketch_of(rows[start : start + block_size], SKETCH_SIZE)
        for start in range(0, len(rows) - block_size + 1, block_size)
    ]
    if len(blocks) < MIN_SCORES:
        return reference

    def score(others: Sequence[NDArray[np.float64]], block: NDArray[np.float64]) -> float:
        rest = np.sort(np.concatenate(others, axis=1), axis=1)
        return sketch_score(midpoint_sketch(rest, block.shape[1]), block, reference.std)

    return replace(reference, null_scores=tuple(leave_one_out(blocks, score)))


def _scales(known: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation of each column, with a floor; NaN where nothing is known."""
    scales = np.full(known.shape[1], np.nan)
    has_values = np.isfinite(known).any(axis=0)
    values = known[:, has_values]
    floor = np.maximum(_ROUNDING * np.nanmax(np.abs(values), axis=0), _SMALLEST_SCALE)
    scales[has_values] = np.maximum(np.nanstd(values, axis=0), floor)
    return scales
