"""A store: one database and one place for blobs, opened together.

`version_manager.store` is one; hand it to monitors, experiments and strategies, and what they
learn survives a restart.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3
from sqlalchemy import Connection, delete, insert, select

from modelyard._core.clock import Clock, SystemClock
from modelyard.storage import tables
from modelyard.storage.blobs import BlobStore, LocalBlobs, RemoteBlobs
from modelyard.storage.database import Database, sqlite_url
from modelyard.storage.documents import Documents, LocalDocuments, RemoteDocuments
from modelyard.storage.objects import ObjectStore


@dataclass(frozen=True)
class Store:
    """A database and a blob store that belong together.

    Attributes:
        database: Rows; transactions by `database.writing()`.
        blobs: Bytes by digest.
        documents: Small named files: manifests, history.
        folder: Where the database and the local files are; absolute.
        shown: The same folder as it was named, for the paths that versions tell.
        url: Where blobs and documents are when they are remote, else None.
    """

    database: Database
    blobs: BlobStore
    documents: Documents
    folder: Path
    shown: Path
    url: str | None = None

    def path_of(self, name: str) -> str:
        """Path, or URL where the store is remote, of something in it."""
        if self.url:
            return f"{self.url}/{name}"
        # As `folder / name` would, in a tenth of the time.
        return f"{self.shown}{os.sep}{name.replace('/', os.sep)}"

    def save_snapshot(
        self, kind: str, name: str, state: Mapping[str, Any], *, clock: Clock | None = None
    ) -> None:
        """Keep the state of a long-lived object (plain values) under its kind and name.

        Durable on return; replaces what was kept before.
        """
        at = (clock or SystemClock()).now().isoformat()
        with self.database.writing() as connection:
            write_snapshot(connection, kind, name, state, at=at)

    def load_snapshot(self, kind: str, name: str) -> dict[str, Any] | None:
        """What `save_snapshot` kept last under this kind and name, or None."""
        row = tables.snapshot
        query = select(row.c.state).where(row.c.kind == kind, row.c.name == name)
        with self.database.reading() as connection:
            state = connection.execute(query).scalar()
        return None if state is None else dict(state)

    def close(self) -> None:
        """Close the connections; what is stored stays."""
        self.database.close()


def write_snapshot(
    connection: Connection, kind: str, name: str, state: Mapping[str, Any], *, at: str
) -> None:
    """Write a snapshot inside a transaction that does more."""
    row = tables.snapshot
    # Raised here, a NaN names itself; raised by the database, it would not.
    json.dumps(state, allow_nan=False)
    connection.execute(delete(row).where(row.c.kind == kind, row.c.name == name))
    connection.execute(insert(row).values(kind=kind, name=name, state=dict(state), saved_at=at))


def open_store(
    base_dir: str | Path = "models",
    *,
    database_url: str | None = None,
    storage_url: str | None = None,
) -> Store:
    """Open, and make where needed, the store of a registry.

    Args:
        base_dir: Folder of the database and the blobs where no URL says otherwise, and of the
            local copies of remote blobs.
        database_url: SQLAlchemy URL such as `postgresql+psycopg://user@host/db`.
        storage_url: `s3://bucket/prefix`, `gs://`, `az://`, `file://` or `memory://`.

    Raises:
        ConfigError: A URL that cannot be used.
        StorageError: A folder or database that cannot be opened.
    """
    shown = Path(base_dir)
    # The process may change its folder later.
    folder = shown.absolute()
    database = Database(database_url or sqlite_url(folder))
    if storage_url is None:
        return Store(database, LocalBlobs(folder / "blobs"), LocalDocuments(folder), folder, shown)
    objects = ObjectStore(storage_url)
    # One folder may be used with several stores.
    cache = folder / "cache" / blake3(objects.url.encode()).hexdigest()[:16]
    blobs, documents = RemoteBlobs(objects, cache), RemoteDocuments(objects, cache / "documents")
    return Store(database, blobs, documents, folder, shown, objects.url)
