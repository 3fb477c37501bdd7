"""A version's manifest: everything that was said at its save, as a document of its own."""

import logging
import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, select

from modelyard._core.errors import ConfigError, IntegrityError
from modelyard._core.ids import checked_name
from modelyard.storage import Store
from modelyard.storage import tables as t
from modelyard.storage.sealed import sealed, unsealed
from modelyard.torchtools.signature import checked_signature
from modelyard.version_manager.facts import checked_model_name
from modelyard.version_manager.records import Version

_logger = logging.getLogger("modelyard")
FORMAT = "modelyard-2"
FIRST_FORMAT = "modelyard-1"  # its manifests carry no checksum
MANIFEST = "manifest.json"
PARTS = ("model", "artifact", "attachment")
# What a module is made by; nothing changes it after the save.
_SETTLED = ("config", "class_name", "sha256")
WAY_OUT = (
    "The manifest has its checksum, so it is the database that was changed: put back a backup of "
    "it, or move it away and run `modelyard versions rebuild`."
)
_NO_EVENT = {"action": "save", "actor": "", "at": ""}
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST_ROWS = 1 << 62
_TYPES: dict[str, type] = {
    "config": dict,
    "description": str,
    "sha256": str,
    "size_bytes": int,
    "format": str,
    "can_load_full": bool,
    "class_name": str,
    "environment": dict,
    "metrics": dict,
    "non_finite_metrics": list,
    "tags": list,
    "parents": list,
    "files": dict,
}
_ENCODINGS = frozenset({"raw", "npy", "json", "safetensors", "tree", "module"})
_TIMESTAMP = re.compile(r"\d{8}_\d{6}")
_VERSION_ID = r"{}_v{}(?:_\d+)?"


def folder_name(model_name: str, version_id: str) -> str:
    """Name of the folder in the store that a version's files are in."""
    return f"{model_name}/{version_id}"


def manifest_name(model_name: str, version_id: str) -> str:
    """Name of a version's manifest in the store."""
    return f"{folder_name(model_name, version_id)}/{MANIFEST}"


def file_name(kind: str, name: str) -> str:
    """Name of a part's file in the version's folder."""
    return name if kind == "model" else f"{kind}s/{name}"


def manifest_of(
    row: Mapping[str, Any],
    *,
    environment: Mapping[str, Any],
    metrics: Mapping[str, float | None],
    tags: Iterable[str],
    parents: Iterable[tuple[str, str]],
    files: Iterable[Mapping[str, Any]],
    event: Mapping[str, Any],
    seqs: tuple[int, int],
) -> dict[str, Any]:
    """The manifest's content.

    Args:
        row: The version's row.
        environment: What it was saved with.
        metrics: Value by name.
        tags: Those given at save.
        parents: Id and kind of each.
        files: Kind, name, encoding, blake3, sha256 and size of each part.
        event: How it came here: `action` (save or import), `actor` and `at`.
        seqs: Number of its row, and of its save in the audit.
    """
    facts = {k: v for k, v in row.items() if k not in {"environment_digest", "removed_at", "seq"}}
    return {
        **facts,
        "seq": seqs[0],
        "audit_seq": seqs[1],
        "action": event["action"],
        "actor": event["actor"],
        "at": event["at"],
        "environment": dict(environment),
        "metrics": dict(metrics),
        "tags": list(tags),
        "parents": [{"version_id": parent, "kind": kind} for parent, kind in parents],
        "files": {file_name(file["kind"], file["name"]): dict(file) for file in files},
    }


def check_told(manifest: Mapping[str, Any]) -> None:
    """Check that names in a manifest from elsewhere are names.

    Raises:
        ConfigError: One could leave its folder, or is not of the form it must have.
        ValueError: Its time is none.
        KeyError: Something is not told.
    """
    model_name = checked_model_name(manifest["model_name"])
    version_id = checked_name(manifest["version_id"], what="version_id")
    timestamp = str(manifest["timestamp"])
    form = _VERSION_ID.format(re.escape(model_name), re.escape(timestamp))
    if not _TIMESTAMP.fullmatch(timestamp) or not re.fullmatch(form, version_id):
        raise ConfigError(f"{version_id!r} is no id of a version of {model_name!r}.")
    for key, kind in _TYPES.items():
        if not isinstance(manifest[key], kind):
            raise ConfigError(f"{key} of {version_id!r} is {manifest[key]!r}, no {kind.__name__}.")
    _check_values(manifest, version_id)
    for parent in manifest["parents"]:
        if checked_name(parent["version_id"], what="version_id") == version_id:
            raise ConfigError(f"{version_id!r} cannot be made from itself.")
    for tag in manifest["tags"]:
        checked_name(tag, what="tag")


def _check_values(manifest: Mapping[str, Any], version_id: str) -> None:
    if not isinstance(manifest["environment"].get("packages", {}), dict):
        raise ConfigError(f"environment of {version_id!r} has no packages by name.")
    if manifest["signature"] is not None:
        checked_signature(manifest["signature"])
    for name, value in manifest["metrics"].items():
        if value is not None and not (isinstance(value, int | float) and math.isfinite(value)):
            raise ConfigError(f"metrics.{name} of {version_id!r} is {value!r}, no number.")
    for key in ("seq", "audit_seq"):
        seq = manifest.get(key)
        if seq is not None and not (isinstance(seq, int) and 0 <= seq < _MOST_ROWS):
            raise ConfigError(f"{key} of {version_id!r} is {seq!r}, no number of a row.")
    if datetime.fromisoformat(manifest["created_at"]).tzinfo is None:
        raise ConfigError(f"created_at of {version_id!r} has no time zone.")


def check_part(part: Mapping[str, Any]) -> None:
    """Check that what a manifest or bundle from elsewhere tells of a file can be so.

    Raises:
        ConfigError: A kind, name, digest or size that none has.
        KeyError: Something is not told.
    """
    checked_name(part["name"], what="name")
    digests = str(part["blake3"]), str(part["sha256"])
    is_known = part["kind"] in PARTS and part["encoding"] in _ENCODINGS
    if not is_known or not all(_DIGEST.fullmatch(digest) for digest in digests):
        raise ConfigError(f"{part['name']!r} is of no known kind, or has no digest.")
    if not isinstance(part["size_bytes"], int) or part["size_bytes"] < 0:
        raise ConfigError(f"{part['name']!r} has the size {part['size_bytes']!r}.")


def write(store: Store, manifest: Mapping[str, Any]) -> None:
    """Write a manifest; durable on return."""
    name = manifest_name(manifest["model_name"], manifest["version_id"])
    store.documents.write(name, sealed(manifest))


def read(
    store: Store,
    model_name: str,
    version_id: str,
    *,
    stored_format: str = FORMAT,
    fresh: bool = False,
) -> dict[str, Any] | None:
    """A version's manifest, verified; None if there is none. `fresh`: no copy kept here.

    Raises:
        IntegrityError: It has other bytes than were written.
    """
    name = manifest_name(model_name, version_id)
    data = store.documents.read(name, fresh=fresh)
    if data is None:
        return None
    return unsealed(data, where=store.path_of(name), needs_seal=stored_format != FIRST_FORMAT)


def check(store: Store, version: Version) -> None:
    """Verify a version's manifest, and by it what the database says of how to make the module.

    One that is gone is worth a warning only. What changes after a save (tags, aliases,
    attachments) is not looked at.

    Raises:
        IntegrityError: It has other bytes than were written, or the database has other values.
    """
    model_name, version_id = version["model_name"], version["version_id"]
    found = read(store, model_name, version_id, stored_format=version["format"])
    if found is None:
        _logger.warning(
            "The manifest of %s is gone: a lost database could not be made again with it. "
            "`modelyard versions verify --repair` writes it anew.",
            version_id,
        )
        return
    with store.database.reading() as connection:
        parts = parts_of(connection, version_id, kinds=("model", "artifact"))
    files = {file_name(part["kind"], part["name"]): part for part in parts}
    told: Mapping[str, Any] = version
    stored = {**{key: told[key] for key in _SETTLED}, "files": files}
    for key, value in stored.items():
        if key in found and found[key] != value:
            raise IntegrityError(
                f"{store.path_of(manifest_name(model_name, version_id))!r} and the database "
                f"differ in {key}: expected {_other(found[key], value)!r}, found "
                f"{_other(value, found[key])!r} in the database. {WAY_OUT}"
            )


def _other(value: Any, than: Any) -> Any:
    """What is not the same in two values; of two dicts the entries."""
    if not (isinstance(value, dict) and isinstance(than, dict)):
        return value
    return {k: v for k, v in value.items() if k not in than or than[k] != v}


def from_database(connection: Connection, version_id: str) -> dict[str, Any]:
    """The manifest of a stored version, from what the database knows.

    Tags are those given at save as far as the history tells: the present ones with later events
    taken back.
    """
    row = dict(
        connection.execute(select(t.version).where(t.version.c.version_id == version_id))
        .mappings()
        .one()
    )
    environment = connection.execute(
        select(t.environment.c.facts).where(t.environment.c.digest == row["environment_digest"])
    ).scalar()
    events = connection.execute(
        select(t.audit).where(t.audit.c.version_id == version_id).order_by(t.audit.c.seq)
    ).all()
    save = next((event for event in events if event.action in {"save", "import"}), None)
    return manifest_of(
        row,
        environment=environment or {},
        metrics=dict(_pairs(connection, t.metric, "name", "value", version_id)),
        tags=_tags_at_save(connection, version_id, events),
        parents=_pairs(connection, t.lineage, "parent_id", "kind", version_id),
        files=parts_of(connection, version_id, kinds=("model", "artifact")),
        event={"action": save.action, "actor": save.actor, "at": save.at} if save else _NO_EVENT,
        seqs=(row["seq"], save.seq if save else 0),
    )


def parts_of(
    connection: Connection, version_id: str, *, kinds: Iterable[str]
) -> list[dict[str, Any]]:
    """Kind, name, encoding, digests and size of a version's parts, as manifests tell them."""
    a, b = t.artifact.c, t.blob.c
    query = (
        select(a.kind, a.name, a.encoding, a.digest.label("blake3"), b.sha256, b.size_bytes)
        .join(t.blob, b.digest == a.digest)
        .where(a.version_id == version_id, a.kind.in_(list(kinds)))
        .order_by(a.kind, a.name)
    )
    return [dict(part) for part in connection.execute(query).mappings()]


def _pairs(
    connection: Connection, table: Any, first: str, second: str, version_id: str
) -> list[tuple[Any, Any]]:
    query = select(table.c[first], table.c[second]).where(table.c.version_id == version_id)
    return [(row[0], row[1]) for row in connection.execute(query.order_by(table.c[first]))]


def _tags_at_save(connection: Connection, version_id: str, events: Iterable[Any]) -> list[str]:
    query = select(t.tag.c.tag).where(t.tag.c.version_id == version_id)
    tags = set(connection.execute(query).scalars())
    for event in reversed(list(events)):
        if event.action == "tag":
            tags.discard(event.detail["tag"])
        if event.action == "untag":
            tags.add(event.detail["tag"])
    return sorted(tags)
