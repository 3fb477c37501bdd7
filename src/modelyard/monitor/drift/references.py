"""The distribution of several columns in normal times, and how far windows wander from it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard._core.errors import ConfigError
from modelyard.monitor.drift.categories import Categories, compare_categories
from modelyard.monitor.drift.methods import ColumnMethod
from modelyard.monitor.drift.sketches import array_from_plain, array_to_plain, sketch_of
from modelyard.monitor.recording.arrays import as_rows
from modelyard.stats.autocorrelation import lag1, variance_ratio
from modelyard.stats.calibration import MIN_SCORES, leave_one_out
from modelyard.stats.quantiles import midpoint_sketch

SKETCH_SIZE = 200
# Rows that are kept as they are, for methods that look at all columns at once.
SAMPLE_SIZE = 500
# More windows than these say no more about how far the next one wanders.
_MOST_BLOCKS = 50
# Of a column that never changed, anything below this share of its value is rounding.
_ROUNDING = 1e-6
_SMALLEST_SCALE = 1e-12
# Width of the middle half of a normal distribution, in standard deviations.
_HALF_WIDTH = 1.349
_REACH = 20.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """The distribution of several columns in normal times.

    Attributes:
        sketch: Quantiles, shape (columns, levels), rows ascending; NaN where a column had none.
        std: Standard deviations, shape (columns,); a floor for constant columns.
        n: Rows it was made of.
        lag1: Largest autocorrelation of a column, -1 to 1.
        wander: Largest variance ratio of a column: how much more its means vary than those of
            independent values.
        missing: Share of each column that was not finite, shape (columns,).
        null: By method, the scores of the windows it was made of, each against all the others,
            shape (windows, columns): how far windows wander while nothing changes. Empty if
            there were fewer than eleven.
        categories: What values came, of columns that hold categories, by index.
        sample: Rows as they were, evenly spread, shape (at most 500, columns).
    """

    sketch: NDArray[np.float64]
    std: NDArray[np.float64]
    n: int
    lag1: float
    wander: float = 1.0
    missing: NDArray[np.float64]
    null: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    categories: Mapping[int, Categories] = field(default_factory=dict)
    sample: NDArray[np.float64]

    @property
    def width(self) -> int:
        """Number of columns."""
        return len(self.std)

    def to_plain(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "sketch": array_to_plain(self.sketch),
            "std": array_to_plain(self.std),
            "n": self.n,
            "lag1": self.lag1,
            "wander": self.wander,
            "missing": array_to_plain(self.missing),
            "null": {name: array_to_plain(scores) for name, scores in self.null.items()},
            "categories": {str(i): one.to_plain() for i, one in self.categories.items()},
            "sample": array_to_plain(self.sample),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Reference":
        """The reference that `to_plain` described; also as it was before version 0.2.

        Raises:
            KeyError, TypeError, ValueError: It did not.
        """
        sketch = array_from_plain(plain["sketch"])
        std = array_from_plain(plain["std"])
        if sketch.ndim != 2 or std.shape != (len(sketch),):  # noqa: PLR2004 - a table
            raise ValueError(f"sketch {sketch.shape} and std {std.shape} do not go together")
        columns = len(std)
        return cls(
            sketch=sketch,
            std=std,
            n=int(plain["n"]),
            lag1=float(plain["lag1"]),
            wander=float(plain.get("wander", 1.0)),
            missing=_vector(plain.get("missing"), columns),
            null=_null_from_plain(plain, columns),
            categories={
                int(i): Categories.from_plain(one)
                for i, one in plain.get("categories", {}).items()
            },
            sample=array_from_plain(plain.get("sample", ())).reshape(-1, columns),
        )


# Values whose squares overflow give a NaN or no verdict, never a warning to the caller.
@np.errstate(over="ignore", invalid="ignore")
def reference_of(
    rows: NDArray[np.float64],
    *,
    categorical: Collection[int] = (),
    block_size: int = 0,
    methods: Sequence[ColumnMethod] = (),
) -> Reference:
    """The reference that rows give.

    Args:
        rows: shape (n, columns), oldest first; NaN and infinities are left out by column.
        categorical: Columns that hold categories.
        block_size: Rows of a window; 0 if the rows are one.
        methods: Those for which windows are scored, where there are eleven windows or more.
    """
    is_known = np.isfinite(rows)
    known = np.where(is_known, rows, np.nan)
    complete = is_known.all(axis=0)
    autocorrelation, wander = dependence_of(known[:, complete])
    reference = Reference(
        sketch=sketch_of(rows, SKETCH_SIZE),
        std=_scales(known),
        n=len(rows),
        lag1=autocorrelation,
        wander=wander,
        missing=1.0 - is_known.mean(axis=0),
        categories={i: Categories.of(rows[:, i]) for i in categorical if i < rows.shape[1]},
        sample=_spread(rows),
    )
    n_blocks = min(len(rows) // block_size, _MOST_BLOCKS) if block_size else 0
    if n_blocks < MIN_SCORES:
        return reference
    starts = range(len(rows) - n_blocks * block_size, len(rows), block_size)
    blocks = [sketch_of(rows[start : start + block_size], SKETCH_SIZE) for start in starts]
    null = {method.name: _apart(blocks, reference, method) for method in methods}
    return replace(reference, null=null)


def reference_of_data(
    given: Any,
    *,
    what: str,
    min_samples: int,
    block_size: int,
    categorical: Collection[int] = (),
    methods: Sequence[ColumnMethod] = (),
) -> tuple[Reference, NDArray[np.float64]]:
    """The reference that data from elsewhere give, and the data as a table.

    Args:
        given: Numbers, shape (n, ...) or (n,), oldest first.
        what: Their name, for the message.
        min_samples: Rows that are needed.
        block_size: Rows of a window.
        categorical: Columns that hold categories.
        methods: As `reference_of`.

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
    reference = reference_of(
        table, categorical=categorical, block_size=block_size, methods=methods
    )
    return reference, table


def reference_of_sketches(
    sketches: Sequence[NDArray[np.float64]],
    *,
    n_each: int,
    categorical: Collection[int] = (),
    methods: Sequence[ColumnMethod] = (),
) -> Reference | None:
    """The reference that full windows of the past give together; None without any.

    Args:
        sketches: Of the windows, oldest first, each shape (columns, levels).
        n_each: Rows of each window.
        categorical: Columns that hold categories.
        methods: As `reference_of`.
    """
    usable = [sketch for sketch in sketches if sketch.size]
    usable = [sketch for sketch in usable if sketch.shape == usable[-1].shape]
    if not usable:
        return None
    rows = np.concatenate(usable, axis=1).T
    reference = reference_of(rows, categorical=categorical)
    # Quantiles in ascending order follow one another as the values themselves did not.
    reference = replace(reference, n=n_each * len(usable), lag1=0.0)
    if len(usable) < MIN_SCORES:
        return reference
    null = {method.name: _apart(usable, reference, method) for method in methods}
    return replace(reference, null=null)


def reference_of_windows(
    sketches: Sequence[NDArray[np.float64]], reference: Reference, *, n_each: int
) -> Reference | None:
    """The last windows together, as something to compare with; None without a usable one.

    Args:
        sketches: Of the windows, each shape (columns, levels).
        reference: Whose scales are taken, so that scores can be compared with its scores.
        n_each: Rows of each window.
    """
    usable = [sketch for sketch in sketches if len(sketch) == reference.width and sketch.size]
    if not usable:
        return None
    together = np.sort(np.concatenate(usable, axis=1), axis=1)
    categories = {i: Categories.of(together[i]) for i in reference.categories}
    return replace(
        reference, sketch=together, n=n_each * len(usable), null={}, categories=categories
    )


def scores_between(
    then: NDArray[np.float64],
    now: NDArray[np.float64],
    reference: Reference,
    method: ColumnMethod,
) -> NDArray[np.float64]:
    """Scores of one sketch against another, in the scales of `reference`, shape (columns,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        scores = method.scores(then, reference.std, now)
    for i in reference.categories:
        scores[i], _ = compare_categories(Categories.of(then[i]), Categories.of(now[i]))
    return np.where(np.isfinite(now).all(axis=1) & np.isfinite(then).all(axis=1), scores, np.nan)


def _apart(
    blocks: Sequence[NDArray[np.float64]], reference: Reference, method: ColumnMethod
) -> NDArray[np.float64]:
    """Scores of each block against all the others, shape (blocks, columns)."""

    def score(
        others: Sequence[NDArray[np.float64]], block: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        rest = np.sort(np.concatenate(others, axis=1), axis=1)
        if not reference.categories:  # codes must keep their shares, not their order
            rest = midpoint_sketch(rest, block.shape[1])
        return scores_between(rest, block, reference, method)

    return np.stack(leave_one_out(blocks, score))


def _null_from_plain(plain: Mapping[str, Any], columns: int) -> dict[str, NDArray[np.float64]]:
    old = plain.get("null_scores")
    if old:  # the largest score of each window, for all columns together
        return {"wasserstein": np.repeat(np.array(old, np.float64)[:, None], columns, axis=1)}
    null = {name: array_from_plain(scores) for name, scores in plain.get("null", {}).items()}
    for name, scores in null.items():
        if scores.ndim != 2 or scores.shape[1] != columns:  # noqa: PLR2004 - a table
            raise ValueError(f"{name} scores {scores.shape} are not of {columns} columns")
    return null


def dependence_of(rows: NDArray[np.float64]) -> tuple[float, float]:
    """Largest lag-1 autocorrelation and largest variance ratio of a column; 0 and 1 of none.

    Args:
        rows: shape (n, columns), in time order, finite.
    """
    if not rows.size:
        return 0.0, 1.0
    ratio = np.nan_to_num(variance_ratio(rows), nan=1.0, posinf=1.0)
    return float(np.nan_to_num(lag1(rows)).max()), float(ratio.max())


def _scales(known: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation of each column, with a floor; NaN where nothing is known.

    Values further from the median than twenty times what the middle half suggests are taken for
    that far: one bad tick must not blind a column.
    """
    scales = np.full(known.shape[1], np.nan)
    has_values = np.isfinite(known).any(axis=0)
    if not has_values.any():
        return scales
    values = known[:, has_values]
    floor = np.maximum(_ROUNDING * np.nanmedian(np.abs(values), axis=0), _SMALLEST_SCALE)
    low, middle, high = np.nanpercentile(values, [25, 50, 75], axis=0)
    reach = _REACH * (high - low) / _HALF_WIDTH
    reach = np.where(reach > 0.0, reach, np.inf)
    clipped = np.clip(values, middle - reach, middle + reach)
    scales[has_values] = np.maximum(np.nanstd(clipped, axis=0), floor)
    return scales


def _spread(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(rows) <= SAMPLE_SIZE:
        return rows.copy()
    return rows[np.linspace(0, len(rows) - 1, SAMPLE_SIZE).astype(np.intp)]


def _vector(plain: Any, size: int) -> NDArray[np.float64]:
    if plain is None:
        return np.zeros(size)
    found = array_from_plain(plain)
    if found.shape != (size,):
        raise ValueError(f"expected {size} values, got shape {found.shape}")
    return found
