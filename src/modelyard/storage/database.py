"""The database behind a store: SQLite in a folder, or any SQLAlchemy URL.

`Database.writing()` is one transaction that sees and changes a consistent state;
`Database.reading()` is for queries. Nothing else in modelyard opens a connection.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, StaticPool, create_engine, event, insert, select, text
from sqlalchemy.exc import DBAPIError

from modelyard._core.errors import ConfigError, StorageError
from modelyard.storage.tables import SCHEMA_VERSION, metadata, schema

BUSY_TIMEOUT_S = 30.0
# Writers to one PostgreSQL database agree on this number and so go one after another.
_WRITE_LOCK = 7_303_011


class Database:
    """Connections to one database, with its tables made.

    Thread-safe and safe across processes: every write takes the one write lock when it begins
    (`BEGIN IMMEDIATE` in SQLite, an advisory lock in PostgreSQL), so a transaction never has to
    be tried again because another one changed what it read.
    """

    def __init__(self, url: str) -> None:
        try:
            self.engine = _engine_for(url)
        except Exception as error:
            raise ConfigError(f"database_url {_hidden(url)!r} cannot be used: {error}") from error
        self._is_sqlite = self.engine.dialect.name == "sqlite"
        # An in-memory database has one connection; this lock keeps its transactions apart.
        self._memory_lock = threading.RLock() if isinstance(self.engine.pool, StaticPool) else None
        self._make_tables()

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction: all of it is stored when the block ends, or nothing.

        Raises:
            StorageError: The database is locked for longer than 30 s, full or gone.
        """
        with self._connection() as connection:
            if self._is_sqlite:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            else:
                connection.execute(text("SELECT pg_advisory_xact_lock(:k)"), {"k": _WRITE_LOCK})
            yield connection
            connection.commit()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection for queries."""
        with self._connection() as connection:
            yield connection

    def close(self) -> None:
        """Close every connection; the database stays as it is."""
        self.engine.dispose()

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        if self._memory_lock is not None:
            self._memory_lock.acquire()
        try:
            with self.engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            raise StorageError(_explain(error)) from error
        finally:
            if self._memory_lock is not None:
                self._memory_lock.release()

    def _make_tables(self) -> None:
        with self.writing() as connection:
            metadata.create_all(connection, checkfirst=True)
            found = connection.execute(select(schema.c.version)).scalar()
            if found is None:
                connection.execute(insert(schema).values(version=SCHEMA_VERSION))
            elif found > SCHEMA_VERSION:
                raise StorageError(
                    f"The database has schema {found}; this modelyard knows up to "
                    f"{SCHEMA_VERSION}. Upgrade modelyard; nothing was changed."
                )


def sqlite_url(folder: Path) -> str:
    """URL of the registry database in `folder`, which is made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"base_dir {str(folder)!r} cannot be made: {error}") from error
    return f"sqlite:///{os.fspath(folder / 'registry.db')}"


def _engine_for(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True)
    if url in {"sqlite://", "sqlite:///:memory:"}:
        engine = create_engine(
            "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
        )
    else:
        engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})
    event.listen(engine, "connect", _set_up_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # None: the driver begins no transaction of its own; `writing` says BEGIN IMMEDIATE.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        # First, because changing the journal mode itself needs the lock.
        f"busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _explain(error: DBAPIError) -> str:
    cause = str(error.orig)
    if "locked" in cause:
        return (
            f"The database stayed locked by another process for {BUSY_TIMEOUT_S:.0f} s. "
            "Nothing was stored; try again when the other process has finished."
        )
    if "full" in cause:
        return f"The disk is full ({cause}). Nothing was stored; free some space and try again."
    if "readonly" in cause:
        return f"The database may not be written ({cause}). Check the folder's permissions."
    return f"The database refuses: {cause}. Nothing was stored."


def _hidden(url: str) -> str:
    """`url` without its password."""
    head, at, tail = url.rpartition("@")
    return f"{head.rsplit(':', 1)[0]}:***@{tail}" if at else url
