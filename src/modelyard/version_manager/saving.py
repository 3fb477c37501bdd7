"""Storing a version: bytes first, then one transaction that makes them a version."""

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from modelyard._core.errors import StorageError, VersionNotFoundError
from modelyard._core.ids import attempt_of, timestamp_of, version_id_of
from modelyard.storage import BlobRef, HashingWriter, Store
from modelyard.storage import tables as t
from modelyard.version_manager import catalog, history, manifests
from modelyard.version_manager.environment import digest_of
from modelyard.version_manager.facts import Details, Facts
from modelyard.version_manager.records import Version

_logger = logging.getLogger("modelyard")
WEIGHTS = "weights.safetensors"
DESCRIPTION = "module.pt"
EXAMPLE_INPUT = "example_input"
TRAINING_STATE = "training_state"
# Made once: SQLAlchemy finds what it compiled for a statement by the statement's own parts.
_INSERT_VERSION = insert(t.version)
_INSERT_BLOB = insert(t.blob)
_INSERT_ARTIFACT = insert(t.artifact)
_INSERT_METRIC = insert(t.metric)
_INSERT_TAG = insert(t.tag)
_INSERT_LINEAGE = insert(t.lineage)
_KNOWN_ENVIRONMENT = select(t.environment.c.digest).where(
    t.environment.c.digest == bindparam("digest")
)
_KNOWN_BLOB = select(t.blob.c.digest).where(t.blob.c.digest == bindparam("digest"))
_REPRIEVE = (
    update(t.blob)
    .where(t.blob.c.digest == bindparam("known"), t.blob.c.condemned_at.is_not(None))
    .values(condemned_at=None)
)


@dataclass(frozen=True, kw_only=True)
class StoredPart:
    """One blob of a version.

    Attributes:
        kind: "model", "artifact" or "attachment".
        name: Its name among those of its kind.
        encoding: How the bytes are to be read.
        ref: The bytes, stored already.
        fill: Writes them once more, should they have been collected meanwhile.
    """

    kind: str
    name: str
    encoding: str
    ref: BlobRef
    fill: Callable[[HashingWriter], None]


def store_version(
    store: Store, facts: Facts, parts: list[StoredPart], *, now: datetime, actor: str
) -> str:
    """Make stored blobs a version, in one transaction; its id.

    The folder with the manifest is written inside the transaction: a version that was
    acknowledged always has one, and one that was not leaves none. The blobs of one that was not
    stay: a manifest that the database does not know may name them. `gc` looks, and takes them.
    """
    written: list[str] = []
    is_complete = False
    try:
        with store.database.writing(while_waiting=lambda: _sync_early(store, parts)) as connection:
            version_id = free_id(connection, store, facts.model_name, timestamp_of(now))
            _check_parents(connection, facts.parents)
            new = unknown(connection, parts)
            written.append(manifests.folder_name(facts.model_name, version_id))
            insert_version(
                connection,
                store,
                facts,
                parts,
                new,
                version_id=version_id,
                made_at=now,
                now=now,
                actor=actor,
            )
            # After the manifest: its own sync has taken along most of what this one waits for.
            store.blobs.sync([part.ref.digest for part in new])
            is_complete = True
    except BaseException as error:
        forget_folders(store, written)
        # Only the commit can have raised: nobody else took the id, because of the manifest.
        if is_complete and isinstance(error, StorageError) and _is_stored(store, version_id):
            _logger.warning("%s is stored, although its commit raised: %s", version_id, error)
            return version_id
        if isinstance(error, OSError) and not isinstance(error, StorageError):
            raise StorageError(
                f"Cannot write {store.path_of(facts.model_name)!r}: {error}. Nothing was stored."
            ) from error
        raise
    return version_id


def _sync_early(store: Store, parts: Iterable[StoredPart]) -> None:
    """Bring blobs to the disk while others hold the write lock.

    To sync them once more with the lock held, while others wait, then takes no time.
    """
    for digest in {part.ref.digest for part in parts}:
        try:
            store.blobs.sync([digest])
        except StorageError:
            # gc may have taken what no row of the database names; it is written again then.
            if store.blobs.has(digest):
                raise


def forget_folders(store: Store, names: Iterable[str]) -> None:
    """Take away the folders of versions that did not come to be, the commit failing included.

    A commit may have raised and yet be done, as when its answer was lost: such a version keeps
    its folder. So do all while the database cannot be asked; `gc` tells of them. As long as a
    folder has its manifest, no other save takes its id.

    Args:
        store: Where they are.
        names: Folders that a transaction wrote which has failed.
    """
    folders = list(names)
    if not folders:
        return
    # Writing, to wait for the commit where a server is still at it, and to keep others out.
    with contextlib.suppress(OSError), store.database.writing() as connection:
        for name in folders:
            if not catalog.exists(connection, name.rpartition("/")[2]):
                with contextlib.suppress(OSError):
                    store.documents.remove_folder(name)


def _is_stored(store: Store, version_id: str) -> bool:
    with contextlib.suppress(StorageError), store.database.reading() as connection:
        return catalog.exists(connection, version_id)
    return False


def insert_version(
    connection: Connection,
    store: Store,
    facts: Facts,
    parts: list[StoredPart],
    new: list[StoredPart],
    *,
    version_id: str,
    made_at: datetime,
    now: datetime,
    actor: str,
    action: str = history.SAVE,
) -> None:
    """Write the rows and the folder of a version, inside a transaction.

    Whoever commits it syncs the blobs of `new` parts first.

    Args:
        connection: Open on the store.
        store: Where to.
        facts: What is said about it.
        parts: Its blobs.
        new: Those of them that are `unknown`.
        version_id: A free id.
        made_at: When it was saved first.
        now: The time.
        actor: Who saves or imports it.
        action: "save" or "import".
    """
    row = _version_row(facts, parts, version_id=version_id, made_at=made_at)
    row["environment_digest"] = environment_digest(connection, facts.environment)
    key = connection.execute(_INSERT_VERSION, row).inserted_primary_key
    add_parts(connection, store, version_id, parts, new)
    insert_details(connection, version_id, facts)
    event = history.Event(
        action=action,
        model_name=facts.model_name,
        version_id=version_id,
        at=now,
        actor=actor,
        detail={"sha256": row["sha256"]},
    )
    audit_seq = history.record(connection, store, event)
    manifest = manifests.manifest_of(
        row,
        environment=facts.environment,
        metrics=facts.metrics,
        tags=facts.tags,
        parents=facts.parents,
        files=[described(part) for part in parts],
        event={"action": action, "actor": actor, "at": now.isoformat()},
        seqs=(int(key[0]) if key is not None else 0, audit_seq),
    )
    link_files(store, manifest)
    manifests.write(store, manifest)


def link_files(store: Store, manifest: Mapping[str, Any]) -> None:
    """Show a version's files to people, in its folder beside the manifest (local stores)."""
    if store.url is None:
        name = manifests.folder_name(manifest["model_name"], manifest["version_id"])
        for file, part in manifest["files"].items():
            store.blobs.link(part["blake3"], store.folder / name / file)


def unknown(connection: Connection, parts: Iterable[StoredPart]) -> list[StoredPart]:
    """Those whose blobs no committed row knows, each blob once."""
    refs = {part.ref.digest: part for part in parts}
    return [
        part
        for digest, part in refs.items()
        if connection.execute(_KNOWN_BLOB, {"digest": digest}).first() is None
    ]


def add_parts(
    connection: Connection,
    store: Store,
    version_id: str,
    parts: list[StoredPart],
    new: list[StoredPart],
) -> None:
    """Tie blobs to a version; those that were about to be collected are kept.

    Args:
        connection: Inside a writing transaction.
        store: Where the blobs are.
        version_id: Which version.
        parts: Its blobs.
        new: Those of them that are `unknown`.
    """
    for part in new:
        if not store.blobs.has(part.ref.digest):
            # `put` found old bytes of this digest and wrote none; then gc took them. It takes
            # none now, because it would need this transaction's lock.
            if store.blobs.put(part.fill).digest != part.ref.digest:
                raise StorageError(
                    f"{part.name!r} changed while it was stored. Nothing was stored; save again "
                    "when nothing trains it."
                )
            store.blobs.start_sync(part.ref.digest)
    if new:
        connection.execute(_INSERT_BLOB, [asdict(part.ref) for part in new])
    if len(new) < len(parts):
        digests = [part.ref.digest for part in parts]
        connection.execute(_REPRIEVE, [{"known": digest} for digest in digests])
    rows = [
        {
            "version_id": version_id,
            "kind": part.kind,
            "name": part.name,
            "encoding": part.encoding,
            "digest": part.ref.digest,
        }
        for part in parts
    ]
    connection.execute(_INSERT_ARTIFACT, rows)


def attach(
    connection: Connection,
    store: Store,
    version: Version,
    part: StoredPart,
    *,
    now: datetime,
    actor: str,
) -> None:
    """Add an attachment to a version, inside a transaction; replaces one of that name."""
    row = t.artifact.c
    connection.execute(
        delete(t.artifact).where(
            row.version_id == version["version_id"],
            row.kind == "attachment",
            row.name == part.name,
        )
    )
    new = unknown(connection, [part])
    add_parts(connection, store, version["version_id"], [part], new)
    event = history.Event(
        action="attach",
        model_name=version["model_name"],
        version_id=version["version_id"],
        at=now,
        actor=actor,
        detail=described(part),
    )
    history.record(connection, store, event)
    store.blobs.sync([part.ref.digest for part in new])


def described(part: StoredPart) -> dict[str, Any]:
    """A part as manifests and the history tell of it."""
    return {
        "kind": part.kind,
        "name": part.name,
        "encoding": part.encoding,
        "blake3": part.ref.digest,
        "sha256": part.ref.sha256,
        "size_bytes": part.ref.size_bytes,
    }


def free_id(connection: Connection, store: Store, model_name: str, timestamp: str) -> str:
    """An id of this second that neither the database nor a manifest has.

    The first is looked for after that of the newest version, if that is of this second too.
    """
    attempt = 1 + attempt_of(catalog.newest_id(connection, model_name), model_name, timestamp)
    while True:
        version_id = version_id_of(model_name, timestamp, attempt)
        name = manifests.manifest_name(model_name, version_id)
        # A manifest alone is a version that a lost database knew; `rebuild` brings it back.
        if not catalog.exists(connection, version_id) and not store.documents.has(name):
            return version_id
        attempt += 1


def _check_parents(connection: Connection, parents: list[tuple[str, str]]) -> None:
    for parent_id, _ in parents:
        try:
            catalog.find(connection, parent_id, removed=True)
        except VersionNotFoundError as error:
            raise VersionNotFoundError(f"parents: {error}") from error


def environment_digest(connection: Connection, facts: Mapping[str, Any]) -> str:
    """Where the environment stands in the database; written if it is new."""
    digest = digest_of(facts)
    if connection.execute(_KNOWN_ENVIRONMENT, {"digest": digest}).first() is None:
        connection.execute(insert(t.environment), {"digest": digest, "facts": dict(facts)})
    return digest


def _version_row(
    facts: Facts, parts: list[StoredPart], *, version_id: str, made_at: datetime
) -> dict[str, Any]:
    weights = next(part.ref for part in parts if (part.kind, part.name) == ("model", WEIGHTS))
    return {
        "version_id": version_id,
        "model_name": facts.model_name,
        "timestamp": timestamp_of(made_at),
        "created_at": made_at.isoformat(),
        "config": facts.config,
        "description": facts.description,
        "sha256": weights.sha256,
        "size_bytes": weights.size_bytes,
        "format": manifests.FORMAT,
        "can_load_full": facts.cannot_load_full_reason is None,
        "cannot_load_full_reason": facts.cannot_load_full_reason,
        "class_name": facts.class_name,
        "signature": facts.signature,
        "non_finite_metrics": facts.non_finite,
    }


def insert_details(connection: Connection, version_id: str, details: Details) -> None:
    """Write metrics, tags and parents of a version."""
    name = details.model_name
    metrics = [{"name": n, "value": v, "model_name": name} for n, v in details.metrics.items()]
    parents = [{"parent_id": p, "kind": kind} for p, kind in dict(details.parents).items()]
    rows: list[tuple[Any, list[dict[str, Any]]]] = [
        (_INSERT_METRIC, metrics),
        (_INSERT_TAG, [{"tag": tag} for tag in details.tags]),
        (_INSERT_LINEAGE, parents),
    ]
    for statement, values in rows:
        if values:
            connection.execute(statement, [{"version_id": version_id, **v} for v in values])
