"""Places a registry may not be in, and who holds the lock one waits for."""

import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from modelyard import ModelVersionManager
from modelyard._core.errors import StorageBusyError, StorageError
from modelyard.storage import Database, filesystems
from modelyard.storage.database import sqlite_url

HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def mounts(monkeypatch, tmp_path):
    """A function that says what is mounted where; the longest fitting path counts."""

    def set_mounts(**kinds):
        found = [
            SimpleNamespace(mountpoint=str(tmp_path / place) if place != "root" else "/", fstype=k)
            for place, k in kinds.items()
        ]
        monkeypatch.setattr(filesystems.psutil, "disk_partitions", lambda **_: found)

    return set_mounts


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "lustre"])
def test_network_file_system_is_refused_with_the_reason_and_the_way_out(tmp_path, mounts, kind):
    mounts(root="ext4", share=kind)
    with pytest.raises(
        StorageError, match=rf"network file system \({re.escape(kind)}\).*postgres"
    ):
        ModelVersionManager(tmp_path / "share" / "models")
    assert list((tmp_path / "share" / "models").glob("registry.db*")) == []


@pytest.mark.parametrize("kind", ["ext4", "overlay", "tmpfs", "apfs", "9p", ""])
def test_local_file_systems_are_fine(tmp_path, mounts, kind):
    mounts(root="nfs4", disk=kind)
    ModelVersionManager(tmp_path / "disk" / "models").store.close()


def test_network_file_system_is_fine_for_the_files_of_a_shared_database(tmp_path, mounts):
    mounts(root="nfs4")
    manager = ModelVersionManager(tmp_path, database_url="sqlite://")
    manager.store.close()


def test_long_wait_for_the_lock_ends_in_an_error_that_says_who_waits_for_whom(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("modelyard.storage.database.BUSY_TIMEOUT_S", 0.2)
    database = Database(sqlite_url(tmp_path))
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "registry.db")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout.readline() == "held\n"

    def write():
        with database.writing():
            pass

    with pytest.raises(StorageBusyError) as caught:
        write()
    message = str(caught.value)
    assert f"Process {os.getpid()} waited" in message
    assert "Nothing was stored; try again" in message
    if sys.platform == "linux":
        assert f"held by process {holder.pid}" in message
    holder.communicate("\n")
    write()  # the same call succeeds later
    database.close()


def test_waiting_for_another_connection_of_postgresql_ends_too(postgres_url, monkeypatch):
    monkeypatch.setattr("modelyard.storage.database.BUSY_TIMEOUT_S", 0.2)
    database = Database(postgres_url)

    def write_twice():
        with database.writing(), database.writing():
            pass

    with pytest.raises(StorageBusyError, match="try again"):
        write_twice()
    database.close()


def test_reading_needs_no_lock(tmp_path):
    database = Database(sqlite_url(tmp_path))
    with database.writing():
        other = Database(sqlite_url(tmp_path))
        other.close()
    database.close()
