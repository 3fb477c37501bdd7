"""How two variants differ on one metric: a contrast, by the metric's kind."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from modelyard.ab_testing.analysis.dependence import (
    Array,
    Influences,
    combined_by_unit,
    discounted,
    inflation_by_unit,
    thinned,
)
from modelyard.ab_testing.analysis.evidence import Evidence
from modelyard.ab_testing.recording.snapshots import Snapshot, Stream
from modelyard.stats import significance
from modelyard.stats.clusters import Clusters
from modelyard.stats.comoments import CoMoments
from modelyard.stats.cuped import cuped_contrast, slope, variance_reduction
from modelyard.stats.effects import standardised
from modelyard.stats.moments import Moments
from modelyard.stats.proportions import proportions_test
from modelyard.stats.quantile_difference import quantile_contrast
from modelyard.stats.ranks import mann_whitney, rank_contrast, rank_influences
from modelyard.stats.sharpe import influences as sharpe_influences
from modelyard.stats.sharpe_difference import (
    sharpe_contrast,
)
from modelyard.stats.significance import Contrast, combined

# ── kinds ───────────────────────────────────────────────────────────────────────────────────────


_Streams = Sequence[tuple[Stream, Stream]]
_NO_UNITS = Clusters({}, {})


def _of_means(known: Evidence, snapshot: Snapshot, streams: _Streams) -> Evidence:
    found = _by_unit(known, snapshot, streams) or _by_order(known, snapshot, streams)
    if known.metric.covariate is not None:
        return _of_adjusted_means(found, snapshot, streams)
    return found


def _by_order(known: Evidence, snapshot: Snapshot, streams: _Streams) -> Evidence:
    """Means of values of which no user gave two."""
    share_a, share_b = known.order_a.share, known.order_b.share
    strata = [
        (
            thinned(snapshot.samples.get(a, Moments()), share_a),
            thinned(snapshot.samples.get(b, Moments()), share_b),
        )
        for a, b in streams
    ]
    return replace(
        known,
        effective=significance.stratified(strata),
        effective_n_a=int(known.a.n * share_a),
        effective_n_b=int(known.b.n * share_b),
    )


def _of_proportions(known: Evidence, snapshot: Snapshot, streams: _Streams) -> Evidence:
    found = _of_means(known, snapshot, streams)
    if len(streams) != 1 or min(known.a.n, known.b.n) == 0:
        return found
    test = proportions_test(
        round(known.a.mean * known.a.n), known.a.n, round(known.b.mean * known.b.n), known.b.n
    )
    return replace(found, single_look_p=test.p_value)


def _of_adjusted_means(found: Evidence, snapshot: Snapshot, streams: _Streams) -> Evidence:
    """Means less what the covariate explains."""
    strata = _co(snapshot.covariates, streams)
    contrast = cuped_contrast(strata)
    share = min(found.order_a.share, found.order_b.share)
    if found.is_by_unit:
        # A variant without any covariate has no such sums, and the contrast no variance.
        sides = [snapshot.adjusted.get((name, found.metric.name)) for name in _names(streams)]
        a, b = (_NO_UNITS if side is None else side.less(slope(strata)) for side in sides)
        by_unit = combined_by_unit(a, b, [epoch for (_, epoch, _), _ in streams])
        share = min(share, _share(contrast, by_unit))
    std = math.sqrt((found.a.m2 + found.b.m2) / max(1, found.a.n + found.b.n - 2))
    return replace(
        found,
        contrast=contrast,
        variance_reduction=variance_reduction(strata),
        effective=discounted(contrast, share),
        effective_n_a=int(sum(a.n for a, _ in strata) * share),
        effective_n_b=int(sum(b.n for _, b in strata) * share),
        cohens_d=standardised(contrast.difference, std) if contrast.n else math.nan,
    )


def _of_ratios(known: Evidence, snapshot: Snapshot, streams: _Streams) -> Evidence:
    """Sums over sums. Each unit is one draw, however many outcomes it has."""
    keys = [(variant, known.metric.name) for variant in _names(streams)]
    a, b = (snapshot.clusters.get(key, _NO_UNITS) for key in keys)
    epochs = [epoch for (_, epoch, _), _ in streams]
    contrast = combined_by_unit(a, b, epochs)
    found = replace(
        known,
        contrast=contrast,
        effective=contrast,
        cohens_d=_standardised(contrast),
        effective_n_a=a.n_units,
        effective_n_b=b.n_units,
    )
    if a.n_units < known.n_a or b.n_units < known.n_b:
        return replace(found, n_units_a=a.n_units, n_units_b=b.n_units)
    share = min(known.order_a.share, known.order_b.share)
    return replace(
        found,
        effective=discounted(contrast, share),
        effective_n_a=int(a.n_units * known.order_a.share),
        effective_n_b=int(b.n_units * known.order_b.share),
    )


def _by_unit(known: Evidence, snapshot: Snapshot, streams: _Streams) -> Evidence | None:
    """Means whose users, not outcomes, are independent; None if each gave one."""
    if not streams:
        return None
    a, b = (_units(snapshot, [pair[side] for pair in streams]) for side in (0, 1))
    if a.n_units >= known.a.n and b.n_units >= known.b.n:
        return None
    by_unit = combined_by_unit(a, b, [epoch for (_, epoch, _), _ in streams])
    # Users may be independent of each other and their outcomes not, or the other way round.
    by_order = discounted(known.contrast, min(known.order_a.share, known.order_b.share))
    effective = max(by_unit, by_order, key=lambda found: found.variance)
    share = _share(known.contrast, effective)
    return replace(
        known,
        effective=effective,
        effective_n_a=int(known.a.n * share),
        effective_n_b=int(known.b.n * share),
        n_units_a=a.n_units,
        n_units_b=b.n_units,
    )


def _share(plain: Contrast, effective: Contrast) -> float:
    """How much of the information is left once dependence is counted, 0 to 1."""
    if not (plain.variance > 0.0 and effective.variance > 0.0):
        return 1.0
    return min(1.0, plain.variance / effective.variance)


def _of_quantiles(known: Evidence, snapshot: Snapshot, streams: _Streams) -> Evidence:
    level = known.metric.quantile
    contrasts = [quantile_contrast(a, b, level=level) for a, b in _values(snapshot, streams)]

    def influences(*sides: Array) -> tuple[Array, Array]:
        a, b = (np.asarray(side <= np.quantile(side, level), dtype=float) for side in sides)
        return a - a.mean(), b - b.mean()

    found = _of_values(known, contrasts, snapshot, streams, influences)
    return replace(found, cohens_d=_standardised(found.contrast))


def _of_ranks(known: Evidence, snapshot: Snapshot, streams: _Streams) -> Evidence:
    sides = _values(snapshot, streams)
    contrasts = [rank_contrast(a, b) for a, b in sides]
    found = _of_values(known, contrasts, snapshot, streams, rank_influences)
    p_value = mann_whitney(*sides[0]) if len(sides) == 1 else None
    return replace(found, single_look_p=p_value, cohens_d=_d_of_superiority(found.contrast))


def _of_sharpes(known: Evidence, snapshot: Snapshot, streams: _Streams) -> Evidence:
    periods = known.metric.periods_per_year
    contrasts = [
        sharpe_contrast(a, b, periods_per_year=periods) for a, b in _values(snapshot, streams)
    ]

    def influences(*sides: Array) -> tuple[Array, Array]:
        (_, a), (_, b) = (sharpe_influences(side) for side in sides)
        return a, b

    found = _of_values(known, contrasts, snapshot, streams, influences)
    # A difference of Sharpe ratios is its own size.
    return replace(found, cohens_d=size_of(found.contrast))


BY_KIND: Mapping[str, Callable[[Evidence, Snapshot, _Streams], Evidence]] = {
    "mean": _of_means,
    "proportion": _of_proportions,
    "ratio": _of_ratios,
    "quantile": _of_quantiles,
    "rank": _of_ranks,
    "sharpe": _of_sharpes,
}


# ── how ─────────────────────────────────────────────────────────────────────────────────────────


def _co(sums: Mapping[Stream, CoMoments], streams: _Streams) -> list[tuple[CoMoments, CoMoments]]:
    none = CoMoments()
    return [(sums.get(a, none), sums.get(b, none)) for a, b in streams] or [(none, none)]


def _units(snapshot: Snapshot, streams: Sequence[Stream]) -> Clusters:
    """Sums by unit; where none is known in an epoch, each value is one of its own."""
    variant, _, metric = streams[0]
    known = snapshot.clusters.get((variant, metric), _NO_UNITS)
    totals = dict(known.totals)
    for stream in streams:
        if stream[1] not in totals:
            values = snapshot.samples.get(stream, Moments())
            totals[stream[1]] = CoMoments(values.n, values.mean - known.origin, 1.0, values.m2)
    return replace(known, totals=totals)


def _names(streams: _Streams) -> tuple[str, str]:
    if not streams:
        return "", ""
    (variant_a, _, _), (variant_b, _, _) = streams[0]
    return variant_a, variant_b


def _values(
    snapshot: Snapshot, streams: _Streams
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    none = np.empty(0)
    return [(snapshot.values.get(a, none), snapshot.values.get(b, none)) for a, b in streams] or [
        (none, none)
    ]


def _of_values(
    known: Evidence,
    contrasts: Sequence[Contrast],
    snapshot: Snapshot,
    streams: _Streams,
    influences: Influences,
) -> Evidence:
    """What is not told from sums, with the values' dependence counted."""
    contrast = combined(contrasts)
    n = [part.n if part.variance >= 0.0 else 0.0 for part in contrasts]
    if not contrast.variance > 0.0:
        return replace(known, contrast=contrast, effective=contrast)
    weights = [part / sum(n) for part in n] if streams else []
    inflation, n_units = inflation_by_unit(snapshot, streams, weights, influences)
    share = 1.0 / inflation
    if known.metric.kind != "sharpe":  # whose error counts the order of the returns already
        share = min(share, known.order_a.share, known.order_b.share)
    return replace(
        known,
        contrast=contrast,
        effective=discounted(contrast, share),
        effective_n_a=int(known.a.n * share),
        effective_n_b=int(known.b.n * share),
        n_units_a=n_units[0],
        n_units_b=n_units[1],
    )


def size_of(contrast: Contrast) -> float:
    """The difference itself, where it is its own size; NaN while it is not known."""
    return math.nan if math.isnan(contrast.variance) else contrast.difference


def _standardised(contrast: Contrast) -> float:
    """The difference in standard deviations of one value, from the error and what it rests on."""
    variance = contrast.variance * contrast.n / 4.0
    return contrast.difference / math.sqrt(variance) if variance > 0.0 else math.nan


def _d_of_superiority(contrast: Contrast) -> float:
    """Cohen's d of two normal variables of which one exceeds the other so often.

    Source:
        McGraw and Wong (1992), Psychological Bulletin 111, 361-365.
    """
    if math.isnan(contrast.variance):
        return math.nan
    return math.sqrt(2.0) * float(special.ndtri(contrast.mean_b))
