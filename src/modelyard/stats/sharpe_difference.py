"""Which of two return streams has the higher Sharpe ratio, and how sure that is."""

import math

import numpy as np
from numpy.typing import NDArray

from modelyard._core.errors import ConfigError
from modelyard.stats.sharpe import (
    MIN_RETURNS,
    influences,
    memory_lag,
    sharpe_ratio,
    standard_error,
)
from modelyard.stats.significance import (
    Contrast,
    contrast_of,
    in_standard_errors,
    no_contrast,
)

Returns = NDArray[np.float64]

_ROUNDING = 1e-12
# Numbers held at once by the bootstrap.
_MAX_CELLS = 2_000_000


def sharpe_contrast(a: Returns, b: Returns, *, periods_per_year: float = 1.0) -> Contrast:
    """Sharpe ratio of `b` minus that of `a`, streams independent of each other.

    Args:
        a: Excess returns of the control, shape (n,), in time order; what is not finite is left
            out.
        b: Excess returns of the treatment, shape (m,).
        periods_per_year: For annualising: 252 for daily returns.

    Returns:
        Without variance below ten returns a side, or where a side has no spread.

    Source:
        Ledoit and Wolf (2008), J. of Empirical Finance 15, 850-859, section 3.1, for each.
    """
    sides = [sharpe_ratio(side, periods_per_year=periods_per_year) for side in (a, b)]
    if any(math.isnan(side.standard_error) for side in sides):
        return no_contrast()
    return contrast_of(
        mean_a=sides[0].value,
        mean_b=sides[1].value,
        parts=[(side.standard_error**2, side.df) for side in sides],
        n=4.0 * sides[0].n * sides[1].n / (sides[0].n + sides[1].n),
    )


def paired_sharpe_contrast(a: Returns, b: Returns, *, periods_per_year: float = 1.0) -> Contrast:
    """Sharpe ratio of `b` minus that of `a` where both saw the same states.

    Args:
        a: Excess returns of the control, shape (n,), in time order.
        b: Excess returns of the treatment in the same periods, shape (n,). Periods in which
            either is not finite are left out.
        periods_per_year: For annualising: 252 for daily returns.

    Returns:
        As `sharpe_contrast`.

    Source:
        Ledoit and Wolf (2008), J. of Empirical Finance 15, 850-859, section 3.1.
    """
    a, b = _both_finite(a, b)
    if not _have_ratio(a, b):
        return no_contrast()
    (ratio_a, of_a), (ratio_b, of_b) = influences(a), influences(b)
    error, df = standard_error(of_b - of_a)
    # Streams that are multiples of each other differ by rounding, which must not be an effect.
    error = max(error, _ROUNDING)
    root = math.sqrt(periods_per_year)
    return contrast_of(
        mean_a=root * ratio_a,
        mean_b=root * ratio_b,
        parts=[(periods_per_year * error * error, df)],
        n=2.0 * len(a),
    )


def bootstrap_p_value(
    a: Returns,
    b: Returns,
    *,
    is_paired: bool,
    rng: np.random.Generator,
    n_resamples: int = 1000,
    block: int | None = None,
) -> float:
    """Two-sided p-value that two Sharpe ratios are equal, for short samples.

    Blocks of returns are drawn again, with their neighbours, and the difference is measured in
    its own standard error each time.

    Args:
        a: Excess returns of the control, shape (n,), in time order.
        b: Excess returns of the treatment; of the same periods if `is_paired`.
        is_paired: Whether both saw the same states.
        rng: Draws the blocks.
        n_resamples: Times the data is drawn again.
        block: Returns in a block; by default as many as the returns' memory asks for.

    Returns:
        1.0 below ten returns a side, or where a side has no spread.

    Raises:
        ConfigError: A block longer than a side, or no resamples.

    Source:
        Ledoit and Wolf (2008), J. of Empirical Finance 15, 850-859, section 3.2, with the
        standard error of Goetze and Kuensch (1996), Annals of Statistics 24, 1914-1933.
    """
    a, b = _both_finite(a, b) if is_paired else (_finite(a), _finite(b))
    if not _have_ratio(a, b):
        return 1.0
    if n_resamples < 1 or not 1 <= (1 if block is None else block) <= min(len(a), len(b)):
        raise ConfigError(
            f"block must be from 1 to the {min(len(a), len(b))} returns of the shorter side and "
            f"n_resamples at least 1; got {block} and {n_resamples}."
        )
    contrast = paired_sharpe_contrast(a, b) if is_paired else sharpe_contrast(a, b)
    found = abs(in_standard_errors(contrast))
    if is_paired:
        drawn = _resampled_pairs(a, b, contrast.difference, rng, n_resamples, block)
    else:
        drawn = _resampled_sides(a, b, contrast.difference, rng, n_resamples, block)
    return float((1 + np.count_nonzero(drawn >= found)) / (n_resamples + 1))


def _resampled_pairs(
    a: Returns,
    b: Returns,
    difference: float,
    rng: np.random.Generator,
    n_resamples: int,
    block: int | None,
) -> Returns:
    size = block or _block_size(influences(b)[1] - influences(a)[1])
    statistics = []
    for n_rows in _chunks(n_resamples, len(a)):
        drawn = _circular_blocks(len(a), size, n_rows, rng)
        ratio_a, of_a = _influences_of_rows(a[drawn])
        ratio_b, of_b = _influences_of_rows(b[drawn])
        variance = _block_variance(of_b - of_a, size)
        statistics.append(_studentized(ratio_b - ratio_a - difference, variance))
    return np.concatenate(statistics)


def _resampled_sides(
    a: Returns,
    b: Returns,
    difference: float,
    rng: np.random.Generator,
    n_resamples: int,
    block: int | None,
) -> Returns:
    statistics = []
    sizes = [block or _block_size(influences(side)[1]) for side in (a, b)]
    for n_rows in _chunks(n_resamples, max(len(a), len(b))):
        ratios, variances = [], []
        for side, size in zip((a, b), sizes, strict=True):
            drawn = side[_circular_blocks(len(side), size, n_rows, rng)]
            ratio, influence = _influences_of_rows(drawn)
            ratios.append(ratio)
            variances.append(_block_variance(influence, size))
        statistics.append(
            _studentized(ratios[1] - ratios[0] - difference, variances[0] + variances[1])
        )
    return np.concatenate(statistics)


def _chunks(n_resamples: int, n: int) -> list[int]:
    size = max(1, _MAX_CELLS // n)
    return [min(size, n_resamples - start) for start in range(0, n_resamples, size)]


def _circular_blocks(n: int, size: int, n_rows: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Indices of resampled series, shape (n_rows, whole blocks that fit into n)."""
    starts = rng.integers(n, size=(n_rows, n // size, 1))
    return np.asarray((starts + np.arange(size)) % n).reshape(n_rows, -1)


def _influences_of_rows(rows: Returns) -> tuple[Returns, Returns]:
    """`influences` of each row; rows without spread have NaN."""
    spread = rows.std(axis=1, keepdims=True)
    mean = rows.mean(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = (rows - mean) / spread
        ratio = mean / spread
    return ratio[:, 0], scaled - 0.5 * ratio * (scaled * scaled - 1.0)


def _block_variance(influence: Returns, size: int) -> Returns:
    """Squared standard error of each row's ratio, from the sums of its blocks."""
    n_rows, n = influence.shape
    sums = influence.reshape(n_rows, -1, size).sum(axis=2)
    return np.asarray(np.square(sums).sum(axis=1) / (n * n))


def _studentized(differences: Returns, variances: Returns) -> Returns:
    # A resample without spread says nothing: counted as more extreme, which is the safe side.
    usable = variances > 0.0
    root = np.sqrt(variances, where=usable, out=np.full_like(variances, np.nan))
    return np.divide(np.abs(differences), root, out=np.full_like(variances, np.inf), where=usable)


def _block_size(influence: Returns) -> int:
    # Also without memory of their own, returns have calm and wild times.
    n = len(influence)
    return min(max(memory_lag(influence) + 1, math.ceil(math.pow(n, 0.25))), n // 2)


def _finite(returns: Returns) -> Returns:
    known = np.asarray(returns, np.float64)
    return known[np.isfinite(known)]


def _both_finite(a: Returns, b: Returns) -> tuple[Returns, Returns]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    known = np.isfinite(a) & np.isfinite(b)
    return a[known], b[known]


def _have_ratio(a: Returns, b: Returns) -> bool:
    return all(len(side) >= MIN_RETURNS and np.ptp(side) > 0.0 for side in (a, b))
