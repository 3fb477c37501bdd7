"""The append-only history: who did what to which version, and when.

A row in the database, and beside it a small document per event, numbered alike, so that the state
of tags, aliases and attachments can be made again from files. What a save or an import did stands
in the version's manifest, so they have no document.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from blake3 import blake3
from sqlalchemy import Connection, bindparam, insert, select

from modelyard.storage import Store, undo_if_it_fails
from modelyard.storage import tables as t
from modelyard.storage.sealed import sealed

SAVE = "save"
IMPORT = "import"
# A monitor's, which is about no version and of no use without the monitor's other rows.
BASELINE = "baseline"
_DIGEST_CHARACTERS = 12
_WITHOUT_DOCUMENT = frozenset({SAVE, IMPORT, BASELINE})
_INSERT = insert(t.audit)
_FOUND = select(t.audit).where(t.audit.c.seq == bindparam("seq"))


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that was done.

    Attributes:
        action: "save", "tag", "set_alias", "promote", "remove", ...
        model_name: Of which model.
        version_id: To which version, if to one.
        at: When, UTC.
        actor: Who asked.
        detail: What more there is to say; plain values.
        alias: Which alias it moved or dropped.
    """

    action: str
    model_name: str
    version_id: str | None
    at: datetime
    actor: str
    detail: Mapping[str, Any] = field(default_factory=dict)
    alias: str | None = None


def record(connection: Connection, store: Store, event: Event) -> int:
    """Append an event, in the transaction that does what it tells of; its number.

    The document is written before the commit, and removed where that fails: it would tell of
    something that was not done. After a kill it stays until `gc` takes it.
    """
    row = {**vars(event), "at": event.at.isoformat(), "detail": dict(event.detail)}
    result = connection.execute(_INSERT, row)
    key = result.inserted_primary_key
    seq = int(key[0]) if key is not None else 0
    if has_document(event.action):
        name, content = document({"seq": seq, **row})
        # One that is there already is from a database that was lost, and done again now.
        if not store.documents.has(name):
            undo_if_it_fails(connection, lambda: _forget(store, seq, name))
        store.documents.write(name, content)
    return seq


def _forget(store: Store, seq: int, name: str) -> None:
    """Remove the document of an event, unless the event is in the database after all."""
    # Writing, to wait for the commit where a server is still at it.
    with store.database.writing() as connection:
        row = connection.execute(_FOUND, {"seq": seq}).mappings().first()
        if row is None or document(dict(row))[0] != name:
            store.documents.remove(name)


def has_document(action: str) -> bool:
    """Whether an event of this kind has a document of its own."""
    return action not in _WITHOUT_DOCUMENT


def document(event: Mapping[str, Any]) -> tuple[str, bytes]:
    """Name and content of an event's document.

    The name holds the number and part of the content's digest: where a number is given out twice,
    as after a failed commit or over an older database, neither document replaces the other.

    Args:
        event: The row in the database, with its number.
    """
    content = sealed({column.name: event[column.name] for column in t.audit.columns})
    digest = blake3(content).hexdigest()[:_DIGEST_CHARACTERS]
    return f"{event['model_name']}/history/{event['seq']:012d}-{digest}.json", content
