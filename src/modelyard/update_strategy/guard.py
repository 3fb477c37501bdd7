"""The fast guard: which limits a version breaks, with enough samples behind it."""

from modelyard.stats.exceedance import exceedance_evidence
from modelyard.update_strategy.evidence import Evidence
from modelyard.update_strategy.settings import UpdateSettings

# The document's factors: rolled back is what has twice the limit of errors or twice the latency.
ERROR_FACTOR = 2.0
LATENCY_FACTOR = 2.0
# Evidence of 20 is reached by a model within its limit in at most one run of twenty, however
# often one looks. With this many samples the plain rate is evidence enough.
ENOUGH_EVIDENCE = 20.0
MANY_SAMPLES = 1000
# A 95th percentile of 50 values is the third largest: wait for more before it counts.
_TAIL_FACTOR = 4
# A metric near 0 has no relative change worth the name.
METRIC_FLOOR = 1e-3


def rollback_reasons(now: Evidence, baseline: Evidence, settings: UpdateSettings) -> list[str]:
    """Every limit that `now` breaks with enough samples behind it; empty when all is well.

    Args:
        now: The version that may have to go.
        baseline: What it replaced, at the same time if it still serves, else before.
        settings: The rules.
    """
    reasons = []
    if has_too_many_errors(now, settings):
        reasons.append(
            f"error rate {now.error_rate:.1%} ({now.n_errors} of {now.n}) is over "
            f"{ERROR_FACTOR:g} x {settings.error_rate_threshold:.1%}"
        )
    reasons += _latency_reasons(now, baseline, settings)
    drop = relative_drop(now, baseline, settings)
    if now.n_key_metric >= settings.step_min_samples and drop > 1 - settings.rollback_threshold:
        reasons.append(drop_sentence(drop, now, baseline, settings))
    return reasons


def has_too_many_errors(now: Evidence, settings: UpdateSettings) -> bool:
    """Whether the error rate is over twice the threshold, beyond chance.

    With fewer than 1,000 samples the plain rule would roll back every fifth good model; the
    evidence counts the same however often one looks (`stats.exceedance`).
    """
    limit = min(ERROR_FACTOR * settings.error_rate_threshold, 0.99)
    if not now.error_rate > limit:
        return False
    if now.n >= MANY_SAMPLES:
        return True
    return exceedance_evidence(now.n_errors, now.n, limit) >= ENOUGH_EVIDENCE


def relative_drop(now: Evidence, baseline: Evidence, settings: UpdateSettings) -> float:
    """How far the key metric is worse than its baseline, as part of the baseline's size.

    In the metric's own direction: a Sharpe ratio of -0.4 after -0.5 is no drop. NaN, which is
    over no limit, where either side has no value.
    """
    loss = settings.direction * (baseline.key_metric - now.key_metric)
    return loss / max(abs(baseline.key_metric), METRIC_FLOOR)


def _latency_reasons(now: Evidence, baseline: Evidence, settings: UpdateSettings) -> list[str]:
    reasons = []
    if now.n >= settings.step_min_samples:
        pairs = [("median latency", now.latency_median_ms, baseline.latency_median_ms)]
        if now.n >= _TAIL_FACTOR * settings.step_min_samples:
            pairs.append(("p95 latency", now.latency_p95_ms, baseline.latency_p95_ms))
        # NaN, where there is no baseline, is over nothing.
        reasons += [slower(*pair) for pair in pairs if is_slower(pair[1], pair[2], settings)]
    return reasons


def is_slower(now_ms: float, baseline_ms: float, settings: UpdateSettings) -> bool:
    """Whether a latency is over the factor and large enough to matter; NaN is over nothing."""
    return now_ms > LATENCY_FACTOR * baseline_ms and now_ms > settings.latency_floor_ms


def slower(what: str, now_ms: float, baseline_ms: float) -> str:
    """That a latency is over the factor, with the numbers."""
    return (
        f"{what} {now_ms:.3g} ms is over {LATENCY_FACTOR:g} x the baseline of {baseline_ms:.3g} ms"
    )


def drop_sentence(drop: float, now: Evidence, baseline: Evidence, settings: UpdateSettings) -> str:
    """That the key metric has fallen, with the numbers."""
    return (
        f"{settings.key_metric} fell from {baseline.key_metric:.4g} to {now.key_metric:.4g} "
        f"({drop:.0%}, over {now.n_key_metric} values)"
    )
