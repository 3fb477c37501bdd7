"""The fast guard: which limits a version breaks, with enough samples behind it."""

import math

from modelyard.stats.exceedance import exceedance_evidence
from modelyard.stats.proportions import wilson_interval
from modelyard.stats.sequential import always_valid
from modelyard.stats.significance import Contrast
from modelyard.update_strategy.evidence import Evidence, balanced_contrast, key_metric_loss
from modelyard.update_strategy.settings import UpdateSettings

# The document's factors: rolled back is what has twice the limit of errors or twice the latency.
ERROR_FACTOR = 2.0
LATENCY_FACTOR = 2.0
# Evidence of 20 is reached by a model within its limit in at most one run of twenty, however
# often one looks. With this many samples, this many standard errors are evidence enough: no more,
# because the window holds as many and is looked at all the time.
ENOUGH_EVIDENCE = 20.0
MANY_SAMPLES = 1000
ENOUGH_ERRORS = 1.645
# The 95th percentile counts with so many times the samples of a step: of two equal versions that
# both have 500 answers, one has five times as many above some value in one pair of 6,000.
TAIL_FACTOR = 10
# Always-valid intervals are narrowest at so many times the samples of a step, both sides together.
TUNED_STEPS = 4.0
# A metric near 0 has no relative change worth the name.
METRIC_FLOOR = 1e-3


def rollback_reasons(
    now: Evidence,
    baseline: Evidence,
    settings: UpdateSettings,
    *,
    at_step: tuple[Evidence, Evidence] | None = None,
    beside: Evidence | None = None,
) -> list[str]:
    """Every limit that `now` breaks with enough samples behind it; empty when all is well.

    Args:
        now: The version that may have to go.
        baseline: What it replaced, at the same time if it still serves, else before.
        settings: The rules.
        at_step: Both, over one and the same stretch of time: their latencies are compared where it
            is given, because a machine that is slow now is slow for both.
        beside: What the replaced version has done since `now` began, where it serves beside it:
            from `step_min_samples` answers on, its errors alone excuse others. An outage of
            before excuses none.
    """
    reasons = []
    has_answers = beside is not None and beside.n >= settings.step_min_samples
    if has_too_many_errors(now, beside if beside and has_answers else baseline, settings):
        reasons.append(
            f"error rate {now.error_rate:.1%} ({now.n_errors} of {now.n}) is over "
            f"{ERROR_FACTOR:g} x {settings.error_rate_threshold:.1%}"
        )
    reasons += _latency_reasons(*(at_step or (now, baseline)), settings)
    drop = relative_drop(now, baseline, settings)
    if drop > 1 - settings.rollback_threshold and is_shown_worse(now, baseline, settings):
        reasons.append(drop_sentence(drop, now, baseline, settings))
    return reasons


def has_too_many_errors(now: Evidence, baseline: Evidence, settings: UpdateSettings) -> bool:
    """Whether the error rate is over twice the threshold, and that is no chance.

    With fewer than 1,000 samples the plain rule would roll back every fifth good model; the
    evidence counts the same however often one looks (`stats.exceedance`). Over twice the threshold
    need not be proved where the baseline has few errors: more than it surely has, and
    `largest_excess` beyond, is as bad, and shows sooner.
    """
    limit = min(ERROR_FACTOR * settings.error_rate_threshold, 0.99)
    if not now.error_rate > limit:
        return False
    if now.n >= MANY_SAMPLES:
        beyond = ENOUGH_ERRORS * math.sqrt(limit * (1.0 - limit) / now.n)
        if now.error_rate > limit + beyond:
            return True
    excused = limit
    if baseline.n >= settings.step_min_samples:
        most = wilson_interval(baseline.error_rate, baseline.n).upper
        excused = min(limit, most + settings.largest_excess)
    return exceedance_evidence(now.n_errors, now.n, excused) >= ENOUGH_EVIDENCE


def is_shown_worse(now: Evidence, baseline: Evidence, settings: UpdateSettings) -> bool:
    """Whether the key metric is worse beyond chance, however often one looks.

    A mean of noisy values is a third lower now and then without any reason: the always-valid
    interval of the loss must leave out nought.
    """
    if now.n_key_metric < settings.step_min_samples:
        return False
    return _is_beyond_chance(key_metric_loss(now, baseline, settings), settings)


def relative_drop(now: Evidence, baseline: Evidence, settings: UpdateSettings) -> float:
    """How far the key metric is worse than its baseline, as part of the baseline's size.

    In the metric's own direction: a Sharpe ratio of -0.4 after -0.5 is no drop. NaN, which is
    over no limit, where either side has no value.
    """
    direction = settings.direction((now.key_metric, baseline.key_metric))
    loss = direction * (baseline.key_metric - now.key_metric)
    return loss / max(abs(baseline.key_metric), METRIC_FLOOR)


def _latency_reasons(now: Evidence, baseline: Evidence, settings: UpdateSettings) -> list[str]:
    # NaN, where there is no baseline, is over nothing.
    n, enough = min(now.n, baseline.n), settings.step_min_samples
    pairs = []
    if n >= enough and _is_shown_slower(now, baseline, settings):
        pairs.append(("median latency", now.latency_median_ms, baseline.latency_median_ms))
    # Where about one answer in twenty is slow by nature, the 95th percentile jumps to and fro
    # between the slow and the others; the 99th of the baseline then lies among its slow ones.
    if n >= TAIL_FACTOR * enough and now.latency_p95_ms > baseline.latency_p99_ms:
        pairs.append(("p95 latency", now.latency_p95_ms, baseline.latency_p95_ms))
    return [slower(*pair) for pair in pairs if is_slower(pair[1], pair[2], settings)]


def _is_shown_slower(now: Evidence, baseline: Evidence, settings: UpdateSettings) -> bool:
    """Whether the median is larger beyond chance; one whose error is not known is exact."""
    if not (now.latency_median_ms > 0.0 and baseline.latency_median_ms > 0.0):
        return now.latency_median_ms > baseline.latency_median_ms
    errors = [
        0.0 if math.isnan(side.latency_log_error) else side.latency_log_error
        for side in (now, baseline)
    ]
    difference = math.log(now.latency_median_ms / baseline.latency_median_ms)
    variance = errors[0] ** 2 + errors[1] ** 2
    return _is_beyond_chance(balanced_contrast(difference, variance, baseline.n, now.n), settings)


def _is_beyond_chance(loss: Contrast, settings: UpdateSettings) -> bool:
    """Whether an always-valid interval leaves out nought.

    At half the accepted chance: the other half is for the judgement of the steps, and the window
    forgets, so that one who is watched for long gets several chances to be blamed.
    """
    level = 1.0 - 0.5 * (1.0 - settings.confidence_level)
    n_tuned = TUNED_STEPS * settings.step_min_samples
    return always_valid(loss, n_tuned=n_tuned, confidence_level=level).interval.lower > 0.0


def is_slower(now_ms: float, baseline_ms: float, settings: UpdateSettings) -> bool:
    """Whether a latency is over the factor and large enough to matter; NaN is over nothing."""
    return now_ms > LATENCY_FACTOR * baseline_ms and now_ms > settings.latency_floor_ms


def slower(what: str, now_ms: float, baseline_ms: float) -> str:
    """That a latency is over the factor, with the numbers."""
    return (
        f"{what} {now_ms:.3g} ms is over {LATENCY_FACTOR:g} x the baseline of {baseline_ms:.3g} ms"
    )


def drop_sentence(drop: float, now: Evidence, baseline: Evidence, settings: UpdateSettings) -> str:
    """That the key metric has got worse, with the numbers."""
    worse = "fell" if now.key_metric < baseline.key_metric else "got worse: it rose"
    return (
        f"{settings.key_metric} {worse} from {baseline.key_metric:.4g} to {now.key_metric:.4g} "
        f"({drop:.0%}, over {now.n_key_metric} values)"
    )
