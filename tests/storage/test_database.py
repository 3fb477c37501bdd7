"""The database: one writer at a time, all or nothing, errors that say what to do."""

import os
import threading

import pytest
from sqlalchemy import delete, insert, select, update

from modelyard import ManualClock
from modelyard._core.errors import ConfigError, StorageError
from modelyard.storage import Database, drop_lease, open_store, tables, take_lease
from modelyard.storage.database import sqlite_url


@pytest.fixture(params=["file", "memory"])
def database(request, tmp_path):
    database = Database(sqlite_url(tmp_path) if request.param == "file" else "sqlite://")
    yield database
    database.close()


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path)
    yield store
    store.close()


def leases(database):
    with database.reading() as connection:
        return set(connection.execute(select(tables.lease.c.name)).scalars())


def add_lease(connection, name):
    connection.execute(insert(tables.lease).values(name=name, holder="me", expires_at_s=0.0))


def test_failed_block_leaves_nothing(database):
    def fail():
        with database.writing() as connection:
            add_lease(connection, "half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        fail()
    assert leases(database) == set()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_snapshot_sees_one_state_while_others_write(kind, tmp_path, request):
    is_postgres = kind == "postgres"
    database = Database(
        request.getfixturevalue("postgres_url") if is_postgres else sqlite_url(tmp_path)
    )
    names = select(tables.lease.c.name)
    with database.snapshot() as connection:
        before = set(connection.execute(names).scalars())
        with database.writing() as other:
            add_lease(other, f"late-{tmp_path.name}")
        assert set(connection.execute(names).scalars()) == before
    assert leases(database) == before | {f"late-{tmp_path.name}"}
    with database.reading() as connection:
        if is_postgres:
            level = connection.exec_driver_sql("SHOW transaction_isolation").scalar()
            assert level == "read committed"
    database.close()


def test_snapshot_leaves_its_connection_free_to_write(database):
    for name in ("one", "two"):
        with database.snapshot() as connection:
            connection.execute(select(tables.lease.c.name)).all()
        with database.writing() as connection:
            add_lease(connection, name)
    assert leases(database) == {"one", "two"}


def test_writers_in_many_threads_lose_no_update(database):
    with database.writing() as connection:
        add_lease(connection, "counter")

    def count():
        for _ in range(20):
            with database.writing() as connection:
                row = tables.lease.c
                value = connection.execute(select(row.expires_at_s)).scalar_one()
                connection.execute(update(tables.lease).values(expires_at_s=value + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with database.reading() as connection:
        assert connection.execute(select(tables.lease.c.expires_at_s)).scalar_one() == 80


def test_sqlite_is_durable_and_readable_while_written(tmp_path):
    database = Database(sqlite_url(tmp_path))
    with database.reading() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    database.close()
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 30000,
    }


def test_broken_rule_of_a_table_is_a_storage_error(database):
    def twice():
        with database.writing() as connection:
            add_lease(connection, "same")
            add_lease(connection, "same")

    with pytest.raises(StorageError, match="Nothing was stored"):
        twice()


def test_file_that_is_no_database_is_a_storage_error(tmp_path):
    (tmp_path / "registry.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(StorageError, match="not a database"):
        Database(sqlite_url(tmp_path))


def test_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be made"):
        open_store(tmp_path / "file" / "registry")


def test_newer_schema_is_refused_and_left_alone(tmp_path):
    database = Database(sqlite_url(tmp_path))
    with database.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    before = (tmp_path / "registry.db").read_bytes()
    with pytest.raises(StorageError, match=r"schema 9999.*Upgrade modelyard"):
        Database(sqlite_url(tmp_path))
    assert (tmp_path / "registry.db").read_bytes() == before


def test_url_without_a_driver_names_itself_without_its_password():
    with pytest.raises(ConfigError, match="nonsense") as caught:
        Database("nonsense://user:secret@host/db")
    assert "secret" not in str(caught.value)


def test_lease_has_one_holder_until_it_runs_out(store):
    clock = ManualClock()
    assert take_lease(store, "rollout", "a", seconds=10, clock=clock)
    assert take_lease(store, "rollout", "a", seconds=10, clock=clock)
    assert not take_lease(store, "rollout", "b", seconds=10, clock=clock)
    clock.advance(11)
    assert take_lease(store, "rollout", "b", seconds=10, clock=clock)


def test_dropped_lease_is_free_and_only_its_holder_drops_it(store):
    clock = ManualClock()
    take_lease(store, "rollout", "a", seconds=10, clock=clock)
    drop_lease(store, "rollout", "b")
    assert not take_lease(store, "rollout", "b", seconds=10, clock=clock)
    drop_lease(store, "rollout", "a")
    assert take_lease(store, "rollout", "b", seconds=10, clock=clock)


def test_snapshot_comes_back_and_is_replaced(store):
    assert store.load_snapshot("monitor", "ppo") is None
    store.save_snapshot("monitor", "ppo", {"n": 1, "values": [1.5, None]})
    store.save_snapshot("monitor", "ppo", {"n": 2})
    assert store.load_snapshot("monitor", "ppo") == {"n": 2}


def test_snapshot_with_nan_is_refused_and_the_old_one_stays(store):
    store.save_snapshot("monitor", "ppo", {"n": 1})
    with pytest.raises(ValueError, match="JSON"):
        store.save_snapshot("monitor", "ppo", {"n": float("nan")})
    assert store.load_snapshot("monitor", "ppo") == {"n": 1}


def in_child(act):
    """Exit status of a forked child that does something."""
    pid = os.fork()
    if pid == 0:
        try:
            act()
        except BaseException:  # noqa: BLE001 - whatever it was, the parent hears of it
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("place", ["file", "memory", "postgres"])
def test_forked_children_do_not_share_connections(tmp_path, request, place):
    urls = {"file": f"sqlite:///{tmp_path}/registry.db", "memory": "sqlite://"}
    url = urls[place] if place in urls else request.getfixturevalue("postgres_url")
    database = Database(url)

    def write(name):
        with database.writing() as connection:
            connection.execute(delete(tables.lease).where(tables.lease.c.name == name))
            add_lease(connection, name)

    write("parent")

    def child():
        write("child")
        assert {"parent", "child"} <= leases(database)

    assert [in_child(child) for _ in range(3)] == [0, 0, 0]
    write("parent")
    assert "parent" in leases(database)
    database.close()
