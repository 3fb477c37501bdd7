"""Queries over the stored versions. Reads only; one function a question."""

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, Table, bindparam, func, select

from modelyard._core.errors import ConfigError, VersionNotFoundError
from modelyard.stats.direction import is_lower_better
from modelyard.storage import tables as t
from modelyard.version_manager.records import AuditRecord, Statistics, Version

_COLUMNS = frozenset({"timestamp", "version_id", "model_name", "size_bytes", "datetime"})


_MOST_NAMED = 500  # databases limit how many values a query may name
_IS_THERE = select(t.version.c.seq).where(t.version.c.version_id == bindparam("version_id"))
_NEWEST_ID = (
    select(t.version.c.version_id)
    .where(t.version.c.model_name == bindparam("model_name"))
    .order_by(t.version.c.seq.desc())
    .limit(1)
)


def find(connection: Connection, version_id: str, *, removed: bool = False) -> Version:
    """The version with this id.

    Args:
        connection: Open on the store.
        version_id: Its id.
        removed: Whether a removed version counts too.

    Raises:
        VersionNotFoundError: There is none; the message names the newest there is.
    """
    if not isinstance(version_id, str):
        raise ConfigError(
            f"A version id is text such as 'ppo_v20231120_120000', got {version_id!r}."
        )
    rows = connection.execute(_ONE_OF_ALL if removed else _ONE, {"version_id": version_id}).all()
    found = _with_belongings(connection, rows, [version_id])
    if not found:
        raise VersionNotFoundError(_not_found(connection, version_id))
    return found[0]


def living(connection: Connection, ids: Iterable[str]) -> dict[str, Version]:
    """Those of these versions that are there and not removed, by id."""
    v = t.version.c
    query = select(t.version).where(v.version_id.in_(list(ids)), v.removed_at.is_(None))
    return {version["version_id"]: version for version in as_versions(connection, query)}


def in_order(connection: Connection, ids: Iterable[str]) -> list[str]:
    """These ids, oldest first."""
    v = t.version.c
    query = select(v.version_id).where(v.version_id.in_(list(ids))).order_by(v.seq)
    return list(connection.execute(query).scalars())


def exists(connection: Connection, version_id: str) -> bool:
    """Whether there is, or was, a version of this id."""
    return connection.execute(_IS_THERE, {"version_id": version_id}).first() is not None


def newest_id(connection: Connection, model_name: str) -> str | None:
    """The version of a model that was saved last, removed ones included."""
    found: str | None = connection.execute(_NEWEST_ID, {"model_name": model_name}).scalar()
    return found


def listed(
    connection: Connection,
    *,
    model_name: str | None = None,
    tags: Iterable[str] = (),
    sort_by: str = "timestamp",
    ascending: bool = False,
    limit: int | None = None,
    offset: int = 0,
) -> list[Version]:
    """Versions that are not removed, filtered, sorted and cut in SQL.

    Those without the metric that sorts come last, whichever the direction.
    """
    v = t.version.c
    query = select(t.version).where(v.removed_at.is_(None))
    if model_name is not None:
        query = query.where(v.model_name == model_name)
    if wanted := set(tags):
        tag = t.tag.c
        # One query however many tags: a database takes only so many in one another.
        tagged = select(tag.version_id).where(tag.tag.in_(wanted)).group_by(tag.version_id)
        query = query.where(v.version_id.in_(tagged.having(func.count() == len(wanted))))
    in_order = functools.partial(_sorted, sort_by=sort_by, ascending=ascending)
    if limit is None and not offset:
        return as_versions(connection, query, in_order=in_order)
    # Drivers do not agree on an offset without a limit.
    return as_versions(connection, in_order(query).limit(limit).offset(offset or None))


def best(connection: Connection, model_name: str, metric: str, *, maximize: bool) -> Version:
    """The version with the best finite value of `metric`; of equals, the newest.

    Raises:
        VersionNotFoundError: No version of the model has it; the message names those there are.
    """
    query = _BEST.order_by(
        t.metric.c.value.desc() if maximize else t.metric.c.value.asc(), t.version.c.seq.desc()
    )
    rows = connection.execute(query, {"model_name": model_name, "metric": metric}).all()
    found = _with_belongings(connection, rows, [row.version_id for row in rows])
    if not found:
        raise VersionNotFoundError(_no_metric(connection, model_name, metric))
    return found[0]


def history(
    connection: Connection,
    *,
    model_name: str | None = None,
    version_id: str | None = None,
    alias: str | None = None,
) -> list[AuditRecord]:
    """Audit records, oldest first."""
    a = t.audit.c
    query = select(t.audit).order_by(a.seq)
    if alias is not None:
        query = query.where(a.alias == alias)
    if model_name is not None:
        query = query.where(a.model_name == model_name)
    if version_id is not None:
        query = query.where(a.version_id == version_id)
    return [
        AuditRecord(**row)  # type: ignore[typeddict-item]  # the columns are the keys
        for row in connection.execute(query).mappings()
    ]


def statistics(connection: Connection, model_name: str | None) -> Statistics:
    """Counts, sizes and metrics of the versions that are not removed."""
    versions = listed(connection, model_name=model_name)
    v = t.version.c
    ids = select(v.version_id).where(v.removed_at.is_(None))
    if model_name is not None:
        ids = ids.where(v.model_name == model_name)
    sizes = (
        select(t.artifact.c.digest, t.blob.c.size_bytes)
        .join(t.blob, t.blob.c.digest == t.artifact.c.digest)
        .where(t.artifact.c.version_id.in_(ids))
    )
    return {
        "total_versions": len(versions),
        "versions_by_model": _counted(version["model_name"] for version in versions),
        "total_size_bytes": _added_up(connection, sizes),
        "stored_size_bytes": _added_up(connection, sizes.distinct()),
        "metrics": _metric_statistics(versions),
        "versions_per_day": _counted(version["datetime"][:10] for version in reversed(versions)),
    }


def _added_up(connection: Connection, sizes: Select[Any]) -> int:
    size = sizes.subquery().c.size_bytes
    return int(connection.execute(select(func.coalesce(func.sum(size), 0))).scalar_one())


def as_versions(
    connection: Connection,
    query: Select[Any],
    *,
    in_order: Callable[[Select[Any]], Select[Any]] | None = None,
) -> list[Version]:
    """The versions a query over the version table selects, with all that belongs to them.

    Args:
        connection: Open on the store.
        query: Which; in which order too, unless `in_order` says.
        in_order: Sorts them. What belongs to them is found without sorting for each table anew.
    """
    sorted_query = query if in_order is None else in_order(query)
    rows = connection.execute(sorted_query.with_only_columns(*_COLUMNS_READ)).all()
    if len(rows) <= _MOST_NAMED:
        return _with_belongings(connection, rows, [row.version_id for row in rows])
    return _with_belongings(connection, rows, query.with_only_columns(t.version.c.version_id))


# In the order in which `_with_belongings` takes them apart.
_COLUMNS_READ = [
    t.version.c[name]
    for name in (
        *("version_id", "model_name", "timestamp", "created_at", "non_finite_metrics", "config"),
        *("description", "sha256", "size_bytes", "format", "can_load_full"),
        *("cannot_load_full_reason", "class_name", "signature", "environment_digest"),
    )
]


_ONE_OF_ALL = select(*_COLUMNS_READ).where(t.version.c.version_id == bindparam("version_id"))
_ONE = _ONE_OF_ALL.where(t.version.c.removed_at.is_(None))
_BEST = (
    select(*_COLUMNS_READ)
    .join(t.metric, t.metric.c.version_id == t.version.c.version_id)
    .where(t.version.c.removed_at.is_(None))
    .where(t.metric.c.model_name == bindparam("model_name"))
    .where(t.metric.c.name == bindparam("metric"), t.metric.c.value.is_not(None))
    .limit(1)
)
_HAS_METRIC = select(t.metric.c.name).where(t.metric.c.name == bindparam("metric")).limit(1)


def _with_belongings(connection: Connection, rows: Sequence[Any], ids: Any) -> list[Version]:
    """Versions from their rows, and from what other tables tell of `ids` (values or a query)."""
    metrics: dict[str, dict[str, float | None]] = {}
    for key, name, value in _belonging(connection, ids, t.metric):
        metrics.setdefault(key, {})[name] = value
    tags = _grouped(connection, ids, t.tag)
    parents = _grouped(connection, ids, t.lineage)
    aliases = _grouped(connection, ids, t.alias)
    environments = _environments(connection, {row[-1] for row in rows})
    return [
        {
            "version_id": key,
            "model_name": model_name,
            "timestamp": timestamp,
            "datetime": created_at,
            "metrics": metrics.get(key, {}),
            "non_finite_metrics": non_finite,
            "config": config,
            "description": description,
            "tags": tags.get(key, []),
            "path": f"{model_name}/{key}",
            "sha256": sha256,
            "size_bytes": size_bytes,
            "format": stored_format,
            "parents": parents.get(key, []),
            "aliases": aliases.get(key, []),
            "can_load_full": can_load_full,
            "cannot_load_full_reason": reason,
            "class_name": class_name,
            "signature": signature,
            "environment": {**environments.get(environment_digest, {})},
        }
        # Taken apart at once: looking columns up by name would take half of the time.
        for (
            key,
            model_name,
            timestamp,
            created_at,
            non_finite,
            config,
            description,
            sha256,
            size_bytes,
            stored_format,
            can_load_full,
            reason,
            class_name,
            signature,
            environment_digest,
        ) in rows
    ]


# What is told of versions from other tables: the version's id first, sorted by what comes second.
_BELONGING = {
    table: select(table.c.version_id, *columns).order_by(columns[0])
    for table, columns in (
        (t.metric, (t.metric.c.name, t.metric.c.value)),
        (t.tag, (t.tag.c.tag,)),
        (t.lineage, (t.lineage.c.parent_id,)),
        (t.alias, (t.alias.c.alias,)),
    )
}
# Made once: to build a query takes longer than to run it.
_BELONGING_TO_NAMED = {
    table: query.where(table.c.version_id.in_(bindparam("ids", expanding=True)))
    for table, query in _BELONGING.items()
}


def _belonging(connection: Connection, ids: Any, table: Table) -> Iterable[Any]:
    """Rows of another table that belong to these versions (their ids, or a query for them)."""
    if isinstance(ids, list):
        found = connection.execute(_BELONGING_TO_NAMED[table], {"ids": ids})
    else:
        found = connection.execute(_BELONGING[table].where(table.c.version_id.in_(ids)))
    return found.all()  # one by one, they take twice as long


def _grouped(connection: Connection, ids: Any, table: Table) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for version_id, value in _belonging(connection, ids, table):
        grouped.setdefault(version_id, []).append(value)
    return grouped


def _environments(connection: Connection, digests: set[str | None]) -> dict[str | None, Any]:
    if len(digests) <= _MOST_NAMED:
        found = connection.execute(_NAMED_ENVIRONMENTS, {"digests": list(digests)})
    else:
        found = connection.execute(_ENVIRONMENTS)
    return {row.digest: row.facts for row in found}


_ENVIRONMENTS = select(t.environment.c.digest, t.environment.c.facts)
_NAMED_ENVIRONMENTS = _ENVIRONMENTS.where(
    t.environment.c.digest.in_(bindparam("digests", expanding=True))
)


def _sorted(query: Select[Any], sort_by: str, *, ascending: bool) -> Select[Any]:
    v = t.version.c
    if sort_by in _COLUMNS:
        # Order in time is the database's own sequence: clocks go back.
        column: Any = v.seq if sort_by in {"timestamp", "datetime"} else v[sort_by]
        return query.order_by(column.asc() if ascending else column.desc(), v.seq.desc())
    m = t.metric.c
    name = sort_by.removeprefix("metrics.")
    joined = query.outerjoin(t.metric, (m.version_id == v.version_id) & (m.name == name))
    value = m.value.asc() if ascending else m.value.desc()
    return joined.order_by(m.value.is_(None), value, v.seq.desc())


def check_sort_key(connection: Connection, sort_by: str) -> None:
    """Refuse a sort key that is neither a column nor a metric that any version has.

    Raises:
        ConfigError: The message names the keys there are.
    """
    metric = sort_by.removeprefix("metrics.")
    if sort_by in _COLUMNS or connection.execute(_HAS_METRIC, {"metric": metric}).first():
        return
    names = set(connection.execute(select(t.metric.c.name).distinct()).scalars())
    if names:
        raise ConfigError(
            f"Cannot sort by {sort_by!r}: it is neither one of {', '.join(sorted(_COLUMNS))} "
            f"nor a metric that any version has ({', '.join(sorted(names))})."
        )


def _not_found(connection: Connection, version_id: str) -> str:
    v = t.version.c
    model_name = version_id.rpartition("_v")[0]
    known = select(v.version_id).where(v.removed_at.is_(None)).order_by(v.seq.desc()).limit(1)
    newest = (
        connection.execute(known.where(v.model_name == model_name)).scalar()
        or connection.execute(known).scalar()
    )
    removed = connection.execute(
        select(v.removed_at).where(v.version_id == version_id, v.removed_at.is_not(None))
    ).scalar()
    if removed is not None:
        return (
            f"Version {version_id!r} was removed at {removed}. "
            f"restore_version({version_id!r}) brings it back until gc() has run."
        )
    hint = f"The newest is {newest!r}; list_versions() gives all." if newest else "None is stored."
    return f"No version {version_id!r}. {hint}"


def _no_metric(connection: Connection, model_name: str, metric: str) -> str:
    v, m = t.version.c, t.metric.c
    versions = select(v.version_id).where(v.model_name == model_name, v.removed_at.is_(None))
    count = connection.execute(select(func.count()).select_from(versions.subquery())).scalar_one()
    if not count:
        models = connection.execute(
            select(v.model_name).where(v.removed_at.is_(None)).distinct()
        ).scalars()
        return f"No version of {model_name!r} is stored. Models: {', '.join(sorted(models))}."
    names = select(m.name).where(m.version_id.in_(versions), m.value.is_not(None)).distinct()
    known = ", ".join(sorted(connection.execute(names).scalars())) or "none"
    return f"No version of {model_name!r} has a finite {metric!r}. Metrics there are: {known}."


def _counted(items: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for item in items:
        counts[item] = counts.get(item, 0) + 1
    return counts


def _metric_statistics(versions: Sequence[Version]) -> dict[str, Any]:
    values: dict[str, list[tuple[float, str]]] = {}
    for version in versions:
        for name, value in version["metrics"].items():
            if value is not None:
                values.setdefault(name, []).append((value, version["version_id"]))
    return {
        name: {
            "count": len(pairs),
            "min": min(pairs)[0],
            # Each divided first: of the largest numbers there are, the sum is infinite.
            "mean": math.fsum(value / len(pairs) for value, _ in pairs),
            "max": max(pairs)[0],
            "best": _best_of(name, pairs),
        }
        for name, pairs in sorted(values.items())
    }


def _best_of(metric: str, pairs: Sequence[tuple[float, str]]) -> str:
    """Id of the best of these values."""
    pick = min if is_lower_better(metric, [value for value, _ in pairs]) else max
    return pick(pairs, key=lambda pair: pair[0])[1]


@dataclass(frozen=True)
class RemovedVersion:
    """A removed version: its id and model."""

    version_id: str
    model_name: str


def removed_before(connection: Connection, limit: str) -> list[RemovedVersion]:
    """Versions removed at or before `limit` (ISO 8601)."""
    v = t.version.c
    query = select(v.version_id, v.model_name).where(v.removed_at <= limit)
    return [RemovedVersion(*row) for row in connection.execute(query)]
