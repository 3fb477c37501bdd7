"""What changes, fails or forks in the middle of a save: told truly, and nothing stored is lost."""

import contextlib
import errno
import sqlite3

import pytest
import torch
from torch import nn

from modelyard._core.errors import StorageError


def linear(value):
    layer = nn.Linear(3, 3)
    for parameter in layer.parameters():
        nn.init.constant_(parameter, value)
    return layer


def test_weights_that_changed_before_they_were_written_again_are_refused(registry, monkeypatch):
    blobs, model = registry.store.blobs, linear(0.0)
    put = blobs.put

    def put_lose_and_train(fill):
        ref = put(fill)
        monkeypatch.setattr(blobs, "put", put)
        blobs.remove(ref.digest)
        nn.init.ones_(model.weight)
        return ref

    monkeypatch.setattr(blobs, "put", put_lose_and_train)
    with pytest.raises(StorageError, match=r"changed while it was stored.*save again"):
        registry.save_model(model, "ppo")
    assert registry.list_versions() == []
    assert torch.equal(registry.load_model(registry.save_model(model, "ppo")).weight, model.weight)


def no_room(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def copy_database(source, target):
    with (
        contextlib.closing(sqlite3.connect(source)) as old,
        contextlib.closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)


def test_failed_save_keeps_bytes_that_an_unknown_version_needs(registry, monkeypatch, tmp_path):
    file = tmp_path / "models" / "registry.db"
    copy_database(file, tmp_path / "backup.db")
    version_id = registry.save_model(linear(1.0), "ppo")
    copy_database(tmp_path / "backup.db", file)
    assert registry.gc(dry_run=True)["unknown_versions"] == [version_id]
    with monkeypatch.context() as patch:
        patch.setattr("modelyard.storage.documents.write_bytes", no_room)
        with pytest.raises(StorageError, match="No space left"):
            registry.save_model(linear(1.0), "ppo")
    assert registry.rebuild()["versions"] == [version_id]
    assert torch.equal(registry.load_model(version_id).weight, linear(1.0).weight)
