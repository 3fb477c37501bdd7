"""Columns that have stopped to say anything, whatever their distribution: no drift, but worse."""

import numpy as np
from numpy.typing import NDArray

from modelyard.monitor.drift.references import Reference
from modelyard.stats.autocorrelation import effective_share
from modelyard.stats.divergences import homogeneity_p

# A column without a usable value in this many newest rows has stopped: older ones say nothing.
N_NEWEST = 50
# How much more of a column may be missing than in the baseline.
_MORE_MISSING = 0.1
# Chance, of all columns together, that nothing has happened after all.
_LEVEL = 1e-3


def problems_of(
    reference: Reference, rows: NDArray[np.float64], lost: NDArray[np.bool_]
) -> list[str]:
    """What the window lacks that the baseline had, in words; empty if nothing.

    Args:
        reference: What is normal.
        rows: The window, shape (n, columns).
        lost: Columns without a finite value in the newest rows, shape (columns,).
    """
    n_columns = rows.shape[1]
    told = []
    if lost.any():
        told.append(
            f"{int(lost.sum())} of {n_columns} columns had too few finite values: none in the "
            f"newest {N_NEWEST} rows, which held NaN or had another width."
        )
    sparse = _is_sparse(reference, rows) & ~lost
    if sparse.any():
        share = float((~np.isfinite(rows[:, sparse])).mean(axis=0).max())
        told.append(f"{int(sparse.sum())} of {n_columns} columns miss up to {share:.0%} of rows.")
    frozen = _is_frozen(reference, rows) & ~lost
    if frozen.any():
        told.append(
            f"{int(frozen.sum())} of {n_columns} columns had one value only, and more in the "
            "baseline."
        )
    return told


def _is_sparse(reference: Reference, rows: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Columns of which clearly more is missing than in the baseline."""
    n = len(rows)
    now = (~np.isfinite(rows)).sum(axis=0)
    is_more = now / n - reference.missing > _MORE_MISSING
    if not is_more.any():
        return np.asarray(is_more)
    counts = [
        np.stack([missing, size - missing], axis=-1)
        for missing, size in ((reference.missing * reference.n, reference.n), (now, n))
    ]
    p_values = np.nan_to_num(homogeneity_p(*counts), nan=1.0)
    return np.asarray(is_more & (p_values < _LEVEL / rows.shape[1]))


def _is_frozen(reference: Reference, rows: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Columns of one value that would not have been so by chance."""
    levels = reference.sketch.shape[1]
    if not levels or not len(rows):
        return np.zeros(rows.shape[1], np.bool_)
    is_known = np.isfinite(rows)
    is_whole = is_known.all()
    highest = (rows if is_whole else np.where(is_known, rows, -np.inf)).max(axis=0)
    lowest = (rows if is_whole else np.where(is_known, rows, np.inf)).min(axis=0)
    is_one = is_known.any(axis=0) & (highest - lowest <= 1e-9 * reference.std)
    # Where a column is on its most frequent value most of the time, a window of it is no wonder.
    n_independent = len(rows) * effective_share(reference.lag1)
    chance = _largest_share(reference.sketch[is_one]) ** n_independent
    is_one[is_one] = chance < _LEVEL / rows.shape[1]
    return np.asarray(is_one)


def _largest_share(sketch: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of its most frequent value in each column of quantiles, one level more to be safe."""
    shares = np.ones(len(sketch))
    for i, levels in enumerate(sketch):
        known = levels[np.isfinite(levels)]
        if known.size:
            _, counts = np.unique(known, return_counts=True)
            shares[i] = min(1.0, (counts.max() + 1) / known.size)
    return shares
