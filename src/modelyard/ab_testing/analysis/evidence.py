"""What the outcomes say about two variants and one metric: a contrast, by the metric's kind."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import special

from modelyard._core.chance import generator
from modelyard.ab_testing.metrics import Metric
from modelyard.ab_testing.recording.snapshots import Snapshot, Stream
from modelyard.stats import significance
from modelyard.stats.autocorrelation import effective_share, is_autocorrelated
from modelyard.stats.comoments import CoMoments
from modelyard.stats.cuped import cuped_contrast, variance_reduction
from modelyard.stats.effects import cohens_d
from modelyard.stats.moments import Moments, merge_all
from modelyard.stats.proportions import proportions_test
from modelyard.stats.quantile_difference import quantile_contrast
from modelyard.stats.ranks import mann_whitney, rank_contrast
from modelyard.stats.ratios import ratio_contrast
from modelyard.stats.sharpe_difference import (
    bootstrap_p_value,
    paired_sharpe_contrast,
    sharpe_contrast,
)
from modelyard.stats.significance import Contrast, combined

# Below the first nothing is known of a Sharpe ratio, below the second little.
_FEWEST_RETURNS, _MANY_RETURNS = 10, 250
PAIRABLE = frozenset({"mean", "proportion", "sharpe"})


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What has been measured of `b` against `a` on one metric.

    Attributes:
        metric: Which, and of what kind.
        a: Moments of the values of `a`; those of the pairs in a paired experiment.
        b: Moments of the values of `b`.
        contrast: The difference, every outcome taken as a value of its own.
        effective: The same difference with its dependence counted: outcomes of one user, and
            values that follow one another.
        effective_n_a: Independent values that would say as much as those of `a`.
        effective_n_b: Likewise of `b`.
        single_look_p: Of the kind's own test, looked at once; None where that is the t-test of
            `contrast`.
        cohens_d: The difference in standard deviations; NaN where it cannot be known.
        covariance: Of the two means, for the error of their ratio.
        lag1_a: Autocorrelation of the stream of `a`; of the differences in a paired experiment.
        lag1_b: Autocorrelation of the stream of `b`; likewise.
        missing_share_a: Share of the values of `a` that were not finite, 0 to 1.
        missing_share_b: Share of the values of `b` that were not finite, 0 to 1.
        n_a: Values of `a` that the contrast rests on; those are left out that lack what they are
            divided by, or their covariate.
        n_b: Likewise of `b`.
        variance_reduction: Share of the variance that a covariate takes out, 0 to 1; NaN without.
        n_units_a: Users or other units behind the values of `a`; 0 where they are not known.
        n_units_b: Likewise of `b`.
    """

    metric: Metric
    a: Moments
    b: Moments
    contrast: Contrast
    effective: Contrast
    effective_n_a: int
    effective_n_b: int
    single_look_p: float | None
    cohens_d: float
    covariance: float
    lag1_a: float
    lag1_b: float
    missing_share_a: float
    missing_share_b: float
    n_a: int
    n_b: int
    variance_reduction: float = math.nan
    n_units_a: int = 0
    n_units_b: int = 0


def evidence_of(
    snapshot: Snapshot, variant_a: str, variant_b: str, metric: Metric, *, is_paired: bool
) -> Evidence:
    """What a snapshot says about `variant_b` against `variant_a`."""
    if is_paired:
        return _paired(snapshot, variant_a, variant_b, metric)
    return _unpaired(snapshot, variant_a, variant_b, metric)


def _unpaired(snapshot: Snapshot, variant_a: str, variant_b: str, metric: Metric) -> Evidence:
    name = metric.name
    streams = [((variant_a, epoch, name), (variant_b, epoch, name)) for epoch in snapshot.epochs]
    none = Moments()
    strata = [(snapshot.samples.get(a, none), snapshot.samples.get(b, none)) for a, b in streams]
    a, b = (merge_all(side) for side in zip(*strata, strict=True)) if strata else (none, none)
    lag1_a, lag1_b = (snapshot.lag1.get((v, name), 0.0) for v in (variant_a, variant_b))
    known = Evidence(
        metric=metric,
        a=a,
        b=b,
        contrast=significance.stratified(strata),
        effective=significance.stratified(strata),
        effective_n_a=a.n,
        effective_n_b=b.n,
        single_look_p=None,
        cohens_d=cohens_d(a, b),
        covariance=0.0,
        lag1_a=lag1_a,
        lag1_b=lag1_b,
        missing_share_a=snapshot.missing_share(variant_a, name),
        missing_share_b=snapshot.missing_share(variant_b, name),
        n_a=a.n - snapshot.without_companion.get((variant_a, name), 0),
        n_b=b.n - snapshot.without_companion.get((variant_b, name), 0),
    )
    return _BY_KIND[metric.kind](known, snapshot, streams)


# ── kinds ───────────────────────────────────────────────────────────────────────────────────────


_Streams = Sequence[tuple[Stream, Stream]]


def _of_means(known: Evidence, snapshot: Snapshot, streams: _Streams) -> Evidence:
    if known.metric.covariate is not None:
        return _of_adjusted_means(known, snapshot, streams)
    clusters = [(_units(snapshot, a), _units(snapshot, b)) for a, b in streams]
    if clusters and _is_clustered(known, clusters):
        return _of_clusters(known, clusters)
    share_a, share_b = _share(known.lag1_a, known.a.n), _share(known.lag1_b, known.b.n)
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


def _of_adjusted_means(known: Evidence, snapshot: Snapshot, streams: _Streams) -> Evidence:
    strata = _co(snapshot.covariates, streams)
    share_a, share_b = _share(known.lag1_a, known.a.n), _share(known.lag1_b, known.b.n)
    thin = [(_thinned_co(a, share_a), _thinned_co(b, share_b)) for a, b in strata]
    n_a, n_b = sum(a.n for a, _ in strata), sum(b.n for _, b in strata)
    return replace(
        known,
        contrast=cuped_contrast(strata),
        variance_reduction=variance_reduction(strata),
        effective=cuped_contrast(thin),
        effective_n_a=int(n_a * share_a),
        effective_n_b=int(n_b * share_b),
    )


def _of_ratios(known: Evidence, snapshot: Snapshot, streams: _Streams) -> Evidence:
    strata = _co(snapshot.totals, streams)
    n_a, n_b = sum(a.n for a, _ in strata), sum(b.n for _, b in strata)
    is_clustered = n_a + n_b < known.n_a + known.n_b
    shares = (
        (1.0, 1.0)
        if is_clustered
        else (_share(known.lag1_a, known.a.n), _share(known.lag1_b, known.b.n))
    )
    thin = [(_thinned_co(a, shares[0]), _thinned_co(b, shares[1])) for a, b in strata]
    contrast = combined([ratio_contrast(a, b) for a, b in strata])
    return replace(
        known,
        contrast=contrast,
        effective=combined([ratio_contrast(a, b) for a, b in thin]),
        effective_n_a=int(n_a * shares[0]),
        effective_n_b=int(n_b * shares[1]),
        cohens_d=_standardised(contrast),
    )


def _of_clusters(known: Evidence, clusters: Sequence[tuple[CoMoments, CoMoments]]) -> Evidence:
    """Means over outcomes whose users, not outcomes, are independent."""
    n_a, n_b = sum(a.n for a, _ in clusters), sum(b.n for _, b in clusters)
    return replace(
        known,
        effective=combined([ratio_contrast(a, b) for a, b in clusters]),
        effective_n_a=n_a,
        effective_n_b=n_b,
        n_units_a=n_a,
        n_units_b=n_b,
    )


def _of_quantiles(known: Evidence, snapshot: Snapshot, streams: _Streams) -> Evidence:
    level = known.metric.quantile
    contrasts = [quantile_contrast(a, b, level=level) for a, b in _values(snapshot, streams)]
    found = _of_values(known, contrasts)
    return replace(found, cohens_d=_standardised(found.contrast))


def _of_ranks(known: Evidence, snapshot: Snapshot, streams: _Streams) -> Evidence:
    sides = _values(snapshot, streams)
    found = _of_values(known, [rank_contrast(a, b) for a, b in sides])
    p_value = mann_whitney(*sides[0]) if len(sides) == 1 else None
    return replace(found, single_look_p=p_value, cohens_d=_d_of_superiority(found.contrast))


def _of_sharpes(known: Evidence, snapshot: Snapshot, streams: _Streams) -> Evidence:
    periods = known.metric.periods_per_year
    contrast = combined(
        [sharpe_contrast(a, b, periods_per_year=periods) for a, b in _values(snapshot, streams)]
    )
    # Its error counts the dependence already. A difference of Sharpe ratios is its own size.
    return replace(known, contrast=contrast, effective=contrast, cohens_d=_size_of(contrast))


_BY_KIND: Mapping[str, Callable[[Evidence, Snapshot, _Streams], Evidence]] = {
    "mean": _of_means,
    "proportion": _of_proportions,
    "ratio": _of_ratios,
    "quantile": _of_quantiles,
    "rank": _of_ranks,
    "sharpe": _of_sharpes,
}


def _paired(snapshot: Snapshot, variant_a: str, variant_b: str, metric: Metric) -> Evidence:
    pair = snapshot.pair(variant_a, variant_b, metric.name)
    lag1 = snapshot.lag1_of_pair(variant_a, variant_b, metric.name)
    n = pair.differences.n
    means = {"mean_a": pair.a.mean, "mean_b": pair.b.mean}
    contrast = significance.paired(pair.differences, **means)
    share = _share(lag1, n)
    effective = significance.paired(thinned(pair.differences, share), **means)
    d = cohens_d(pair.a, pair.b)
    if metric.kind == "sharpe":
        share = 1.0
        contrast = effective = paired_sharpe_contrast(
            *snapshot.values_of_pair(variant_a, variant_b, metric.name),
            periods_per_year=metric.periods_per_year,
        )
        d = _size_of(contrast)
    return Evidence(
        metric=metric,
        a=pair.a,
        b=pair.b,
        contrast=contrast,
        effective=effective,
        effective_n_a=int(n * share),
        effective_n_b=int(n * share),
        single_look_p=None,
        cohens_d=d,
        covariance=_covariance_of_means(pair.a, pair.b, pair.differences),
        lag1_a=lag1,
        lag1_b=lag1,
        missing_share_a=snapshot.missing_share(variant_a, metric.name),
        missing_share_b=snapshot.missing_share(variant_b, metric.name),
        n_a=n,
        n_b=n,
    )


def short_series_p(
    snapshot: Snapshot, variant_a: str, variant_b: str, metric: Metric, *, is_paired: bool
) -> float | None:
    """P-value of a difference of Sharpe ratios where there are few returns; None elsewhere.

    With fewer than 250 returns on a side the large-sample error is a guess; the studentized block
    bootstrap is not (Ledoit and Wolf, 2008). Several weight epochs are left to the former.
    """
    if metric.kind != "sharpe":
        return None
    if is_paired:
        sides = snapshot.values_of_pair(variant_a, variant_b, metric.name)
    else:
        none = np.empty(0)
        epochs = [e for e in snapshot.epochs if (variant_a, e, metric.name) in snapshot.values]
        if len(epochs) != 1:
            return None
        a, b = ((name, epochs[0], metric.name) for name in (variant_a, variant_b))
        sides = (snapshot.values.get(a, none), snapshot.values.get(b, none))
    if not _FEWEST_RETURNS <= min(len(side) for side in sides) < _MANY_RETURNS:
        return None
    return bootstrap_p_value(*sides, is_paired=is_paired, rng=generator(0))


# ── how ─────────────────────────────────────────────────────────────────────────────────────────


def thinned(moments: Moments, share: float) -> Moments:
    """The same mean and variance from `share` of the values: what dependent values are worth."""
    n = int(moments.n * share)
    if share >= 1.0 or moments.n < 2:  # noqa: PLR2004 - a variance needs two values
        return moments
    return Moments(n, moments.mean, moments.variance * max(0, n - 1))


def _thinned_co(sums: CoMoments, share: float) -> CoMoments:
    n = int(sums.n * share)
    if share >= 1.0 or sums.n < 2:  # noqa: PLR2004 - as above
        return sums
    scale = max(0, n - 1) / (sums.n - 1)
    return CoMoments(
        n=n,
        mean_x=sums.mean_x,
        mean_y=sums.mean_y,
        m2_x=sums.m2_x * scale,
        m2_y=sums.m2_y * scale,
        c_xy=sums.c_xy * scale,
    )


def _share(lag1: float, n: int) -> float:
    return effective_share(lag1) if is_autocorrelated(lag1, n) else 1.0


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


def _is_clustered(known: Evidence, clusters: Sequence[tuple[CoMoments, CoMoments]]) -> bool:
    """Whether some user has more than one outcome, on either side."""
    n_a, n_b = sum(a.n for a, _ in clusters), sum(b.n for _, b in clusters)
    return 0 < n_a < known.a.n or 0 < n_b < known.b.n


def _of_values(known: Evidence, contrasts: Sequence[Contrast]) -> Evidence:
    share = min(_share(known.lag1_a, known.a.n), _share(known.lag1_b, known.b.n))
    contrast = combined(contrasts)
    return replace(
        known,
        contrast=contrast,
        effective=discounted(contrast, share),
        effective_n_a=int(known.a.n * share),
        effective_n_b=int(known.b.n * share),
    )


def discounted(contrast: Contrast, share: float) -> Contrast:
    """The contrast from `share` of the information."""
    if share >= 1.0:
        return contrast
    return replace(
        contrast,
        variance=contrast.variance / share,
        df=contrast.df * share,
        n=contrast.n * share,
    )


def _standardised(contrast: Contrast) -> float:
    """The difference in standard deviations of one value, from the error and what it rests on."""
    variance = contrast.variance * contrast.n / 4.0
    return contrast.difference / math.sqrt(variance) if variance > 0.0 else math.nan


def _size_of(contrast: Contrast) -> float:
    return math.nan if math.isnan(contrast.variance) else contrast.difference


def _d_of_superiority(contrast: Contrast) -> float:
    """Cohen's d of two normal variables of which one exceeds the other so often.

    Source:
        McGraw and Wong (1992), Psychological Bulletin 111, 361-365.
    """
    if math.isnan(contrast.variance):
        return math.nan
    return math.sqrt(2.0) * float(special.ndtri(contrast.mean_b))


def _covariance_of_means(a: Moments, b: Moments, differences: Moments) -> float:
    n = differences.n
    if n < 2:  # noqa: PLR2004 - a variance needs two values
        return 0.0
    return (a.variance + b.variance - differences.variance) / (2.0 * n)
