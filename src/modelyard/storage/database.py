"""The database behind a store: SQLite in a folder, or any SQLAlchemy URL.

`Database.writing()` is one transaction that sees and changes a consistent state;
`Database.reading()` is for queries. Nothing else in modelyard opens a connection.
"""

import contextlib
import functools
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    NullPool,
    StaticPool,
    create_engine,
    event,
    make_url,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from modelyard._core.errors import ConfigError, StorageBusyError, StorageError
from modelyard.storage import forks, schema
from modelyard.storage.filesystems import network_file_system, processes_that_write

BUSY_TIMEOUT_S = 30.0
_IN_MEMORY = frozenset({None, "", ":memory:"})
_FIRST_PAUSE_S = 0.0003
_LONGEST_PAUSE_S = 0.002
_UNDO = "modelyard_undo"
_BEGIN = "BEGIN IMMEDIATE"
_WAIT = f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}"
# Writers to one PostgreSQL database agree on this number and so go one after another.
_ADVISORY_LOCK = text("SELECT pg_advisory_xact_lock(7303011)")


class Database:
    """Connections to one database, with its tables made.

    Thread-safe and safe across processes: every write takes the one write lock when it begins
    (`BEGIN IMMEDIATE` in SQLite, an advisory lock in PostgreSQL), so a transaction never has to
    be tried again because another one changed what it read.
    """

    def __init__(self, url: str | URL) -> None:
        try:
            self.engine = _engine_for(url)
        except Exception as error:
            shown = _hidden(str(url))
            raise ConfigError(f"database_url {shown!r} cannot be used: {error}") from error
        self._is_sqlite = self.engine.dialect.name == "sqlite"
        self._file = _file_of(url)
        if self._file is not None:
            _refuse_network(self._file.parent)
        # An in-memory database has one connection; this lock keeps its transactions apart.
        self._memory_lock = threading.RLock() if isinstance(self.engine.pool, StaticPool) else None
        # Held while a thread is in a transaction that a forked child must not be born into.
        self.busy_lock = self._memory_lock or threading.RLock()
        forks.watch(self)
        self._make_tables()

    @contextmanager
    def writing(self, *, while_waiting: Callable[[], None] | None = None) -> Iterator[Connection]:
        """One transaction: all of it is stored when the block ends, or nothing.

        Args:
            while_waiting: Called once if others hold the write lock: work that would else be
                done with the lock held, while they wait for it in turn.

        Raises:
            StorageBusyError: Others held the write lock for longer than 30 s; try again.
            StorageError: The database is full or gone.
        """
        undo: list[Callable[[], None]] = []
        try:
            with contextlib.ExitStack() as held, self._connection() as connection:
                self._take_write_lock(connection, held, while_waiting)
                connection.info[_UNDO] = undo
                yield connection
                connection.commit()
        except BaseException:
            for step in reversed(undo):
                with contextlib.suppress(Exception):
                    step()
            raise

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection for queries."""
        with self._connection() as connection:
            yield connection

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A connection whose queries all see one state, whatever others commit meanwhile."""
        with self._connection() as connection:
            if self._is_sqlite:
                connection.exec_driver_sql("BEGIN")
            else:
                connection.execution_options(isolation_level="REPEATABLE READ")
            try:
                yield connection
            finally:
                connection.rollback()

    def close(self) -> None:
        """Close every connection; the database stays as it is."""
        self.engine.dispose()

    def after_fork(self) -> None:
        """In a child: leave the parent's connections alone, and wait for none of its threads."""
        self.busy_lock = threading.RLock()
        if self._memory_lock is None:
            self.engine.dispose(close=False)
        else:
            self._memory_lock = self.busy_lock

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        memory_lock = self._memory_lock
        if memory_lock is not None:
            memory_lock.acquire()
        try:
            with self.engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            raise self._explained(error) from error
        except PoolTimeoutError as error:
            raise StorageBusyError(
                f"More threads than the database has connections wait for it: {error}. "
                "Nothing was stored; try again."
            ) from error
        finally:
            if memory_lock is not None:
                memory_lock.release()

    def _take_write_lock(
        self,
        connection: Connection,
        held: contextlib.ExitStack,
        while_waiting: Callable[[], None] | None = None,
    ) -> None:
        if not self._is_sqlite:
            if while_waiting is not None:
                while_waiting()
            connection.execute(_ADVISORY_LOCK)
            return
        # SQLite's own waiting sleeps for up to 100 ms at a time, while most transactions are over
        # in 3: eight processes that save would mostly sleep. The driver is asked directly: what
        # SQLAlchemy does for each attempt takes longer than the pauses.
        connection.begin()
        driver = _driver_of(connection)
        driver.execute("PRAGMA busy_timeout = 0")
        give_up_at_s = time.monotonic() + BUSY_TIMEOUT_S
        pause_s = _FIRST_PAUSE_S
        try:
            while not self._begins(connection, held, must=time.monotonic() >= give_up_at_s):
                if while_waiting is not None:
                    while_waiting()
                    while_waiting = None
                    continue
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        finally:
            driver.execute(_WAIT)

    def _begins(self, connection: Connection, held: contextlib.ExitStack, *, must: bool) -> bool:
        """Begin a writing transaction; until `held` is closed, no fork comes in between."""
        busy_lock = self.busy_lock
        with contextlib.ExitStack() as attempt:
            if busy_lock.acquire(blocking=False):
                attempt.callback(busy_lock.release)
            elif not must:
                return False
            if not _begins(connection, must=must):
                return False
            held.push(attempt.pop_all())
        return True

    def _make_tables(self) -> None:
        with self.reading() as connection:
            if schema.is_present(connection):
                return
        with contextlib.ExitStack() as held, self._connection() as connection:
            if self._is_sqlite:
                # A migration may make a table anew that others refer to. Only outside of a
                # transaction can that be allowed.
                connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
                connection.commit()
            self._take_write_lock(connection, held)
            schema.make_tables(connection)
            connection.commit()
            if self._is_sqlite:
                connection.exec_driver_sql("PRAGMA foreign_keys = ON")

    def _explained(self, error: DBAPIError) -> StorageError:
        cause = str(error.orig)
        if "locked" in cause or "lock timeout" in cause:
            return self._busy()
        if "full" in cause:
            return StorageError(
                f"The disk is full ({cause}). Nothing was stored; free some space and try again."
            )
        if "readonly" in cause:
            return StorageError(
                f"The database may not be written ({cause}). Check the folder's permissions."
            )
        if "unable to open" in cause and self._file is not None:
            return StorageError(
                f"{str(self._file)!r} cannot be opened ({cause}). In a folder that may only be "
                "read it can be when whoever wrote it has closed it, or still has it open there."
            )
        if "not a database" in cause or "malformed" in cause:
            return StorageError(
                f"{str(self._file)!r} is damaged: {cause}. `modelyard versions rebuild` moves it "
                "aside and makes a new one from the manifests."
            )
        return StorageError(f"The database refuses: {cause}. Nothing was stored.")

    def _busy(self) -> StorageBusyError:
        holders = [] if self._file is None else processes_that_write(self._file)
        others = ", ".join(_told(holder) for holder in holders) or "another process"
        return StorageBusyError(
            f"Process {os.getpid()} waited {BUSY_TIMEOUT_S:.0f} s to write to "
            f"{_hidden(str(self._file or self.engine.url))!r}, which is held by {others}. "
            "Nothing was stored; try again when it has finished."
        )


def undo_if_it_fails(connection: Connection, step: Callable[[], None]) -> None:
    """Have `step` called if the writing transaction that `connection` is in fails.

    Args:
        connection: What `Database.writing` gave.
        step: Takes back what was done outside of the database. Called once the transaction is
            over. A commit may have raised and yet be done, as when its answer was lost: look.
    """
    connection.info[_UNDO].append(step)


def is_sound(file: Path) -> bool:
    """Whether a file is a SQLite database whose pages can all be read; changes nothing.

    Raises:
        StorageBusyError: Somebody has it locked, so that nothing can be said.
    """
    try:
        with contextlib.closing(
            sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
        ) as found:
            return bool(found.execute("PRAGMA quick_check").fetchone() == ("ok",))
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise StorageBusyError(f"{str(file)!r} is locked: {error}. Try again.") from error
        raise StorageError(f"{str(file)!r} cannot be read: {error}.") from error
    except sqlite3.DatabaseError:
        return False


def sqlite_url(folder: Path) -> URL:
    """URL of the registry database in `folder`, which is made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"base_dir {str(folder)!r} cannot be made: {error}") from error
    # Not as text: a folder's name may hold what means something in a URL.
    return URL.create("sqlite", database=os.fspath(folder.absolute() / "registry.db"))


def _engine_for(given: str | URL) -> Engine:
    url = make_url(given)
    if not url.drivername.startswith("sqlite"):
        engine = create_engine(url, pool_pre_ping=True, json_deserializer=_from_json)
        event.listen(engine, "connect", _set_up_postgresql)
        return engine
    file = _file_of(url)
    if file is not None and _may_only_be_read(file):
        # A connection each time: whether there is a writer may change.
        return create_engine(
            url,
            creator=functools.partial(_opened_for_reading, file),
            poolclass=NullPool,
            json_deserializer=_from_json,
        )
    if file is None:
        engine = create_engine(
            "sqlite://",
            poolclass=StaticPool,
            connect_args={"check_same_thread": False},
            json_deserializer=_from_json,
        )
    else:
        timeout = {"timeout": BUSY_TIMEOUT_S}
        # As many connections as threads: those that wait to write must not keep readers out.
        engine = create_engine(
            url, connect_args=timeout, json_deserializer=_from_json, max_overflow=-1
        )
    event.listen(engine, "connect", _set_up_sqlite)
    return engine


def _may_only_be_read(file: Path) -> bool:
    """Whether a database is there, but in a folder that may not be written: SQLite needs that."""
    return file.is_file() and not os.access(file.parent, os.W_OK)


def _opened_for_reading(file: Path) -> sqlite3.Connection:
    # Writers keep a log beside the database. Without one nobody writes, and SQLite need not look
    # for changes, for which it would have to write itself.
    has_writer = file.with_name(f"{file.name}-wal").exists()
    options = "mode=ro" if has_writer else "mode=ro&immutable=1"
    return sqlite3.connect(
        f"{file.absolute().as_uri()}?{options}",
        uri=True,
        isolation_level=None,
        timeout=BUSY_TIMEOUT_S,
    )


def _from_json(text: str) -> Any:
    # Most cells hold one of these; a list of many versions is read a third faster.
    if text == "{}":
        return {}
    if text == "[]":
        return []
    if text == "null":
        return None
    return json.loads(text)


def _begins(connection: Connection, *, must: bool) -> bool:
    """Begin a writing transaction, if nobody is in one.

    Raises:
        OperationalError: Somebody is, and this `must` begin now; or the database refuses.
    """
    if must:
        connection.exec_driver_sql(_BEGIN)
        return True
    try:
        _driver_of(connection).execute(_BEGIN)
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            return False
        connection.exec_driver_sql(_BEGIN)  # raises it as SQLAlchemy raises everything else
    return True


def _driver_of(connection: Connection) -> sqlite3.Connection:
    """SQLite's own connection under `connection`."""
    return cast("sqlite3.Connection", connection.connection.driver_connection)


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # None: the driver begins no transaction of its own; `writing` says BEGIN IMMEDIATE.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        # First, because changing the journal mode itself needs the lock.
        _WAIT.removeprefix("PRAGMA "),
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _set_up_postgresql(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute(f"SET lock_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
    cursor.close()
    connection.commit()


def _file_of(url: str | URL) -> Path | None:
    """The file a SQLite database lies in; None for one in memory, or elsewhere."""
    parsed = make_url(url)
    if not parsed.drivername.startswith("sqlite") or parsed.database in _IN_MEMORY:
        return None
    return Path(str(parsed.database))


def _refuse_network(folder: Path) -> None:
    kind = network_file_system(folder)
    if kind is not None:
        raise StorageError(
            f"{str(folder)!r} is on a network file system ({kind}), whose locks SQLite cannot "
            "rely on: two machines would corrupt the registry. Keep base_dir on a local disk, or "
            "pass database_url='postgresql+psycopg://...' for a registry that machines share."
        )


def _told(pid: int) -> str:
    return "another thread of it" if pid == os.getpid() else f"process {pid}"


def _hidden(url: str) -> str:
    """`url` without its password."""
    head, at, tail = url.rpartition("@")
    return f"{head.rsplit(':', 1)[0]}:***@{tail}" if at else url
