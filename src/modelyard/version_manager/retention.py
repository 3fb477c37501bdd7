"""Which versions may go: a pure decision on what is known about each."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from modelyard.version_manager.records import Version

PROTECTED_TAGS = frozenset({"production", "milestone"})
MINIMUM_AGE = timedelta(hours=24)


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """How versions are ordered when only the best are kept.

    Attributes:
        keep: How many of each model stay.
        metric: Name of the metric that ranks; None ranks by age, newest first.
        maximize: Whether a larger value is better.
    """

    keep: int
    metric: str | None = None
    maximize: bool = True


def removable(
    versions: Sequence[Version],
    ranking: Ranking,
    *,
    now: datetime,
    in_use: Iterable[str],
) -> list[str]:
    """Ids that may be removed, worst first.

    Args:
        versions: Every version of one model, newest first.
        ranking: What stays.
        now: The time.
        in_use: Ids that a rollout or another version's lineage needs.

    Returns:
        Ids outside the best `ranking.keep`, without those that are aliased, in use, tagged
        `production` or `milestone`, younger than 24 h, or lacking the metric that ranks.
    """
    ranked = _ranked(versions, ranking)
    needed = set(in_use)
    beyond = ranked[ranking.keep :]
    return [
        version["version_id"]
        for version in reversed(beyond)
        if version["version_id"] not in needed and not is_protected(version, now=now)
    ]


def is_protected(version: Version, *, now: datetime) -> bool:
    """Whether a version stays whatever its rank."""
    age = now - datetime.fromisoformat(version["datetime"])
    return (
        bool(version["aliases"])
        or not PROTECTED_TAGS.isdisjoint(version["tags"])
        or age < MINIMUM_AGE
    )


def _ranked(versions: Sequence[Version], ranking: Ranking) -> list[Version]:
    metric = ranking.metric
    if metric is None:
        return list(versions)
    sign = -1.0 if ranking.maximize else 1.0
    valued = [
        (sign * value, position, version)
        for position, version in enumerate(versions)
        if (value := version["metrics"].get(metric)) is not None
    ]
    return [version for _, _, version in sorted(valued, key=lambda item: item[:2])]
