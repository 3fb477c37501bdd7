"""Storing a version: bytes first, then one transaction that makes them a version."""

import math
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select, update

from modelyard._core.errors import ConfigError, StorageError, VersionNotFoundError
from modelyard._core.files import write_json
from modelyard._core.ids import checked_name, timestamp_of, version_id_of
from modelyard._core.plain import to_plain
from modelyard.storage import BlobRef, BlobStore, HashingWriter, Store
from modelyard.storage import tables as t
from modelyard.version_manager import catalog

FORMAT = "modelyard-1"
WEIGHTS = "weights.safetensors"
DESCRIPTION = "module.pt"
EXAMPLE_INPUT = "example_input"
# As wide as the database's column.
_LONGEST_METRIC_NAME = 120
LINEAGE_KINDS = ("retrained", "compressed", "quantized", "distilled", "exported")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is said about a version, checked and plain."""

    model_name: str
    metrics: dict[str, float | None]
    non_finite: list[str]
    config: dict[str, Any]
    description: str
    tags: list[str]
    parents: list[tuple[str, str]]
    class_name: str
    cannot_load_full_reason: str | None
    signature: dict[str, Any] | None
    environment: dict[str, Any]


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


def checked_metrics(
    metrics: Mapping[str, Any] | None,
) -> tuple[dict[str, float | None], list[str]]:
    """Metrics as plain floats, NaN and infinities as None, and the names of those.

    Raises:
        ConfigError: A value that is no number.
    """
    plain: dict[str, float | None] = {}
    non_finite = []
    for name, raw in (metrics or {}).items():
        if len(str(name)) > _LONGEST_METRIC_NAME:
            raise ConfigError(
                f"Metric name {str(name)[:40]!r}... has {len(str(name))} characters; "
                f"{_LONGEST_METRIC_NAME} is the limit."
            )
        value = to_plain(raw, where=f"metrics.{name}")
        if not isinstance(value, int | float):
            raise ConfigError(f"metrics.{name} must be a number, got {raw!r}.")
        plain[str(name)] = float(value) if math.isfinite(value) else None
        if not math.isfinite(value):
            non_finite.append(str(name))
    return plain, non_finite


def checked_config(config: Mapping[str, Any] | None) -> dict[str, Any]:
    """`config` as plain values.

    Raises:
        ConfigError: A key holds something JSON cannot; the message names the key.
    """
    plain: dict[str, Any] = to_plain(dict(config or {}), where="config")
    _refuse_non_finite(plain, "config")
    return plain


def checked_tags(tags: Iterable[str] | None) -> list[str]:
    """Tags without repetition, in the order given.

    Raises:
        ConfigError: A single string instead of a list, or a tag with odd characters.
    """
    if isinstance(tags, str):
        raise ConfigError(f"tags must be a list such as [{tags!r}], got the string {tags!r}.")
    return list(dict.fromkeys(checked_name(tag, what="tag") for tag in tags or ()))


def checked_parents(parents: str | Iterable[str | tuple[str, str]]) -> list[tuple[str, str]]:
    """Parents as (version id, kind); the kind of a bare id is "retrained".

    Raises:
        ConfigError: An unknown kind.
    """
    if isinstance(parents, str):
        parents = [parents]
    pairs = [(item, "retrained") if isinstance(item, str) else item for item in parents]
    for _, kind in pairs:
        if kind not in LINEAGE_KINDS:
            raise ConfigError(f"Lineage kind {kind!r} is not one of {', '.join(LINEAGE_KINDS)}.")
    return pairs


def store_version(
    store: Store,
    base_dir: Path,
    facts: Facts,
    parts: list[StoredPart],
    *,
    now: datetime,
    actor: str,
) -> str:
    """Make stored blobs a version, in one transaction; its id.

    The folder with the manifest is written inside the transaction: a version that was
    acknowledged always has one, and one that was not leaves none.
    """
    with store.database.writing() as connection:
        version_id = _free_id(connection, facts.model_name, timestamp_of(now))
        _check_parents(connection, facts.parents)
        folder = base_dir / facts.model_name / version_id
        path = f"{store.url}/{facts.model_name}/{version_id}" if store.url else str(folder)
        row = _version_row(facts, parts, version_id=version_id, path=path, now=now)
        try:
            connection.execute(insert(t.version).values(**row))
            for part in parts:
                add_part(connection, store.blobs, version_id, part)
            _insert_details(connection, version_id, facts)
            record(
                connection,
                action="save",
                model_name=facts.model_name,
                version_id=version_id,
                at=now,
                actor=actor,
                detail={"sha256": row["sha256"]},
            )
            if store.url is None:
                _write_folder(store, folder, row, facts, parts)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, OSError) and not isinstance(error, StorageError):
                raise StorageError(
                    f"Cannot write {str(folder)!r}: {error}. Nothing was stored."
                ) from error
            raise
    return version_id


def add_part(connection: Connection, blobs: BlobStore, version_id: str, part: StoredPart) -> None:
    """Tie a blob to a version; one that was about to be collected is kept."""
    digest = part.ref.digest
    known = connection.execute(select(t.blob.c.digest).where(t.blob.c.digest == digest)).scalar()
    if known is None:
        if not blobs.has(digest):
            # `put` found old bytes of this digest and wrote none; then gc took them. It takes
            # none now, because it would need this transaction's lock.
            blobs.put(part.fill)
        connection.execute(
            insert(t.blob).values(
                digest=digest, sha256=part.ref.sha256, size_bytes=part.ref.size_bytes
            )
        )
    else:
        connection.execute(
            update(t.blob).where(t.blob.c.digest == digest).values(condemned_at=None)
        )
    connection.execute(
        insert(t.artifact).values(
            version_id=version_id,
            kind=part.kind,
            name=part.name,
            encoding=part.encoding,
            digest=digest,
        )
    )


def record(
    connection: Connection,
    *,
    action: str,
    model_name: str,
    version_id: str | None,
    at: datetime,
    actor: str,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Append to the audit."""
    connection.execute(
        insert(t.audit).values(
            at=at.isoformat(),
            model_name=model_name,
            version_id=version_id,
            action=action,
            actor=actor,
            detail=dict(detail or {}),
        )
    )


def _refuse_non_finite(value: Any, where: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} is {value}, which JSON cannot hold; store it as text or null.")
    if isinstance(value, dict):
        for key, item in value.items():
            _refuse_non_finite(item, f"{where}.{key}")
    if isinstance(value, list):
        for i, item in enumerate(value):
            _refuse_non_finite(item, f"{where}[{i}]")


def _free_id(connection: Connection, model_name: str, timestamp: str) -> str:
    attempt = 1
    while True:
        version_id = version_id_of(model_name, timestamp, attempt)
        taken = select(t.version.c.seq).where(t.version.c.version_id == version_id)
        if connection.execute(taken).scalar() is None:
            return version_id
        attempt += 1


def _check_parents(connection: Connection, parents: list[tuple[str, str]]) -> None:
    for parent_id, _ in parents:
        try:
            catalog.find(connection, parent_id, removed=True)
        except VersionNotFoundError as error:
            raise VersionNotFoundError(f"parents: {error}") from error


def _version_row(
    facts: Facts, parts: list[StoredPart], *, version_id: str, path: str, now: datetime
) -> dict[str, Any]:
    weights = next(part.ref for part in parts if part.name == WEIGHTS)
    return {
        "version_id": version_id,
        "model_name": facts.model_name,
        "timestamp": timestamp_of(now),
        "created_at": now.isoformat(),
        "config": facts.config,
        "description": facts.description,
        "path": path,
        "sha256": weights.sha256,
        "size_bytes": weights.size_bytes,
        "format": FORMAT,
        "can_load_full": facts.cannot_load_full_reason is None,
        "cannot_load_full_reason": facts.cannot_load_full_reason,
        "class_name": facts.class_name,
        "signature": facts.signature,
        "environment": facts.environment,
        "non_finite_metrics": facts.non_finite,
    }


def _insert_details(connection: Connection, version_id: str, facts: Facts) -> None:
    rows: list[tuple[Any, list[dict[str, Any]]]] = [
        (t.metric, [{"name": n, "value": v} for n, v in facts.metrics.items()]),
        (t.tag, [{"tag": tag} for tag in facts.tags]),
        (t.lineage, [{"parent_id": p, "kind": kind} for p, kind in dict(facts.parents).items()]),
    ]
    for table, values in rows:
        if values:
            connection.execute(insert(table), [{"version_id": version_id, **v} for v in values])


def _write_folder(
    store: Store, folder: Path, row: dict[str, Any], facts: Facts, parts: list[StoredPart]
) -> None:
    """The folder that people see: links to the files, and a manifest that says everything."""
    for part in parts:
        store.blobs.link(part.ref.digest, folder / _file_name(part))
    files = {
        _file_name(part): {
            "kind": part.kind,
            "name": part.name,
            "encoding": part.encoding,
            "blake3": part.ref.digest,
            "sha256": part.ref.sha256,
            "size_bytes": part.ref.size_bytes,
        }
        for part in parts
    }
    manifest = {
        **row,
        "metrics": facts.metrics,
        "tags": facts.tags,
        "parents": [{"version_id": parent, "kind": kind} for parent, kind in facts.parents],
        "files": files,
    }
    write_json(folder / "manifest.json", manifest)


def _file_name(part: StoredPart) -> str:
    return part.name if part.kind == "model" else f"{part.kind}s/{part.name}"
