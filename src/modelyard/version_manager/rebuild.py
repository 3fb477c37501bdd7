"""A lost database made again from manifests and the history's documents."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, delete, insert, select, text, update

from modelyard._core.clock import Clock, SystemClock
from modelyard._core.errors import IntegrityError, ModelyardError, StorageError
from modelyard._core.ids import checked_name
from modelyard.storage import BlobRef, Store, is_sound, open_store, write_snapshot
from modelyard.storage import tables as t
from modelyard.storage.sealed import unsealed
from modelyard.version_manager import facts, history, manifests, promotion, saving, verification
from modelyard.version_manager.environment import current_user
from modelyard.version_manager.records import Problem, RebuildReport

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
        numbers = _Numbers(missing, found.events) if is_empty else _Numbers([], [])
        saves = [
            _insert(connection, store, manifest, numbers)
            for manifest in sorted(missing, key=numbers.place_of)
        ]
        # Saves without a number come last: no event to come may have the one they are given.
        last = [save for save in saves if is_empty and "seq" not in save]
        for save in saves:
            if save not in last:
                connection.execute(insert(t.audit), save)
        if is_empty:
            n_events = _replay(connection, numbers)
        else:
            n_events = _adopt(connection, store, found, missing, now=now, actor=actor)
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


class _Numbers:
    """Which saves and events keep the numbers they had.

    A number is given out twice where a process was killed before it committed, or where an older
    database was put back. Of two with one number the later was committed. The other keeps its
    version, if it is a save, under a new number; if it is an event, it was never done.

    Attributes:
        versions: Number of the row by version id.
        saves: Number in the history by version id.
        events: Those that were done, in order.
        kept: Ids of versions whose manifest tells the numbers they have now.
    """

    def __init__(self, saved: list[dict[str, Any]], events: list[dict[str, Any]]) -> None:
        rows = {m["seq"]: m["version_id"] for m in _in_time(saved, "created_at") if m.get("seq")}
        self.versions = {version_id: seq for seq, version_id in rows.items()}
        told = [
            *(
                (m.get("at") or m["created_at"], m["audit_seq"], m["version_id"], None)
                for m in saved
                if m.get("audit_seq")
            ),
            *((event["at"], event["seq"], None, event) for event in events),
        ]
        winners = {seq: (key, event) for _, seq, key, event in sorted(told, key=lambda x: x[:2])}
        self.saves = {key: seq for seq, (key, _) in winners.items() if key is not None}
        done = [(seq, event) for seq, (_, event) in winners.items() if event is not None]
        self.events = [event for _, event in sorted(done, key=lambda pair: pair[0])]
        self.kept = self.versions.keys() & self.saves.keys()

    def place_of(self, manifest: Mapping[str, Any]) -> tuple[float, str, str]:
        """Where a version comes in the order of inserting: those without a number last."""
        number = self.versions.get(manifest["version_id"], math.inf)
        return number, manifest["created_at"], manifest["version_id"]


def _in_time(told: Iterable[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    return sorted(told, key=lambda item: str(item[key]))


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


def _insert(
    connection: Connection, store: Store, manifest: Mapping[str, Any], numbers: _Numbers
) -> dict[str, Any]:
    """Write the rows of a version; the one of its save in the history is left to the caller."""
    columns = {column.name for column in t.version.columns} - {"seq"}
    row = {key: manifest[key] for key in manifest if key in columns}
    row["environment_digest"] = saving.environment_digest(connection, manifest["environment"])
    if (number := numbers.versions.get(manifest["version_id"])) is not None:
        row["seq"] = number
    connection.execute(insert(t.version), row)
    parts = [_part(file) for file in manifest["files"].values()]
    new = saving.unknown(connection, parts)
    saving.add_parts(connection, store, manifest["version_id"], parts, new)
    saving.insert_details(
        connection,
        manifest["version_id"],
        facts.Details(
            model_name=manifest["model_name"],
            metrics=manifest["metrics"],
            tags=manifest["tags"],
            parents=[(parent["version_id"], parent["kind"]) for parent in manifest["parents"]],
        ),
    )
    audit = {
        "at": manifest.get("at") or manifest["created_at"],
        "model_name": manifest["model_name"],
        "version_id": manifest["version_id"],
        "action": manifest.get("action", history.SAVE),
        "actor": manifest.get("actor", ""),
        "detail": {"sha256": manifest["sha256"]},
    }
    if (number := numbers.saves.get(manifest["version_id"])) is not None:
        audit["seq"] = number
    return audit


def _part(file: Mapping[str, Any]) -> saving.StoredPart:
    ref = BlobRef(digest=file["blake3"], sha256=file["sha256"], size_bytes=file["size_bytes"])

    def gone(_: Any) -> None:
        raise IntegrityError(f"The blob {ref.digest} is gone.")

    return saving.StoredPart(
        kind=file["kind"], name=file["name"], encoding=file["encoding"], ref=ref, fill=gone
    )


def _replay(connection: Connection, numbers: _Numbers) -> int:
    """Do every event again, and write it to the history under its number."""
    versions = set(connection.execute(select(t.version.c.version_id)).scalars())
    for event in numbers.events:
        if event["version_id"] in versions:
            _do(connection, event)
        connection.execute(insert(t.audit), event)
    return len(numbers.events)


def _adopt(
    connection: Connection,
    store: Store,
    found: _Found,
    missing: list[dict[str, Any]],
    *,
    now: datetime,
    actor: str,
) -> int:
    adopted = {manifest["version_id"]: manifest["model_name"] for manifest in missing}
    n_done = 0
    for event in found.events:
        if event["version_id"] in adopted and event["alias"] is None:
            _do(connection, event)
            # Once more, under a number that this database gives: the next loss finds it.
            again = {key: event[key] for key in event if key not in {"seq", "at"}}
            at = datetime.fromisoformat(event["at"])
            history.record(connection, store, history.Event(**again, at=at))
            n_done += 1
    for version_id, model_name in adopted.items():
        adoption = history.Event(
            action="adopt", model_name=model_name, version_id=version_id, at=now, actor=actor
        )
        history.record(connection, store, adoption)
    for (model_name, alias), version_id in _last_moves(found.events).items():
        # Only where the database has none: an alias it knows has been moved since, or never was.
        is_free = promotion.target(connection, model_name, alias) is None
        if version_id is not None and version_id in adopted and is_free:
            promotion.move_alias(
                connection,
                store,
                alias,
                version_id,
                model_name=model_name,
                action="adopt",
                actor=actor,
                at=now,
            )
            n_done += 1
    return n_done


def _last_moves(events: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], str | None]:
    """Where each alias pointed in the end; None where it was dropped."""
    moves = (event for event in events if event["alias"] is not None)
    return {
        (event["model_name"], event["alias"]): (
            None if event["action"] == "drop_alias" else event["version_id"]
        )
        for event in moves
    }


def _do(connection: Connection, event: Mapping[str, Any]) -> None:
    """What an event did to the tables."""
    version_id, detail = event["version_id"], event["detail"]
    row = t.version.c
    if event["alias"] is not None:
        _move(connection, event)
    elif event["action"] == "tag":
        if not _has_tag(connection, version_id, detail["tag"]):
            connection.execute(insert(t.tag), {"version_id": version_id, "tag": detail["tag"]})
    elif event["action"] == "untag":
        tags = t.tag.c
        connection.execute(
            delete(t.tag).where(tags.version_id == version_id, tags.tag == detail["tag"])
        )
    elif event["action"] in {"remove", "restore"}:
        at = event["at"] if event["action"] == "remove" else None
        connection.execute(
            update(t.version).where(row.version_id == version_id).values(removed_at=at)
        )
    elif event["action"] == "attach" and "blake3" in detail:  # the first schema told less
        _attach(connection, version_id, detail)


def _move(connection: Connection, event: Mapping[str, Any]) -> None:
    alias, model_name = event["alias"], event["model_name"]
    if event["action"] == "drop_alias":
        row = t.alias.c
        connection.execute(delete(t.alias).where(row.model_name == model_name, row.alias == alias))
        return
    is_new = promotion.target(connection, model_name, alias) is None
    promotion.write(connection, model_name, alias, event["version_id"], is_new=is_new)


def _has_tag(connection: Connection, version_id: str, tag: str) -> bool:
    row = t.tag.c
    query = select(row.tag).where(row.version_id == version_id, row.tag == tag)
    return connection.execute(query).first() is not None


def _attach(connection: Connection, version_id: str, detail: Mapping[str, Any]) -> None:
    row = t.artifact.c
    connection.execute(
        delete(t.artifact).where(
            row.version_id == version_id, row.kind == "attachment", row.name == detail["name"]
        )
    )
    part = _part(detail)
    known = select(t.blob.c.digest).where(t.blob.c.digest == part.ref.digest)
    if connection.execute(known).first() is None:
        blob = {"digest": part.ref.digest, "sha256": part.ref.sha256}
        connection.execute(insert(t.blob), {**blob, "size_bytes": part.ref.size_bytes})
    connection.execute(
        insert(t.artifact),
        {
            "version_id": version_id,
            "kind": part.kind,
            "name": part.name,
            "encoding": part.encoding,
            "digest": part.ref.digest,
        },
    )


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
