"""Removing in two steps: a tombstone first, the bytes only after a time of grace."""

import shutil
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, delete, select, update

from modelyard._core.errors import VersionNotFoundError
from modelyard.storage import Store
from modelyard.storage import tables as t
from modelyard.version_manager import catalog
from modelyard.version_manager.saving import record


def bury(connection: Connection, ids: Iterable[str], *, at: datetime, actor: str) -> None:
    """Mark versions as removed; their bytes stay."""
    for version_id in ids:
        version = catalog.find(connection, version_id)
        connection.execute(
            update(t.version)
            .where(t.version.c.version_id == version_id)
            .values(removed_at=at.isoformat())
        )
        record(
            connection,
            action="remove",
            model_name=version["model_name"],
            version_id=version_id,
            at=at,
            actor=actor,
        )


def check_restorable(connection: Connection, version_id: str) -> None:
    """Refuse to restore a version whose bytes are gone.

    Raises:
        VersionNotFoundError: `gc` has taken them.
    """
    row = t.artifact.c
    if connection.execute(select(row.name).where(row.version_id == version_id)).first() is None:
        raise VersionNotFoundError(f"The bytes of {version_id!r} are gone: gc() has freed them.")


def collect(
    store: Store, base_dir: Path, *, now: datetime, dry_run: bool, grace_h: float
) -> list[str]:
    """Free blobs that no version needs any more; their digests.

    Versions removed longer ago than the grace time lose their files. A blob that nothing refers
    to is condemned first, and unlinked by a later run once it has been condemned for the grace
    time: a save that uses the same bytes meanwhile takes it back.
    """
    limit = (now - timedelta(hours=grace_h)).isoformat()
    if dry_run:
        with store.database.reading() as connection:
            return _unneeded(connection, limit)
    with store.database.writing() as connection:
        for version in _expired(connection, limit):
            connection.execute(
                delete(t.artifact).where(t.artifact.c.version_id == version.version_id)
            )
            shutil.rmtree(base_dir / version.model_name / version.version_id, ignore_errors=True)
        orphans = select(t.blob.c.digest).where(
            t.blob.c.digest.not_in(select(t.artifact.c.digest))
        )
        connection.execute(
            update(t.blob)
            .where(t.blob.c.digest.in_(orphans), t.blob.c.condemned_at.is_(None))
            .values(condemned_at=now.isoformat())
        )
        row = t.blob.c
        condemned = select(row.digest).where(row.condemned_at <= limit)
        freed = list(connection.execute(condemned).scalars())
        # Still inside the transaction: no save can take a blob back between this and the unlink.
        for digest in freed:
            connection.execute(delete(t.blob).where(row.digest == digest))
            store.blobs.remove(digest)
    return freed


def _expired(connection: Connection, limit: str) -> list[catalog.RemovedVersion]:
    return catalog.removed_before(connection, limit)


def _unneeded(connection: Connection, limit: str) -> list[str]:
    """Blobs that only versions removed before `limit` refer to."""
    expired = {version.version_id for version in _expired(connection, limit)}
    row = t.artifact.c
    needed: set[str] = set()
    candidates: set[str] = set()
    for artifact in connection.execute(select(row.version_id, row.digest)):
        (candidates if artifact.version_id in expired else needed).add(artifact.digest)
    return sorted(candidates - needed)
