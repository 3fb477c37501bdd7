"""Looking at every byte of what is stored, and putting right what the database can tell."""

import contextlib
from collections.abc import Iterable
from pathlib import Path

from blake3 import blake3
from sqlalchemy import Connection, select

from modelyard._core.errors import IntegrityError, StorageError
from modelyard.storage import Store
from modelyard.storage import tables as t
from modelyard.version_manager import history, manifests, saving
from modelyard.version_manager.payloads import writes
from modelyard.version_manager.records import AuditRecord, Problem, VerifyReport, Version


def verify(
    connection: Connection,
    store: Store,
    versions: Iterable[Version],
    events: Iterable[AuditRecord],
    *,
    repair: bool,
) -> VerifyReport:
    """Read and hash every file of these versions and of the history.

    Args:
        connection: Open on the store.
        store: Where the files are.
        versions: Which to look at.
        events: Events whose documents to look at.
        repair: Write manifests, links and documents anew where they are gone or damaged, and
            blobs where the version's folder still has their bytes. Other weights can be put right
            from a backup only. A sound manifest that differs from the database is left alone.
    """
    problems: list[Problem] = []
    n_versions = n_bytes = 0
    for version in versions:
        n_versions += 1
        n_bytes += _check_parts(connection, store, version, problems, repair=repair)
        problems += _check_manifest(connection, store, version, repair=repair)
    for event in events:
        problems += _check_event(store, event, repair=repair)
    return {"n_versions": n_versions, "n_bytes": n_bytes, "problems": problems}


def write_documents(connection: Connection, store: Store) -> None:
    """Write every manifest and event anew, as after a migration from a form without them."""
    for version_id in connection.execute(_WITH_BYTES).scalars().all():
        manifests.write(store, manifests.from_database(connection, version_id))
    for row in connection.execute(select(t.audit).order_by(t.audit.c.seq)).mappings():
        if history.has_document(row["action"]):
            store.documents.write(*history.document(dict(row)))


_WITH_BYTES = select(t.version.c.version_id).where(
    t.version.c.version_id.in_(select(t.artifact.c.version_id))
)


def _check_parts(
    connection: Connection,
    store: Store,
    version: Version,
    problems: list[Problem],
    *,
    repair: bool,
) -> int:
    """Bytes of a version's files; what is wrong with them is added to `problems`."""
    version_id = version["version_id"]
    folder = store.folder / manifests.folder_name(version["model_name"], version_id)
    n_bytes = 0
    for part in manifests.parts_of(connection, version_id, kinds=manifests.PARTS):
        name = manifests.file_name(part["kind"], part["name"])
        is_sound = True
        try:
            store.blobs.check(part["blake3"])
        except StorageError as error:
            is_sound = repair and _came_back(store, folder, name, part["blake3"])
            problems.append(_problem(version_id, f"{name}: {error}", is_repaired=is_sound))
        # Attachments have no file there; of a damaged blob there is nothing to show.
        if is_sound and part["kind"] != "attachment":
            problems += _check_link(store, version, name, part["blake3"], repair=repair)
        n_bytes += part["size_bytes"]
    return n_bytes


def _check_link(
    store: Store, version: Version, name: str, digest: str, *, repair: bool
) -> list[Problem]:
    """Look at the file that people and other tools see at `version["path"]`."""
    file = f"{manifests.folder_name(version['model_name'], version['version_id'])}/{name}"
    if store.blobs.is_linked(digest, store.folder / file):
        return []
    is_repaired = repair
    if repair:
        try:
            store.blobs.link(digest, store.folder / file)
        except StorageError:
            is_repaired = False
    problem = f"{store.path_of(file)!r} is gone or damaged; the blob it shows is sound."
    return [_problem(version["version_id"], problem, is_repaired=is_repaired)]


def _came_back(store: Store, folder: Path, name: str, digest: str) -> bool:
    """Whether a lost or damaged blob could be made again from the file people see."""
    path = folder / name
    if store.url is not None or not path.is_file():
        return False
    data = path.read_bytes()
    if blake3(data).hexdigest() != digest:
        return False
    store.blobs.put(writes(data))
    store.blobs.sync([digest])
    return True


def _check_manifest(
    connection: Connection, store: Store, version: Version, *, repair: bool
) -> list[Problem]:
    model_name, version_id = version["model_name"], version["version_id"]
    expected = manifests.from_database(connection, version_id)
    name = store.path_of(manifests.manifest_name(model_name, version_id))
    can_repair = True
    try:
        found = manifests.read(
            store, model_name, version_id, stored_format=version["format"], fresh=True
        )
        if found is None:
            problem = f"{name!r} is gone."
        elif odd := sorted(k for k in expected if found.get(k) != expected[k] and k in found):
            problem = f"{name!r} differs from the database in: {', '.join(odd)}."
            if _is_sealed(store, version):
                # The manifest is as it was written: the database must not be written over it.
                can_repair = False
                problem += f" {manifests.WAY_OUT}"
        else:
            return []
    except IntegrityError as error:
        problem = str(error)
    if repair and can_repair:
        manifests.write(store, expected)
        with contextlib.suppress(StorageError):  # of a blob that is lost; told already
            saving.link_files(store, expected)
    return [_problem(version_id, problem, is_repaired=repair and can_repair)]


def _is_sealed(store: Store, version: Version) -> bool:
    """Whether the manifest carries its checksum; those of the first form need not."""
    try:
        manifests.read(store, version["model_name"], version["version_id"], fresh=True)
    except IntegrityError:
        return False
    return True


def _check_event(store: Store, event: AuditRecord, *, repair: bool) -> list[Problem]:
    if not history.has_document(event["action"]):
        return []
    name, content = history.document(event)
    found = store.documents.read(name, fresh=True)
    if found == content:
        return []
    problem = f"{store.path_of(name)!r} is gone."
    if found is not None:
        problem = f"{store.path_of(name)!r} is damaged: expected {content!r}, found {found!r}."
    if repair:
        store.documents.write(name, content)
    return [_problem(event["version_id"], problem, is_repaired=repair)]


def _problem(version_id: str | None, problem: str, *, is_repaired: bool = False) -> Problem:
    return {"version_id": version_id, "problem": problem, "is_repaired": is_repaired}
