"""When to update, when to go back, when to take the next step: pure functions of numbers."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from croniter import croniter

from modelyard.stats.exceedance import exceedance_evidence
from modelyard.update_strategy.ports import HealthLike
from modelyard.update_strategy.settings import UpdateSettings
from modelyard.update_strategy.triggers import UpdateTrigger

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


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The numbers a decision looks at; NaN where there are none.

    Attributes:
        n: Predictions in the window.
        n_errors: Failed ones among them.
        n_total: Predictions since the version began to serve in this process.
        latency_median_ms, latency_p95_ms: Of the predictions.
        key_metric: Mean of the key metric's last values.
        n_key_metric: How many values that is.
    """

    n: int = 0
    n_errors: int = 0
    n_total: int = 0
    latency_median_ms: float = math.nan
    latency_p95_ms: float = math.nan
    key_metric: float = math.nan
    n_key_metric: int = 0

    @classmethod
    def of(
        cls, health: HealthLike | None, settings: UpdateSettings, *, n_total: int | None = None
    ) -> "Evidence":
        """The numbers of a health; nothing for None. `n_total` is its window's, if not known."""
        if health is None:
            return cls()
        metric = health.metrics.get(settings.key_metric or "")
        return cls(
            n=health.n_predictions,
            n_errors=health.n_errors,
            n_total=health.n_predictions if n_total is None else n_total,
            latency_median_ms=health.latency_median_ms,
            latency_p95_ms=health.latency_p95_ms,
            key_metric=math.nan if metric is None else metric.mean,
            n_key_metric=0 if metric is None else metric.n,
        )

    @property
    def error_rate(self) -> float:
        """Share of failed predictions; NaN without any."""
        return self.n_errors / self.n if self.n else math.nan

    def to_plain(self) -> dict[str, Any]:
        """All of it as JSON values; NaN as None."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Evidence":
        """The evidence that `to_plain` described."""
        given: dict[str, Any] = {k: math.nan if v is None else v for k, v in plain.items()}
        return cls(**given)


@dataclass(frozen=True, kw_only=True)
class Due:
    """A reason to update: its trigger, and a sentence with the numbers."""

    trigger: UpdateTrigger
    sentence: str


def updates_due(
    now: Evidence,
    baseline: Evidence,
    drifts: Mapping[str, Mapping[str, Any]],
    settings: UpdateSettings,
) -> list[Due]:
    """Every reason to update that the numbers give.

    Args:
        now: The present.
        baseline: The same when all was well.
        drifts: Verdicts by what drifted ("prediction", "feature"), as the monitor gives them.
        settings: The rules.
    """
    due = []
    drop = relative_drop(now, baseline, settings)
    if now.n_key_metric >= settings.step_min_samples and drop > 1 - settings.performance_threshold:
        due.append(
            Due(
                trigger=UpdateTrigger.PERFORMANCE_DEGRADATION,
                sentence=_drop(drop, now, baseline, settings),
            )
        )
    if _is_slower(now.latency_median_ms, baseline.latency_median_ms, settings):
        sentence = _slower("median latency", now.latency_median_ms, baseline.latency_median_ms)
        due.append(Due(trigger=UpdateTrigger.PERFORMANCE_DEGRADATION, sentence=sentence))
    if now.error_rate > settings.error_rate_threshold:
        sentence = (
            f"error rate {now.error_rate:.1%} ({now.n_errors} of {now.n}) is over "
            f"{settings.error_rate_threshold:.1%}"
        )
        due.append(Due(trigger=UpdateTrigger.HIGH_ERROR_RATE, sentence=sentence))
    for what, verdict in drifts.items():
        if is_trusted_drift(verdict, settings):
            sentence = (
                f"{what} drift {verdict['drift_score']:.3f} is over "
                f"{max(verdict['effective_threshold'], settings.drift_threshold):.3f}"
            )
            due.append(Due(trigger=UpdateTrigger.DISTRIBUTION_DRIFT, sentence=sentence))
    return due


def is_trusted_drift(verdict: Mapping[str, Any], settings: UpdateSettings) -> bool:
    """Whether a drift verdict may set off an update: over the threshold, and calibrated."""
    score = verdict["drift_score"]
    is_over = (
        bool(verdict["is_drifted"]) and score is not None and score > settings.drift_threshold
    )
    return is_over and (bool(verdict["calibrated"]) or settings.allow_uncalibrated_drift)


def is_scheduled(schedule: str | None, *, since: datetime, now: datetime) -> bool:
    """Whether a moment of the cron expression lies after `since` and not after `now`."""
    if schedule is None:
        return False
    following: datetime = croniter(schedule, since).get_next(datetime)
    return following <= now


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
        reasons.append(_drop(drop, now, baseline, settings))
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


def present_of(own: Evidence, monitored: Evidence, settings: UpdateSettings) -> Evidence:
    """How production is doing, from two sources: what serves it, and the strategy's monitor.

    Each of predictions and key metric is taken from what serves it where that has
    `step_min_samples`, else from whichever has more.
    """
    enough = settings.step_min_samples
    health = own if own.n >= min(enough, monitored.n + 1) else monitored
    is_own = own.n_key_metric >= min(enough, monitored.n_key_metric + 1)
    metric = own if is_own else monitored
    return replace(health, key_metric=metric.key_metric, n_key_metric=metric.n_key_metric)


def evidence_since(now: Evidence, before: Evidence) -> Evidence:
    """What one window says of the version that took over when it said `before`.

    While the window still holds predictions of the version before, its errors are taken off and
    the other numbers lie between those of the two: compared with `before`, they tell too little
    of a change and never too much.

    Args:
        now: The window's present; `n_total` counts from the monitor's beginning.
        before: The same at the change.
    """
    n_new = now.n_total - before.n_total
    if n_new < now.n:
        n_errors = min(n_new, max(0, now.n_errors - before.n_errors))
        now = replace(now, n=n_new, n_errors=n_errors)
    if (now.key_metric, now.n_key_metric) == (before.key_metric, before.n_key_metric):
        now = replace(now, key_metric=math.nan, n_key_metric=0)
    return replace(now, n_total=n_new, n_key_metric=min(n_new, now.n_key_metric))


def reference_for(stable: Evidence, baseline: Evidence, settings: UpdateSettings) -> Evidence:
    """What a candidate is compared with: the stable version at the same time, else the baseline.

    Each of predictions and key metric counts from `step_min_samples` on.
    """
    enough = settings.step_min_samples
    reference = stable if stable.n >= enough else baseline
    metric = stable if stable.n_key_metric >= enough else baseline
    return replace(reference, key_metric=metric.key_metric, n_key_metric=metric.n_key_metric)


def earlier_productions(events: Sequence[Mapping[str, Any]], alias: str) -> list[str]:
    """The versions that were production before the present one, by the audit; newest first.

    A rollback takes back its target's successors for good, so that going back twice goes two
    back and never to a version that was fled from, until that is promoted again.

    Args:
        events: Audit records of one model, oldest first.
        alias: The alias that means production.
    """
    stack: list[str] = []
    for event in events:
        if event["detail"].get("alias") != alias or event["version_id"] is None:
            continue
        version_id = event["version_id"]
        if event["action"] == "rollback" and stack and stack[-1] != version_id:
            stack = _gone_back(stack, version_id)
        elif not stack or stack[-1] != version_id:
            stack.append(version_id)
    earlier = [version_id for version_id in reversed(stack) if version_id != stack[-1]]
    return list(dict.fromkeys(earlier))


def _gone_back(stack: Sequence[str], version_id: str) -> list[str]:
    """The stack after a rollback to a version, which may never have been on it."""
    places = [place for place, item in enumerate(stack) if item == version_id]
    kept = stack[: places[-1]] if places else stack[:-1]
    fled = {*stack[len(kept) :]} - {version_id}
    left = [*(item for item in kept if item not in fled), version_id]
    return [item for item, _ in itertools.groupby(left)]


def _latency_reasons(now: Evidence, baseline: Evidence, settings: UpdateSettings) -> list[str]:
    reasons = []
    if now.n >= settings.step_min_samples:
        pairs = [("median latency", now.latency_median_ms, baseline.latency_median_ms)]
        if now.n >= _TAIL_FACTOR * settings.step_min_samples:
            pairs.append(("p95 latency", now.latency_p95_ms, baseline.latency_p95_ms))
        # NaN, where there is no baseline, is over nothing.
        reasons += [_slower(*pair) for pair in pairs if _is_slower(pair[1], pair[2], settings)]
    return reasons


def _is_slower(now_ms: float, baseline_ms: float, settings: UpdateSettings) -> bool:
    """Whether a latency is over the factor and large enough to matter; NaN is over nothing."""
    return now_ms > LATENCY_FACTOR * baseline_ms and now_ms > settings.latency_floor_ms


def _slower(what: str, now_ms: float, baseline_ms: float) -> str:
    return (
        f"{what} {now_ms:.3g} ms is over {LATENCY_FACTOR:g} x the baseline of {baseline_ms:.3g} ms"
    )


def _drop(drop: float, now: Evidence, baseline: Evidence, settings: UpdateSettings) -> str:
    return (
        f"{settings.key_metric} fell from {baseline.key_metric:.4g} to {now.key_metric:.4g} "
        f"({drop:.0%}, over {now.n_key_metric} values)"
    )
