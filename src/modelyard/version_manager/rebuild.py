"""A lost database made again from manifests and the history's documents."""

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select, text

from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import IntegrityError, ModelyardError, StorageError
from modelyard._core.ids import checked_name
from modelyard.storage import Store, is_sound, open_store, write_snapshot
from modelyard.storage import tables as t
from modelyard.storage.sealed import unsealed
from modelyard.version_manager import history, manifests, verification
from modelyard.version_manager.environment import current_user
from modelyard.version_manager.records import Problem, RebuildReport
from modelyard.version_manager.replaying import Numbers, adopt, insert_version, replay

# The snapshot that says that the database has been compared with the files.
_REGISTRY, _FILES = "registry", "files"
_MANIFEST = re.compile(r"([^/]+)/(\1_v\d{8}_\d{6}(?:_\d+)?)/manifest\.json")
_EVENT = re.compile(r"([^/]+)/history/(\d+)-[0-9a-f]+\.json")


def settle(store: Store) -> None:
    """See to it that database and files belong together; once for each database.

    A database that is new must find no versions in the files. One that was brought here from a
    form without manifests and events gets them written.

    Raises:
        StorageError: The database is new and the files are not; says how to restore it.
    """
    with store.database.reading() as connection:
        if _is_settled(connection):
            return
    with store.database.writing() as connection:
        if _is_settled(connection):
            return
        if not _is_empty(connection):
            verification.write_documents(connection, store)
        elif name := _first_manifest(store):
            raise StorageError(
                f"The database knows no version, but {store.path_of(name)!r} is there: it was "
                "lost, or another one is meant. `modelyard versions rebuild` restores it from "
                "the manifests; nothing was changed."
            )
        _mark_settled(connection)


def rebuild(store: Store, *, now: datetime, actor: str) -> RebuildReport:
    """Take every version that has a manifest but no row into the database.

    Into an empty database the history goes too: tags, attachments, aliases and removals are as
    they were. Into one that knows versions already, the others are adopted with their tags and
    attachments; aliases stay where the database has them, and come back where it has none.
    """
    found = _Found(store)
    with store.database.writing() as connection:
        is_empty = _is_empty(connection) and _has_no_history(connection)
        known = set(connection.execute(select(t.version.c.version_id)).scalars())
        missing = [m for m in found.manifests if m["version_id"] not in known]
        if is_empty and found.problems and not missing:
            # Nothing can be restored yet: the next try must find the history where it is.
            connection.rollback()
            return {"versions": [], "n_events": 0, "problems": found.problems}
        numbers = Numbers(missing, found.events) if is_empty else Numbers([], [])
        saves = [
            insert_version(connection, store, manifest, numbers)
            for manifest in sorted(missing, key=numbers.place_of)
        ]
        # Saves without a number come last: no event to come may have the one they are given.
        last = [save for save in saves if is_empty and "seq" not in save]
        for save in saves:
            if save not in last:
                connection.execute(insert(t.audit), save)
        if is_empty:
            n_events = replay(connection, numbers)
        else:
            n_events = adopt(connection, store, found.events, missing, now=now, actor=actor)
        for save in last:
            connection.execute(insert(t.audit), save)
        for manifest in missing:
            if manifest["version_id"] not in numbers.kept:
                # Its row has a new number, and a manifest tells its version's.
                manifests.write(store, manifests.from_database(connection, manifest["version_id"]))
        _set_counters(connection)
        if not _is_settled(connection):
            _mark_settled(connection)
    restored = [manifest["version_id"] for manifest in missing]
    return {"versions": restored, "n_events": n_events, "problems": found.problems}


def rebuild_registry(
    base_dir: str | Path = "models",
    *,
    database_url: str | None = None,
    storage_url: str | None = None,
    clock: Clock | None = None,
    actor: str | None = None,
) -> RebuildReport:
    """Restore a registry whose database was lost or damaged, from its manifests.

    A damaged `registry.db` is moved aside, never deleted. The arguments are the manager's.

    Raises:
        StorageError: The place cannot be opened or written.
    """
    now = (clock or SystemClock()).now()
    if database_url is None:
        _move_damaged(Path(base_dir) / "registry.db", f"{now:%Y%m%d_%H%M%S}")
    store = open_store(base_dir, database_url=database_url, storage_url=storage_url)
    try:
        return rebuild(store, now=now, actor=actor or current_user())
    finally:
        store.close()


def _move_damaged(file: Path, at: str) -> None:
    """Rename a SQLite database that cannot be read, with the files that belong to it."""
    if not file.exists() or is_sound(file):
        return
    for suffix in ("", "-wal", "-shm"):
        part = file.with_name(file.name + suffix)
        if part.exists():
            part.rename(file.with_name(f"{file.name}.damaged-{at}{suffix}"))


class _Found:
    """Manifests and events that can be read, in order; and problems with the others."""

    def __init__(self, store: Store) -> None:
        self.manifests: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.problems: list[Problem] = []
        names = sorted(entry.name for entry in store.documents.entries())
        for name in names:
            if found := _MANIFEST.fullmatch(name):
                self._take(store, name, self._take_manifest, found[2])
            elif _EVENT.fullmatch(name):
                self._take(store, name, self._take_event, None)
        # Those of the first schema have no number; their id tells the second.
        self.manifests.sort(key=lambda m: (m.get("seq") or 0, m["created_at"], m["version_id"]))
        self.events.sort(key=lambda event: (event["seq"], event["at"]))

    def _take(
        self,
        store: Store,
        name: str,
        take: Callable[[Store, str, dict[str, Any]], None],
        version_id: str | None,
    ) -> None:
        try:
            data = store.documents.read(name, fresh=True) or b""
            content = unsealed(data, where=store.path_of(name), needs_seal=b'"checksum"' in data)
            take(store, name, content)
        except (IntegrityError, AttributeError, KeyError, TypeError, ValueError) as error:
            self.problems.append(
                {"version_id": version_id, "problem": _explained(error), "is_repaired": False}
            )

    def _take_manifest(self, store: Store, name: str, manifest: dict[str, Any]) -> None:
        if manifests.manifest_name(manifest["model_name"], manifest["version_id"]) != name:
            raise IntegrityError(f"{store.path_of(name)!r} is the manifest of another version.")
        is_sealed = manifest["format"] != manifests.FIRST_FORMAT
        manifests.read(
            store,
            manifest["model_name"],
            manifest["version_id"],
            stored_format=manifests.FORMAT if is_sealed else manifests.FIRST_FORMAT,
        )
        manifests.check_told(manifest)
        for file in manifest["files"].values():
            manifests.check_part(file)
            if not store.blobs.has(file["blake3"]):
                raise IntegrityError(
                    f"{store.path_of(name)!r} names the blob {file['blake3']}, which is gone."
                )
        self.manifests.append(manifest)

    def _take_event(self, store: Store, name: str, event: dict[str, Any]) -> None:
        if history.document(event)[0] != name:
            raise IntegrityError(f"{store.path_of(name)!r} is the document of another event.")
        detail = event["detail"]
        if event["action"] == "attach" and "blake3" in detail:
            manifests.check_part(detail)
        if event["action"] in {"tag", "untag"}:
            checked_name(detail["tag"], what="tag")
        event = {column.name: event[column.name] for column in t.audit.columns}
        self.events.append(event)


def _set_counters(connection: Connection) -> None:
    """Let PostgreSQL number on from the highest; SQLite does so by itself."""
    if connection.dialect.name != "postgresql":
        return
    for table in ("version", "audit"):
        connection.execute(
            text(
                f"SELECT setval(pg_get_serial_sequence('{table}', 'seq'), "  # noqa: S608 - names of ours
                f"GREATEST((SELECT COALESCE(MAX(seq), 1) FROM {table}), 1))"
            )
        )


def _is_settled(connection: Connection) -> bool:
    row = t.snapshot.c
    query = select(row.name).where(row.kind == _REGISTRY, row.name == _FILES)
    return connection.execute(query).first() is not None


def _mark_settled(connection: Connection) -> None:
    write_snapshot(connection, _REGISTRY, _FILES, {}, at="")


def _is_empty(connection: Connection) -> bool:
    return connection.execute(select(t.version.c.seq).limit(1)).first() is None


def _has_no_history(connection: Connection) -> bool:
    return connection.execute(select(t.audit.c.seq).limit(1)).first() is None


def _first_manifest(store: Store) -> str | None:
    entries = store.documents.entries()
    return next((entry.name for entry in entries if _MANIFEST.fullmatch(entry.name)), None)


def _explained(error: Exception) -> str:
    return str(error) if isinstance(error, ModelyardError) else f"It lacks {error}."
