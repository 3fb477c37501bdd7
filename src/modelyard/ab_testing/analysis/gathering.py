"""What the outcomes say about two variants and one metric: from a snapshot to the evidence."""

import numpy as np

from modelyard._core.chance import generator
from modelyard.ab_testing.analysis.dependence import Order, thinned
from modelyard.ab_testing.analysis.evidence import Evidence
from modelyard.ab_testing.analysis.kinds import BY_KIND, size_of
from modelyard.ab_testing.metrics import Metric
from modelyard.ab_testing.recording.snapshots import Snapshot
from modelyard.stats import significance
from modelyard.stats.effects import cohens_d
from modelyard.stats.moments import Moments, merge_all
from modelyard.stats.sharpe_difference import bootstrap_p_value, paired_sharpe_contrast

# Below the first nothing is known of a Sharpe ratio, below the second little.
_FEWEST_RETURNS, _MANY_RETURNS = 10, 250
PAIRABLE = frozenset({"mean", "proportion", "sharpe"})


def evidence_of(
    snapshot: Snapshot, variant_a: str, variant_b: str, metric: Metric, *, is_paired: bool
) -> Evidence:
    """What a snapshot says about `variant_b` against `variant_a`."""
    if is_paired:
        return _paired(snapshot, variant_a, variant_b, metric)
    return _unpaired(snapshot, variant_a, variant_b, metric)


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


def _unpaired(snapshot: Snapshot, variant_a: str, variant_b: str, metric: Metric) -> Evidence:
    name = metric.name
    streams = [((variant_a, epoch, name), (variant_b, epoch, name)) for epoch in snapshot.epochs]
    none = Moments()
    strata = [(snapshot.samples.get(a, none), snapshot.samples.get(b, none)) for a, b in streams]
    a, b = (merge_all(side) for side in zip(*strata, strict=True)) if strata else (none, none)
    is_ratio = metric.kind == "ratio"
    missing_share = snapshot.undivided_share if is_ratio else snapshot.missing_share
    order_a, order_b = (_order(snapshot, variant, name) for variant in (variant_a, variant_b))
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
        order_a=order_a,
        order_b=order_b,
        presence=[
            (snapshot.presence(variant_a, e, name), snapshot.presence(variant_b, e, name))
            for e in snapshot.epochs
        ],
        missing_share_a=missing_share(variant_a, name),
        missing_share_b=missing_share(variant_b, name),
        n_a=a.n - snapshot.without_companion.get((variant_a, name), 0),
        n_b=b.n - snapshot.without_companion.get((variant_b, name), 0),
    )
    return BY_KIND[metric.kind](known, snapshot, streams)


def _paired(snapshot: Snapshot, variant_a: str, variant_b: str, metric: Metric) -> Evidence:
    pair = snapshot.pair(variant_a, variant_b, metric.name)
    n = pair.differences.n
    order = Order.of(snapshot.correlogram_of(variant_a, variant_b, metric.name))
    means = {"mean_a": pair.a.mean, "mean_b": pair.b.mean}
    contrast = significance.paired(pair.differences, **means)
    share = order.share
    effective = significance.paired(thinned(pair.differences, share), **means)
    d = cohens_d(pair.a, pair.b)
    if metric.kind == "sharpe":
        share = 1.0
        contrast = effective = paired_sharpe_contrast(
            *snapshot.values_of_pair(variant_a, variant_b, metric.name),
            periods_per_year=metric.periods_per_year,
        )
        d = size_of(contrast)
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
        order_a=order,
        order_b=order,
        presence=(),
        missing_share_a=snapshot.missing_share(variant_a, metric.name),
        missing_share_b=snapshot.missing_share(variant_b, metric.name),
        n_a=n,
        n_b=n,
    )


def _order(snapshot: Snapshot, variant: str, metric: str) -> Order:
    return Order.of(snapshot.correlogram_of(variant, metric))


def _covariance_of_means(a: Moments, b: Moments, differences: Moments) -> float:
    n = differences.n
    if n < 2:  # noqa: PLR2004 - a variance needs two values
        return 0.0
    return (a.variance + b.variance - differences.variance) / (2.0 * n)
