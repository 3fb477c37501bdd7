"""A removed version that a bundle brings again."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, update

from modelyard.storage import Store
from modelyard.storage import tables as t
from modelyard.version_manager import catalog, history, manifests, saving
from modelyard.version_manager.saving import StoredPart

# What tells one version from another where gc has taken the rows of its files.
_TELLING = ("created_at", "sha256", "size_bytes", "class_name", "config", "description", "metrics")


def is_here(connection: Connection, manifest: Mapping[str, Any]) -> bool:
    """Whether the same version is here already, removed or not: same id, same files."""
    if not catalog.exists(connection, manifest["version_id"]):
        return False
    here = manifests.from_database(connection, manifest["version_id"])
    telling = ("created_at", "files") if here["files"] else _TELLING
    return all(here[key] == manifest[key] for key in telling)


def bring_back(
    connection: Connection,
    store: Store,
    version_id: str,
    parts: list[StoredPart],
    written: list[str],
    *,
    now: datetime,
    actor: str,
) -> None:
    """Restore a version if it is removed, its files too where gc has taken them.

    Args:
        connection: Inside a writing transaction.
        store: Where to.
        version_id: One that `is_here`.
        parts: What it is made of, from the bundle.
        written: Gets its folder, if that is written.
        now: The time.
        actor: Who imports it.
    """
    if catalog.living(connection, [version_id]):
        return
    connection.execute(
        update(t.version).where(t.version.c.version_id == version_id).values(removed_at=None)
    )
    version = catalog.find(connection, version_id)
    event = history.Event(
        action="restore",
        model_name=version["model_name"],
        version_id=version_id,
        at=now,
        actor=actor,
    )
    history.record(connection, store, event)
    if manifests.parts_of(connection, version_id, kinds=manifests.PARTS):
        return
    module = [part for part in parts if part.kind != "attachment"]
    new = saving.unknown(connection, module)
    saving.add_parts(connection, store, version_id, module, new)
    written.append(manifests.folder_name(version["model_name"], version_id))
    show(connection, store, version_id)
    store.blobs.sync([part.ref.digest for part in new])
    for part in parts:
        if part.kind == "attachment":
            saving.attach(connection, store, version, part, now=now, actor=actor)


def show(connection: Connection, store: Store, version_id: str) -> None:
    """Write a version's folder anew."""
    manifest = manifests.from_database(connection, version_id)
    saving.link_files(store, manifest)
    manifests.write(store, manifest)
