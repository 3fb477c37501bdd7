"""Whether an update is due: pure functions of numbers and time."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from croniter import croniter

from modelyard.update_strategy.evidence import Evidence
from modelyard.update_strategy.guard import drop_sentence, is_slower, relative_drop, slower
from modelyard.update_strategy.settings import UpdateSettings
from modelyard.update_strategy.triggers import UpdateTrigger


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
                sentence=drop_sentence(drop, now, baseline, settings),
            )
        )
    if is_slower(now.latency_median_ms, baseline.latency_median_ms, settings):
        sentence = slower("median latency", now.latency_median_ms, baseline.latency_median_ms)
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
