"""Which versions are needed by what: nothing of that is removed."""

from collections.abc import Iterable

from sqlalchemy import Connection, bindparam, select

from modelyard.storage import tables as t

_KEPT_PRODUCTIONS = 4  # the present one and the three before it
_MODELS_IN_PRODUCTION = select(t.alias.c.model_name).where(t.alias.c.alias == t.PRODUCTION)
_MOVES_OF_PRODUCTION = (
    select(t.audit.c.version_id)
    .where(t.audit.c.model_name == bindparam("model_name"), t.audit.c.alias == t.PRODUCTION)
    .where(t.audit.c.action != "drop_alias")
    .order_by(t.audit.c.seq.desc())
)


def needs_of(connection: Connection, *, now_s: float) -> dict[str, list[str]]:
    """Why versions may not be removed, by id: rollouts, ways back, lineage, leases.

    Args:
        connection: Open on the store.
        now_s: The time (Unix), for leases.
    """
    found: dict[str, list[str]] = {}
    for version_id, reason in (
        *_rollouts(connection),
        *_last_productions(connection),
        *_parents(connection),
        *_leases(connection, now_s),
    ):
        found.setdefault(version_id, []).append(reason)
    return found


_Needs = Iterable[tuple[str, str]]


def _rollouts(connection: Connection) -> _Needs:
    r = t.rollout.c
    running = select(r.rollout_id, r.old_version_id, r.new_version_id).where(
        r.status.in_(t.UNFINISHED_ROLLOUTS)
    )
    for row in connection.execute(running):
        for version_id in (row.old_version_id, row.new_version_id):
            if version_id is not None:
                yield version_id, f"rollout {row.rollout_id} moves traffic to or from it"


def _parents(connection: Connection) -> _Needs:
    line, v = t.lineage.c, t.version.c
    living = (
        select(line.parent_id, line.version_id)
        .join(t.version, v.version_id == line.version_id)
        .where(v.removed_at.is_(None))
    )
    for row in connection.execute(living):
        yield row.parent_id, f"{row.version_id} was made from it"


def _leases(connection: Connection, now_s: float) -> _Needs:
    row = t.lease.c
    held = select(row.version_id, row.holder).where(
        row.version_id.is_not(None), row.expires_at_s > now_s
    )
    for lease in connection.execute(held):
        yield lease.version_id, f"{lease.holder} holds it"


def _last_productions(connection: Connection) -> _Needs:
    """The last versions of each model that were production: where a rollback may go."""
    for name in connection.execute(_MODELS_IN_PRODUCTION).scalars().all():
        known: list[str] = []
        for version_id in connection.execute(_MOVES_OF_PRODUCTION, {"model_name": name}).scalars():
            if version_id is not None and version_id not in known:
                known.append(version_id)
                yield version_id, "a rollback may go to it: it was production"
            if len(known) == _KEPT_PRODUCTIONS:
                break


def ancestors(connection: Connection, version_id: str) -> set[str]:
    """Ids of every version that `version_id` was made from, however far back."""
    line = t.lineage.c
    found: set[str] = set()
    frontier = {version_id}
    while frontier:
        query = select(line.parent_id).where(line.version_id.in_(frontier))
        frontier = set(connection.execute(query).scalars()) - found
        found |= frontier
    return found
