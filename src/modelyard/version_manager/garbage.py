"""Removing in two steps: a tombstone first, the bytes only after a time of grace."""

import re
from collections.abc import Iterable
from datetime import datetime, timedelta

from sqlalchemy import Connection, delete, select, update

from modelyard._core.errors import IntegrityError, VersionNotFoundError
from modelyard.storage import Store
from modelyard.storage import tables as t
from modelyard.storage.sealed import unsealed
from modelyard.version_manager import catalog, manifests, returning
from modelyard.version_manager.history import Event, document, has_document, record
from modelyard.version_manager.records import GcReport

# A document whose write was cut off; a file in a version's folder: its model, its id.
_EVENT = re.compile(r"[^/]+/history/(\d{12})-[0-9a-f]+\.json")
_TEMPORARY = re.compile(
    r"([^/]+)/(?:history|\1_v\d{8}_\d{6}(?:_\d+)?)/(?:artifacts/)?\.[^/]+\.[0-9a-f]{8}\.tmp"
)
_LONGEST_SAVE = timedelta(hours=1)
_IN_VERSION = re.compile(r"([^/]+)/(\1_v\d{8}_\d{6}(?:_\d+)?)/.+")


def bury(
    connection: Connection, store: Store, ids: Iterable[str], *, at: datetime, actor: str
) -> None:
    """Mark versions as removed; their bytes stay."""
    for version_id in ids:
        version = catalog.find(connection, version_id)
        connection.execute(
            update(t.version)
            .where(t.version.c.version_id == version_id)
            .values(removed_at=at.isoformat())
        )
        event = Event(
            action="remove",
            model_name=version["model_name"],
            version_id=version_id,
            at=at,
            actor=actor,
        )
        record(connection, store, event)


def check_restorable(connection: Connection, version_id: str) -> None:
    """Refuse to restore a version whose bytes are gone.

    Raises:
        VersionNotFoundError: `gc` has taken them.
    """
    row = t.artifact.c
    if connection.execute(select(row.name).where(row.version_id == version_id)).first() is None:
        raise VersionNotFoundError(f"The bytes of {version_id!r} are gone: gc() has freed them.")


def collect(store: Store, *, now: datetime, dry_run: bool, grace_h: float) -> GcReport:
    """Free what no version needs any more.

    Versions removed longer ago than the grace time lose their files. A blob that nothing refers
    to is condemned first, and unlinked by a later run once it has been condemned for the grace
    time: a save that uses the same bytes meanwhile takes it back. Files of saves that were cut
    off go once they are older than the grace time and an hour, but never those a manifest names.

    Two transactions: what the first has committed can no longer be restored, and only then does
    the second unlink. Killed in between, the next run goes on.
    """
    limit = now - timedelta(hours=grace_h)
    with store.database.writing() as connection:
        versions = catalog.removed_before(connection, limit.isoformat())
        report = _condemned(connection, versions, now=now)
        if dry_run:
            _unlinked(connection, store, report, limit, now=now, dry_run=True)
            connection.rollback()
            return report
    for version in versions:
        folder = manifests.folder_name(version.model_name, version.version_id)
        store.documents.remove_folder(folder)
    with store.database.writing() as connection:
        # An import may have brought one back meanwhile.
        for version_id in catalog.living(connection, [v.version_id for v in versions]):
            returning.show(connection, store, version_id)
        _unlinked(connection, store, report, limit, now=now, dry_run=False)
    return report


def _condemned(
    connection: Connection, versions: list[catalog.RemovedVersion], *, now: datetime
) -> GcReport:
    """Take the rows of what cannot be restored any more, and condemn what that frees."""
    with_bytes = set(connection.execute(select(t.artifact.c.version_id).distinct()).scalars())
    gone = [version.version_id for version in versions if version.version_id in with_bytes]
    for version_id in gone:
        connection.execute(delete(t.artifact).where(t.artifact.c.version_id == version_id))
    b = t.blob.c
    is_new = b.digest.not_in(select(t.artifact.c.digest)), b.condemned_at.is_(None)
    newly = select(b.digest).where(*is_new).order_by(b.digest)
    condemned = list(connection.execute(newly).scalars())
    connection.execute(update(t.blob).where(*is_new).values(condemned_at=now.isoformat()))
    return {
        "versions": gone,
        "freed": [],
        "freed_bytes": 0,
        "condemned": condemned,
        "leftovers": [],
        "unknown_versions": [],
    }


def _unlinked(
    connection: Connection,
    store: Store,
    report: GcReport,
    limit: datetime,
    *,
    now: datetime,
    dry_run: bool,
) -> None:
    """Unlink what has been condemned for long enough, and what saves that were cut off left.

    Inside the transaction: no save can take a blob back between the look and the unlink.
    """
    b = t.blob.c
    is_orphan = b.digest.not_in(select(t.artifact.c.digest))
    expired = select(b.digest, b.size_bytes).where(is_orphan, b.condemned_at <= limit.isoformat())
    freed = {row.digest: row.size_bytes for row in connection.execute(expired)}
    # Somebody may be writing what is younger, whatever the grace time.
    leftovers = _Leftovers(connection, store, min(limit, now - _LONGEST_SAVE))
    report["freed"] = sorted(freed)
    # Without a grace time what is condemned is freed at once.
    report["condemned"] = [digest for digest in report["condemned"] if digest not in freed]
    report["freed_bytes"] = sum(freed.values())
    report["leftovers"] = sorted({*leftovers.blobs, *leftovers.files, *leftovers.incoming})
    report["unknown_versions"] = sorted(leftovers.unknown)
    if dry_run:
        return
    for digest in freed:
        store.blobs.remove(digest)
        connection.execute(delete(t.blob).where(b.digest == digest))
    leftovers.remove()


class _Leftovers:
    """What saves that were cut off have left, older than `limit`.

    Attributes:
        blobs: Digests that neither the database nor any manifest names.
        files: Documents: temporary ones, those in folders of versions that never came to be, and
            events that were not committed.
        incoming: Temporary files of blobs.
        unknown: Versions that have a manifest but no row: a lost database knew them.
    """

    def __init__(self, connection: Connection, store: Store, limit: datetime) -> None:
        self._store = store
        entries = list(store.documents.entries())
        known = set(connection.execute(select(t.version.c.version_id)).scalars())
        self.unknown: set[str] = set()
        named = set(connection.execute(select(t.blob.c.digest)).scalars())
        with_manifest = set()
        is_readable = True
        for entry in entries:
            found = _IN_VERSION.fullmatch(entry.name)
            if found and found[2] not in known and entry.name.endswith(f"/{manifests.MANIFEST}"):
                with_manifest.add(found[2])
                self.unknown.add(found[2])
                digests = _named_by(store, found[1], found[2])
                is_readable &= digests is not None
                named |= digests or set()
        rows = connection.execute(select(t.audit)).mappings().all()
        events = {document(dict(row))[0] for row in rows if has_document(row["action"])}
        last = max((row["seq"] for row in rows), default=0)
        for entry in entries:
            if _EVENT.fullmatch(entry.name) and entry.name not in events:
                attached = _attached_by(store, entry.name)
                is_readable &= attached is not None
                named |= attached or set()
        old = [entry.name for entry in entries if entry.modified_at <= limit]
        self.files = [
            name
            for name in old
            if _is_temporary(name)
            or _is_of_no_version(name, known | with_manifest)
            or (not self.unknown and _is_of_no_event(name, events, last))
        ]
        self.blobs = [
            blob.digest
            for blob in store.blobs.stored()
            # What a damaged manifest names cannot be told from what nobody does.
            if is_readable and blob.modified_at <= limit and blob.digest not in named
        ]
        self.incoming = [b.digest for b in store.blobs.leftovers() if b.modified_at <= limit]

    def remove(self) -> None:
        """Remove them all."""
        for name in self.files:
            self._store.documents.remove(name)
        for digest in self.blobs:
            self._store.blobs.remove(digest)
        for name in self.incoming:
            self._store.blobs.remove_leftover(name)


def _named_by(store: Store, model_name: str, version_id: str) -> set[str] | None:
    """Digests in a manifest; None if it cannot be read."""
    try:
        manifest = manifests.read(
            store, model_name, version_id, stored_format=manifests.FIRST_FORMAT
        )
        return {file["blake3"] for file in (manifest or {})["files"].values()}
    except (IntegrityError, KeyError, TypeError, AttributeError):
        return None


def _attached_by(store: Store, name: str) -> set[str] | None:
    """Digest of what an event attached, if it did; None if the event cannot be read."""
    try:
        event = unsealed(store.documents.read(name) or b"", where=name)
        return {event["detail"]["blake3"]} if event["action"] == "attach" else set()
    except (IntegrityError, KeyError, TypeError):
        return None


def _is_temporary(name: str) -> bool:
    return _TEMPORARY.fullmatch(name) is not None


def _is_of_no_version(name: str, known: set[str]) -> bool:
    found = _IN_VERSION.fullmatch(name)
    return found is not None and found[2] not in known


def _is_of_no_event(name: str, events: set[str], last: int) -> bool:
    found = _EVENT.fullmatch(name)
    # Beyond the last there may be what a lost database knew.
    return found is not None and int(found[1]) <= last and name not in events
