"""Which versions may go: a pure decision on what is known about each."""

from collections.abc import Container, Sequence
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
    needed: Container[str],
) -> list[str]:
    """Ids that may be removed, worst first.

    Args:
        versions: Every version of one model, newest first.
        ranking: What stays.
        now: The time.
        needed: Ids that something needs: a rollout, a rollback, lineage, a lease.

    Returns:
        Ids outside the best `ranking.keep`, without those that are aliased, needed, tagged
        `production` or `milestone`, younger than 24 h, or lacking the metric that ranks.
    """
    ranked = _ranked(versions, ranking)
    beyond = ranked[ranking.keep :]
    return [
        version["version_id"]
        for version in reversed(beyond)
        if version["version_id"] not in needed and not is_protected(version, now=now)
    ]


def reasons_to_keep(version: Version, needs: Sequence[str]) -> list[str]:
    """Why a version may not be removed by name, in words; its rank and age do not count.

    Args:
        version: Which.
        needs: What the registry knows to need it.
    """
    aliases = [f"the alias {alias!r} points to it" for alias in version["aliases"]]
    tags = [f"it is tagged {tag!r}" for tag in version["tags"] if tag in PROTECTED_TAGS]
    return [*aliases, *tags, *needs]


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
