"""Which version to update to, and which have just failed: pure functions of what is known."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from modelyard.update_strategy.rollout import ABORTED, PROMOTED, ROLLED_BACK, Rollout


def best_candidate(
    versions: Sequence[Mapping[str, Any]],
    metric: str,
    *,
    direction: float,
    production: str | None,
    excluded: frozenset[str] = frozenset(),
) -> str | None:
    """The version best by a metric that is better than the one running; None if there is none.

    Args:
        versions: With `version_id` and `metrics`, newest first; of equals the newest is taken.
        metric: By which.
        direction: 1 where more is better, -1 where less is.
        production: The version that runs; one without the metric is beaten by any that has it.
        excluded: Versions that may not be chosen.
    """
    values = {}
    for version in versions:
        value = version["metrics"].get(metric)
        if isinstance(value, int | float) and math.isfinite(value):
            values[version["version_id"]] = direction * float(value)
    at_least = values.get(production or "", -math.inf)
    found = [
        (value, version_id)
        for version_id, value in values.items()
        if value > at_least and version_id != production and version_id not in excluded
    ]
    return max(found, key=lambda item: item[0])[1] if found else None


def has_just_failed(
    rollouts: Sequence[Rollout], *, now: datetime, within_hours: float
) -> frozenset[str]:
    """Versions whose last rollout was rolled back not long ago, by itself or by hand afterwards.

    Args:
        rollouts: Newest first.
        now: The moment.
        within_hours: How long ago.
    """
    failed_at: dict[str, datetime | None] = {}
    for rollout in rollouts:
        if not rollout.is_rollback:
            at = _ended(rollout) if rollout.status == ROLLED_BACK else None
            failed_at.setdefault(rollout.new_version_id, at)
        elif rollout.status == PROMOTED and rollout.old_version_id is not None:
            failed_at.setdefault(rollout.old_version_id, _ended(rollout))
    since = now - timedelta(hours=within_hours)
    return frozenset(
        version_id for version_id, at in failed_at.items() if at is not None and at >= since
    )


def consecutive_rollbacks(rollouts: Sequence[Rollout]) -> int:
    """How many rollouts in a row, newest first, ended in a rollback; aborted ones do not count.

    A rollback by hand after a promotion undoes that promotion.
    """
    n, undone = 0, 0
    for rollout in rollouts:
        if rollout.is_rollback:
            undone += 1
        elif rollout.status == ROLLED_BACK:
            n += 1
        elif rollout.status == PROMOTED and undone:
            n, undone = n + 1, undone - 1
        elif rollout.status != ABORTED:
            break
    return n


def _ended(rollout: Rollout) -> datetime:
    return datetime.fromisoformat(rollout.finished_at or rollout.started_at)
