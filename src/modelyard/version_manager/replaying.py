"""The history's documents done again, in a database that lost them."""

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from modelyard._core.errors import IntegrityError
from modelyard.storage import BlobRef, Store
from modelyard.storage import tables as t
from modelyard.version_manager import facts, history, promotion, saving


class Numbers:
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
        rows = {m["seq"]: m["version_id"] for m in in_time(saved, "created_at") if m.get("seq")}
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


def in_time(told: Iterable[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    """What was told, in the order of this time."""
    return sorted(told, key=lambda item: str(item[key]))


def insert_version(
    connection: Connection, store: Store, manifest: Mapping[str, Any], numbers: Numbers
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


def replay(connection: Connection, numbers: Numbers) -> int:
    """Do every event again, and write it to the history under its number."""
    versions = set(connection.execute(select(t.version.c.version_id)).scalars())
    for event in numbers.events:
        if event["version_id"] in versions:
            _do(connection, event)
        connection.execute(insert(t.audit), event)
    return len(numbers.events)


def adopt(
    connection: Connection,
    store: Store,
    events: list[dict[str, Any]],
    missing: list[dict[str, Any]],
    *,
    now: datetime,
    actor: str,
) -> int:
    """Give versions that the database did not know their tags, attachments and free aliases.

    Returns:
        How many events were done.
    """
    adopted = {manifest["version_id"]: manifest["model_name"] for manifest in missing}
    n_done = 0
    for event in events:
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
    for (model_name, alias), version_id in _last_moves(events).items():
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
