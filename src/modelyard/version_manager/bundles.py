"""Versions as one file that another registry can take in: a tar with everything verified.

The first member, `bundle.json`, tells of every version: its manifest, its files and its tags. The
others are the blobs, each under its digest. The tar is not compressed: weights would gain nothing,
and nothing can be declared small and become large.
"""

import io
import math
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tarfile import AREGTYPE, BLOCKSIZE, REGTYPE, XHDTYPE
from typing import IO, Any

from sqlalchemy import Connection

from modelyard._core.errors import ConflictError, InputError, IntegrityError, ModelyardError
from modelyard._core.files import replacing
from modelyard._core.ids import timestamp_of
from modelyard.storage import BlobRef, Store
from modelyard.storage.hashing import CHUNK_BYTES
from modelyard.storage.sealed import sealed, unsealed
from modelyard.version_manager import catalog, facts, manifests, returning, saving
from modelyard.version_manager.history import IMPORT
from modelyard.version_manager.saving import StoredPart

FORMAT = "modelyard-bundle-1"
_CONTENTS = "bundle.json"
_MOST_CONTENTS_BYTES = 64 << 20
_BLOB = re.compile(r"blobs/([0-9a-f]{64})")
_SIZE = re.compile(rb"\d+ size=\d+\n")  # how a tar tells of files of 8 GiB and more


def write_bundle(
    connection: Connection, store: Store, version_ids: Sequence[str], path: Path
) -> None:
    """Write versions to a tar; it appears whole or not at all.

    Raises:
        IntegrityError: A file of theirs is damaged.
    """
    versions = [_told(connection, version_id) for version_id in version_ids]
    contents = sealed({"format": FORMAT, "versions": versions})
    files = {f["blake3"]: f for version in versions for f in version["parts"]}
    with replacing(path) as temporary, tarfile.open(temporary, "w") as tar:
        _add(tar, _CONTENTS, len(contents), io.BytesIO(contents))
        for digest in sorted(files):
            with store.blobs.open_verified(digest).open("rb") as file:
                _add(tar, f"blobs/{digest}", files[digest]["size_bytes"], file)


class _PlainHeader(tarfile.TarInfo):
    """The header of a file, looked at before tarfile reads the rest of it.

    There are headers for long names, links and holes whose bodies tarfile reads whole, however
    long they say they are. No bundle has them.
    """

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> "_PlainHeader":
        """The next header.

        Raises:
            InputError: It is none of a file.
        """
        file: Any = tarfile.fileobj
        start = file.tell()
        header = cls.frombuf(file.read(BLOCKSIZE), tarfile.encoding or "utf-8", tarfile.errors)
        if header.type == XHDTYPE:
            body = file.read(header.size) if 0 < header.size <= BLOCKSIZE else b""
            is_plain = _SIZE.fullmatch(body) is not None
        else:
            is_plain = header.type in {REGTYPE, AREGTYPE} and header.size >= 0
        if not is_plain:
            raise InputError(
                f"A bundle may not hold {header.name!r} of the type {header.type!r} and "
                f"{header.size} bytes, which is no file of its versions. Nothing was imported."
            )
        file.seek(start)
        return super().fromtarfile(tarfile)


@dataclass(frozen=True)
class Bundle:
    """A bundle whose blobs are stored already, every one verified.

    Attributes:
        versions: What is told of each, parents before those made from them.
        refs: The blobs by digest.
    """

    versions: list[dict[str, Any]]
    refs: dict[str, BlobRef]


def read_bundle(store: Store, path: Path) -> Bundle:
    """Check a bundle and store its blobs; they belong to no version yet.

    Raises:
        InputError: It is no bundle, or holds what none may hold: a link, a folder, a name that
            climbs, a file nobody asked for.
        IntegrityError: A file of it has other bytes than it says, or is missing.
    """
    try:
        with tarfile.open(path, "r:", tarinfo=_PlainHeader) as tar:
            members = iter(tar)
            contents = _contents(tar, next(members, None), path)
            sizes = _sizes(contents, path)
            refs = dict(_stored(store, tar, members, sizes, path))
    except (tarfile.TarError, EOFError, OSError, ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, ModelyardError):
            raise
        raise InputError(f"{str(path)!r} cannot be read as a bundle: {error}") from error
    if missing := sorted(sizes.keys() - refs.keys()):
        raise IntegrityError(f"{str(path)!r} lacks {len(missing)} files, {missing[0]} first.")
    return Bundle(contents["versions"], refs)


def insert_bundle(
    connection: Connection,
    store: Store,
    bundle: Bundle,
    written: list[str],
    *,
    now: datetime,
    actor: str,
    rename: bool,
) -> dict[str, str]:
    """Make a bundle's versions versions of this registry; the id each has here.

    One that is here already is left as it is, or restored if it is removed.

    Inside one transaction: all of them or none. Folders that are written are added to `written`,
    for the caller to take away if the transaction fails.

    Raises:
        ConflictError: An id is taken by another version, and `rename` is not set.
    """
    ids: dict[str, str] = {}
    for told in bundle.versions:
        manifest = told["manifest"]
        version_id = manifest["version_id"]
        parts = [_part(bundle.refs, part) for part in told["parts"]]
        if returning.is_here(connection, manifest):
            ids[version_id] = version_id
            returning.bring_back(
                connection, store, version_id, parts, written, now=now, actor=actor
            )
            continue
        ids[version_id] = _id_here(connection, store, manifest, rename=rename)
        said = _facts(manifest, tags=told["tags"], ids=ids)
        written.append(manifests.folder_name(said.model_name, ids[version_id]))
        saving.insert_version(
            connection,
            store,
            said,
            module := [part for part in parts if part.kind != "attachment"],
            new := saving.unknown(connection, module),
            version_id=ids[version_id],
            made_at=datetime.fromisoformat(manifest["created_at"]),
            now=now,
            actor=actor,
            action=IMPORT,
        )
        store.blobs.sync([part.ref.digest for part in new])
        for part in parts:
            if part.kind == "attachment":
                version = catalog.find(connection, ids[version_id])
                saving.attach(connection, store, version, part, now=now, actor=actor)
    return ids


def _told(connection: Connection, version_id: str) -> dict[str, Any]:
    version = catalog.find(connection, version_id)
    return {
        "manifest": manifests.from_database(connection, version_id),
        "tags": version["tags"],
        "parts": manifests.parts_of(connection, version_id, kinds=manifests.PARTS),
    }


def _add(tar: tarfile.TarFile, name: str, size: int, file: IO[bytes]) -> None:
    # Nothing of the machine it was made on: no owner, no time.
    member = tarfile.TarInfo(name)
    member.size = size
    member.mode = 0o644
    tar.addfile(member, file)


def _contents(tar: tarfile.TarFile, member: tarfile.TarInfo | None, path: Path) -> dict[str, Any]:
    if member is None or member.name != _CONTENTS or not member.isreg():
        raise InputError(f"{str(path)!r} is no bundle: its first file is not {_CONTENTS!r}.")
    if member.size > _MOST_CONTENTS_BYTES:
        raise InputError(
            f"{str(path)!r} is no bundle: {_CONTENTS} of {member.size} bytes is too large."
        )
    data = _reader(tar, member).read()
    contents = unsealed(data, where=f"{path}:{_CONTENTS}")
    if contents.get("format") != FORMAT:
        raise InputError(
            f"{str(path)!r} has the format {contents.get('format')!r}; this modelyard reads "
            f"{FORMAT!r}."
        )
    return contents


def _sizes(contents: Mapping[str, Any], path: Path) -> dict[str, int]:
    """Size by digest of the blobs there must be; names are checked on the way."""
    sizes: dict[str, int] = {}
    try:
        for told in contents["versions"]:
            manifests.check_told(told["manifest"])
            _facts(told["manifest"], tags=told["tags"], ids={})
            for part in told["parts"]:
                manifests.check_part(part)
                sizes[part["blake3"]] = part["size_bytes"]
            _check_agrees(told["manifest"], told["parts"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(f"{str(path)!r} is no bundle that can be read: {error}") from error
    return sizes


def _check_agrees(manifest: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a version whose files, time or environment cannot be those of one."""
    version_id = manifest["version_id"]
    names = [(part["kind"], part["name"]) for part in parts]
    if ("model", saving.WEIGHTS) not in names or len(set(names)) < len(names):
        raise ValueError(f"{version_id} has no weights, or files of the same name")
    module = {
        manifests.file_name(part["kind"], part["name"]): dict(part)
        for part in parts
        if part["kind"] != "attachment"
    }
    if module != manifest["files"]:
        raise ValueError(f"the files of {version_id} are not those of its manifest")
    made_at = datetime.fromisoformat(manifest["created_at"])
    if timestamp_of(made_at) != manifest["timestamp"]:
        raise ValueError(f"{version_id} was not made at {manifest['created_at']}")
    if not isinstance(manifest["environment"].get("python", ""), str):
        raise TypeError(f"environment.python of {version_id} is no text")


def _stored(
    store: Store,
    tar: tarfile.TarFile,
    members: Iterator[tarfile.TarInfo],
    sizes: Mapping[str, int],
    path: Path,
) -> Iterator[tuple[str, BlobRef]]:
    for member in members:
        found = _BLOB.fullmatch(member.name)
        if found is None or not member.isreg() or member.issparse() or found[1] not in sizes:
            raise InputError(
                f"{str(path)!r} holds {member.name!r}, which is no file of its versions. "
                "Nothing was imported."
            )
        digest = found[1]
        if member.size != sizes[digest]:
            raise IntegrityError(
                f"{str(path)!r}: {member.name} is damaged: expected {sizes[digest]} bytes, found "
                f"{member.size}."
            )
        yield digest, _stored_blob(store, _reader(tar, member), digest, path)


def _stored_blob(store: Store, file: IO[bytes], digest: str, path: Path) -> BlobRef:
    def fill(writer: Any) -> None:
        while chunk := file.read(CHUNK_BYTES):
            writer.write(chunk)

    ref = store.blobs.put(fill)
    if ref.digest != digest:
        raise IntegrityError(
            f"{str(path)!r}: blobs/{digest} is damaged: found blake3 {ref.digest}. "
            "Nothing was imported."
        )
    return ref


def _reader(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    file = tar.extractfile(member)
    if file is None:
        raise InputError(f"{member.name!r} of the bundle is no file.")
    return file


def _id_here(
    connection: Connection, store: Store, manifest: Mapping[str, Any], *, rename: bool
) -> str:
    version_id: str = manifest["version_id"]
    is_taken = catalog.exists(connection, version_id)
    if rename:
        # A manifest alone is a version that a lost database knew.
        name = manifests.manifest_name(manifest["model_name"], version_id)
        if not is_taken and not store.documents.has(name):
            return version_id
        return saving.free_id(connection, store, manifest["model_name"], manifest["timestamp"])
    if is_taken:
        raise ConflictError(
            f"{version_id!r} is here already and is another version. Import with rename=True to "
            "give the bundle's a free id; nothing was imported."
        )
    return version_id


def _facts(manifest: Mapping[str, Any], *, tags: list[str], ids: Mapping[str, str]) -> facts.Facts:
    metrics, _ = facts.checked_metrics(
        {name: math.nan if value is None else value for name, value in manifest["metrics"].items()}
    )
    return facts.Facts(
        model_name=manifest["model_name"],
        metrics=metrics,
        non_finite=list(manifest["non_finite_metrics"]),
        config=facts.checked_config(manifest["config"]),
        description=manifest["description"],
        tags=facts.checked_tags(tags),
        parents=[
            (ids.get(parent["version_id"], parent["version_id"]), kind)
            for parent in manifest["parents"]
            for _, kind in facts.checked_parents([(parent["version_id"], parent["kind"])])
        ],
        class_name=manifest["class_name"],
        cannot_load_full_reason=manifest["cannot_load_full_reason"],
        signature=manifest["signature"],
        environment=manifest["environment"],
    )


def _part(refs: Mapping[str, BlobRef], part: Mapping[str, Any]) -> StoredPart:
    ref = refs[part["blake3"]]

    def gone(_: Any) -> None:
        raise IntegrityError(f"The blob {ref.digest} was collected meanwhile; import again.")

    return StoredPart(
        kind=part["kind"], name=part["name"], encoding=part["encoding"], ref=ref, fill=gone
    )
