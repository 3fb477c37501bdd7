"""Moving aliases: which version `production` means, and who moved it."""

from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from modelyard._core.errors import ConfigError, StaleRevisionError, VersionNotFoundError
from modelyard.storage import Store
from modelyard.storage import tables as t
from modelyard.version_manager import catalog
from modelyard.version_manager.history import Event, record

PRODUCTION = t.PRODUCTION


def move_alias(
    connection: Connection,
    store: Store,
    alias: str,
    version_id: str,
    *,
    model_name: str,
    action: str,
    actor: str,
    at: datetime,
    expected_version_id: str | None = None,
) -> str | None:
    """Point `alias` to `version_id` and write it to the audit; what it pointed to before.

    Args:
        connection: Inside a writing transaction.
        store: Whose.
        alias: Its name.
        version_id: A version of `model_name` that is not removed.
        model_name: The model whose alias moves.
        action: What the audit calls it: "set_alias", "rollback", "promote".
        actor: Who asked.
        at: The time.
        expected_version_id: If given, the alias must point there now.

    Raises:
        VersionNotFoundError: No such version.
        ConfigError: The version belongs to another model.
        StaleRevisionError: The alias does not point to `expected_version_id` any more.
    """
    version = catalog.find(connection, version_id)
    if version["model_name"] != model_name:
        raise ConfigError(
            f"{version_id!r} is a version of {version['model_name']!r}, not of {model_name!r}."
        )
    previous = target(connection, model_name, alias)
    if expected_version_id is not None and previous != expected_version_id:
        raise StaleRevisionError(
            f"{alias!r} of {model_name!r} points to {previous!r}, not to {expected_version_id!r}: "
            "someone moved it meanwhile. Look at get_history() and decide again."
        )
    write(connection, model_name, alias, version_id, is_new=previous is None)
    event = Event(
        action=action,
        model_name=model_name,
        version_id=version_id,
        at=at,
        actor=actor,
        detail={"alias": alias, "previous_version_id": previous},
        alias=alias,
    )
    record(connection, store, event)
    return previous


def drop_alias(
    connection: Connection, store: Store, model_name: str, alias: str, *, actor: str, at: datetime
) -> None:
    """Remove an alias; the version stays.

    Raises:
        VersionNotFoundError: There is no such alias.
    """
    previous = target(connection, model_name, alias)
    if previous is None:
        raise VersionNotFoundError(_no_alias(connection, model_name, alias))
    connection.execute(
        delete(t.alias).where(t.alias.c.model_name == model_name, t.alias.c.alias == alias)
    )
    event = Event(
        action="drop_alias",
        model_name=model_name,
        version_id=previous,
        at=at,
        actor=actor,
        detail={"alias": alias},
        alias=alias,
    )
    record(connection, store, event)


def target(connection: Connection, model_name: str, alias: str) -> str | None:
    """Id that `alias` points to, or None."""
    a = t.alias.c
    query = select(a.version_id).where(a.model_name == model_name, a.alias == alias)
    found: str | None = connection.execute(query).scalar()
    return found


def required_target(connection: Connection, model_name: str, alias: str) -> str:
    """Id that `alias` points to.

    Raises:
        VersionNotFoundError: There is no such alias; the message names those there are.
    """
    found = target(connection, model_name, alias)
    if found is None:
        raise VersionNotFoundError(_no_alias(connection, model_name, alias))
    return found


def write(
    connection: Connection, model_name: str, alias: str, version_id: str, *, is_new: bool
) -> None:
    """Write the row of an alias alone, without a word in the history."""
    a = t.alias.c
    if is_new:
        connection.execute(
            insert(t.alias).values(
                model_name=model_name, alias=alias, version_id=version_id, revision=1
            )
        )
        return
    connection.execute(
        update(t.alias)
        .where(a.model_name == model_name, a.alias == alias)
        .values(version_id=version_id, revision=a.revision + 1)
    )


def _no_alias(connection: Connection, model_name: str, alias: str) -> str:
    a = t.alias.c
    names = connection.execute(select(a.alias).where(a.model_name == model_name)).scalars()
    known = ", ".join(sorted(names)) or "none"
    return f"{model_name!r} has no alias {alias!r}. Aliases there are: {known}."
