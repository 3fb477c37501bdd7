"""When something began to change: every stream's block means against what was normal."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy import special

from modelyard.monitor.drift.sketches import array_from_plain, array_to_plain
from modelyard.monitor.recording.blocks import BlockMeans
from modelyard.stats.autocorrelation import lag1
from modelyard.stats.changepoint import page_hinkley, sum_threshold

# Blocks below which nothing is known of how block means wander.
MIN_BLOCKS = 5
# A false change comes once in so many windows' worth of blocks, of all streams together.
_RUN_LENGTH = 100 * 200
_ALLOWANCE = 0.5
_LEVEL = 0.05
_LARGEST_LAG1 = 0.9

Columns = NDArray[np.float64]


class ChangeDict(TypedDict):
    """A change of a stream's mean.

    `stream` is `latency_ms`, `error_rate`, `prediction` or `feature`; `index` and `name` say which
    output or feature. `began_at` is the estimate of when it changed, `detected_at` when it was
    certain; both are ends of blocks, ISO 8601. `shift` is the mean since then less the normal one,
    in the stream's unit.
    """

    stream: str
    index: int
    name: str
    direction: str
    began_at: str
    detected_at: str
    shift: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Norm:
    """How block means of one stream wander while nothing changes.

    Attributes:
        mean: shape (columns,).
        std: Of a block mean, with what its following the one before adds, shape (columns,).
        n_blocks: Blocks that the mean is made of.
    """

    mean: Columns
    std: Columns
    n_blocks: int

    def to_plain(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "mean": array_to_plain(self.mean),
            "std": array_to_plain(self.std),
            "n_blocks": self.n_blocks,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Norm":
        """The norm that `to_plain` described."""
        return cls(
            mean=array_from_plain(plain["mean"]),
            std=array_from_plain(plain["std"]),
            n_blocks=int(plain["n_blocks"]),
        )


# Values whose squares overflow have no norm, and never a warning to the caller.
@np.errstate(over="ignore", invalid="ignore")
def norm_of(means: Columns, *, n_normal: int, floor: Columns | float) -> Norm | None:
    """The norm of a stream; None below five blocks.

    Args:
        means: Of blocks, shape (blocks, columns), oldest first.
        n_normal: How many of the last hold what is normal; those before only show how block means
            wander.
        floor: Standard deviation that is the least, shape (columns,) or one for all.
    """
    known = means[np.isfinite(means).all(axis=1)]
    normal = known[-n_normal:] if n_normal else known[:0]
    if len(normal) < MIN_BLOCKS:
        return None
    memory = np.clip(lag1(known), 0.0, _LARGEST_LAG1)
    spread = known.std(axis=0, ddof=1) * np.sqrt((1.0 + memory) / (1.0 - memory))
    # Of few blocks the deviation may be found too small by chance.
    freedom = len(known) - 1
    unsure = math.sqrt(freedom / float(special.chdtri(freedom, 1.0 - _LEVEL)))
    spread = np.where(np.isfinite(spread), spread, math.inf)
    return Norm(
        mean=normal.mean(axis=0), std=np.maximum(spread * unsure, floor), n_blocks=len(normal)
    )


def block_means_of(rows: Columns, block_size: int) -> Columns:
    """Means of blocks of rows, shape (blocks, columns); what is over at the start is left out."""
    n = len(rows) // block_size
    if n == 0:
        return np.empty((0, rows.shape[1]))
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(rows[-n * block_size :].reshape(n, block_size, -1).mean(axis=1))


def change_points(
    blocks: BlockMeans,
    norms: Mapping[str, Norm],
    names: Mapping[str, Sequence[str]],
    *,
    since: int,
) -> list[ChangeDict]:
    """The first change of each stream since the baseline was set, oldest first.

    Args:
        blocks: Means of the last blocks.
        norms: What was normal, by stream; a stream without one is left out.
        names: Of the columns, by stream.
        since: Predictions recorded when the baseline was set: earlier blocks do not count.
    """
    is_new = blocks.n_records > since
    usable = {
        name: norm
        for name, norm in norms.items()
        if name in blocks.means and blocks.means[name].shape[1] == len(norm.mean)
    }
    n_streams = sum(len(norm.mean) for norm in usable.values())
    found: list[ChangeDict] = []
    if not is_new.any() or not n_streams:
        return found
    at = blocks.at[is_new]
    for name, norm in usable.items():
        means = blocks.means[name][is_new]
        found += _changes_of(name, means, norm, at, names.get(name, ()), n_streams=n_streams)
    return sorted(found, key=lambda change: change["began_at"])


def _changes_of(
    stream: str,
    means: Columns,
    norm: Norm,
    at: Columns,
    names: Sequence[str],
    *,
    n_streams: int,
) -> list[ChangeDict]:
    # What is not known of the normal mean must not add up to a change.
    allowance = _ALLOWANCE + 2.0 / math.sqrt(norm.n_blocks)
    threshold = sum_threshold(allowance=allowance, run_length=_RUN_LENGTH * n_streams)
    with np.errstate(invalid="ignore", over="ignore"):
        standardised = (means - norm.mean) / norm.std
    changes = page_hinkley(standardised, allowance=allowance, threshold=threshold)
    return [
        {
            "stream": stream,
            "index": i,
            "name": names[i] if i < len(names) else f"{stream}_{i}",
            "direction": "up" if changes.direction[i] > 0 else "down",
            "began_at": _text(at[changes.began[i]]),
            "detected_at": _text(at[changes.detected[i]]),
            "shift": float(np.nanmean(means[changes.began[i] :, i]) - norm.mean[i]),
        }
        for i in np.flatnonzero(changes.detected >= 0).tolist()
    ]


def _text(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat()
