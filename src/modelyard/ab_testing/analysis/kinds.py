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
    n_again,
    thinned,
    thinned_co,
)
from modelyard.ab_testing.analysis.evidence import Evidence
from modelyard.ab_testing.recording.snapshots import Snapshot, Stream
from modelyard.stats import significance
from modelyard.stats.comoments import CoMoments
from modelyard.stats.cuped import cuped_contrast, variance_reduction
from modelyard.stats.effects import standardised
from modelyard.stats.moments import Moments
from modelyard.stats.proportions import proportions_test
from modelyard.stats.quantile_difference import quantile_contrast
from modelyard.stats.ranks import mann_whitney, rank_contrast, rank_influences
from modelyard.stats.ratios import ratio_contrast
from modelyard.stats.sharpe import influences as sharpe_influences
from modelyard.stats.sharpe_difference import (
    sharpe_contrast,
)
from modelyard.stats.significance import Contrast, combined

# ── kinds ───────────────────────────────────────────────────────────────────────────────────────


_Streams = Sequence[tuple[Stream, Stream]]


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
    """Means less what the covariate explains. Dependence costs what it costs the plain means."""
    strata = _co(snapshot.covariates, streams)
    contrast = cuped_contrast(strata)
    plain = significance.stratified(
        [
            (snapshot.samples.get(a, Moments()), snapshot.samples.get(b, Moments()))
            for a, b in streams
        ]
    )
    share = plain.variance / found.effective.variance if plain.variance > 0.0 else 1.0
    share = min(1.0, share) if math.isfinite(share) else 1.0
    n_a, n_b = sum(a.n for a, _ in strata), sum(b.n for _, b in strata)
    std = math.sqrt((found.a.m2 + found.b.m2) / max(1, found.a.n + found.b.n - 2))
    return replace(
        found,
        contrast=contrast,
        variance_reduction=variance_reduction(strata),
        effective=discounted(contrast, share),
        effective_n_a=int(n_a * share),
        effective_n_b=int(n_b * share),
        cohens_d=standardised(contrast.difference, std) if contrast.n else math.nan,
    )


def _of_ratios(known: Evidence, snapshot: Snapshot, streams: _Streams) -> Evidence:
    strata = _co(snapshot.totals, streams)
    contrast = combined([ratio_contrast(a, b) for a, b in strata])
    standardised_by = replace(known, contrast=contrast, cohens_d=_standardised(contrast))
    by_unit = _by_unit(standardised_by, snapshot, streams)
    if by_unit is not None:
        return by_unit
    shares = known.order_a.share, known.order_b.share
    thin = [(thinned_co(a, shares[0]), thinned_co(b, shares[1])) for a, b in strata]
    return replace(
        standardised_by,
        effective=combined([ratio_contrast(a, b) for a, b in thin]),
        effective_n_a=int(sum(a.n for a, _ in strata) * shares[0]),
        effective_n_b=int(sum(b.n for _, b in strata) * shares[1]),
    )


def _by_unit(known: Evidence, snapshot: Snapshot, streams: _Streams) -> Evidence | None:
    """Means or ratios whose users, not outcomes, are independent; None if each gave one."""
    is_ratio = known.metric.kind == "ratio"
    clusters = (
        _co(snapshot.totals, streams)
        if is_ratio
        else [(_units(snapshot, a), _units(snapshot, b)) for a, b in streams]
    )
    n_values = (known.n_a, known.n_b) if is_ratio else (known.a.n, known.b.n)
    n_totals = [sum(pair[side].n for pair in clusters) for side in (0, 1)]
    n_units = [n_totals[side] - n_again(snapshot, [s[side] for s in streams]) for side in (0, 1)]
    if not any(0 < n < n_of for n, n_of in zip(n_units, n_values, strict=True)):
        return None
    apart = combined([ratio_contrast(a, b) for a, b in clusters])
    effective = combined_by_unit(clusters, snapshot, streams)
    share = apart.variance / effective.variance if effective.variance > 0.0 else 1.0
    return replace(
        known,
        effective=effective,
        effective_n_a=int(n_totals[0] * share),
        effective_n_b=int(n_totals[1] * share),
        n_units_a=n_units[0],
        n_units_b=n_units[1],
    )


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


def _units(snapshot: Snapshot, stream: Stream) -> CoMoments:
    """Sums by unit; without known units, each value is one of its own."""
    known = snapshot.totals.get(stream)
    if known is not None:
        return known
    values = snapshot.samples.get(stream, Moments())
    return CoMoments(n=values.n, mean_x=values.mean, mean_y=1.0, m2_x=values.m2)


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
    if n_units[0]:
        share = 1.0 / inflation
    elif known.metric.kind == "sharpe":  # its error counts the order of the returns already
        share = 1.0
    else:
        share = min(known.order_a.share, known.order_b.share)
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
