"""A registry in a folder that may only be read: listed, loaded, never written."""

import sqlite3
import threading

import pytest
from torch import nn

from modelyard._core.errors import StorageError
from modelyard.storage import database
from modelyard.version_manager import ModelVersionManager


@pytest.fixture
def read_only(tmp_path, monkeypatch):
    """Opens the registry as where its folder may not be written; root may write everywhere."""
    opened = []

    def open_it():
        with monkeypatch.context() as context:
            context.setattr(database, "_may_only_be_read", lambda file: file.is_file())
            opened.append(ModelVersionManager(tmp_path))
        return opened[-1]

    yield open_it
    for manager in opened:
        manager.store.close()


def written(folder):
    manager = ModelVersionManager(folder)
    return manager, manager.save_model(nn.Linear(2, 1), "ppo", {"sharpe": 1.0})


def test_versions_are_listed_and_loaded_and_nothing_is_written(tmp_path, read_only):
    manager, version_id = written(tmp_path)
    manager.store.close()
    before = sorted(path.name for path in tmp_path.iterdir())
    assert "registry.db-wal" not in before
    reader = read_only()
    assert reader.get_best_version("ppo", "sharpe")["version_id"] == version_id
    assert reader.load_model(version_id).in_features == 2
    assert not reader.verify()["problems"]
    with pytest.raises(StorageError, match="may not be written"):
        reader.save_model(nn.Linear(2, 1), "ppo")
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_what_a_writer_elsewhere_saves_is_seen(tmp_path, read_only):
    manager, first = written(tmp_path)
    reader = read_only()
    second = manager.save_model(nn.Linear(2, 1), "ppo")
    found = []
    thread = threading.Thread(target=lambda: found.extend(reader.list_versions()))
    thread.start()
    thread.join()
    assert [version["version_id"] for version in found] == [second, first]
    manager.store.close()
    assert len(reader.list_versions()) == 2


def test_a_log_that_nobody_has_open_is_told_of(tmp_path, read_only):
    manager, _ = written(tmp_path)
    manager.store.close()
    reader = read_only()
    (tmp_path / "registry.db-wal").mkdir()  # what SQLite cannot open
    with pytest.raises(StorageError, match="may only be read"):
        reader.list_versions()


def test_a_folder_that_may_be_written_is_opened_as_ever(tmp_path):
    manager, _ = written(tmp_path)
    with sqlite3.connect(tmp_path / "registry.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
    manager.store.close()
