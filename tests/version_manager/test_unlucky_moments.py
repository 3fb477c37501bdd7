"""What changes, fails or forks in the middle of a save: told truly, and nothing stored is lost."""

import contextlib
import errno
import os
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest
import torch
from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError
from torch import nn

from modelyard._core.errors import ConfigError, IntegrityError, StorageError
from modelyard.storage.hashing import background_thread
from modelyard.version_manager import ModelVersionManager, rebuild_registry


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


def commit_once(monkeypatch, *, is_done):
    """Have the next commit raise, after it is done or instead; later ones are as ever."""
    commit = Connection.commit

    def commit_and_raise(connection):
        monkeypatch.setattr(Connection, "commit", commit)
        if is_done:
            commit(connection)
        raise OperationalError("COMMIT", {}, Exception("server closed the connection"))

    monkeypatch.setattr(Connection, "commit", commit_and_raise)


def lose_database_and_rebuild(registry):
    registry.store.close()
    for file in registry.store.folder.glob("registry.db*"):
        file.unlink()
    rebuild_registry(registry.store.folder)
    return ModelVersionManager(registry.store.folder)


def history_of(registry):
    return sorted(path.name for path in (registry.store.folder / "ppo" / "history").iterdir())


def test_promotion_that_raised_is_not_done_by_a_rebuild(registry, save, monkeypatch):
    first, second = save(), save()
    registry.set_alias("ppo", "production", first)
    before = history_of(registry)
    commit_once(monkeypatch, is_done=False)
    with pytest.raises(StorageError):
        registry.set_alias("ppo", "production", second)
    assert history_of(registry) == before
    rebuilt = lose_database_and_rebuild(registry)
    assert rebuilt.get_by_alias("ppo")["version_id"] == first
    rebuilt.store.close()


def test_promotion_whose_answer_was_lost_keeps_its_place_in_the_history(
    registry, save, monkeypatch
):
    first, second = save(), save()
    registry.set_alias("ppo", "production", first)
    commit_once(monkeypatch, is_done=True)
    with pytest.raises(StorageError):
        registry.set_alias("ppo", "production", second)
    rebuilt = lose_database_and_rebuild(registry)
    assert rebuilt.get_by_alias("ppo")["version_id"] == second
    rebuilt.store.close()


@pytest.mark.parametrize(
    "said",
    [
        {"description": 123},
        {"description": None},
        {"description": Path("x")},
        {"description": "\ud800"},
        {"description": "a\0b"},
        {"config": {"a": "\0"}},
        {"metrics": {"\ud800": 1.0}},
        {"config": {"a": ["\ud800"]}},
        {"config": {"\ud800": 1}},
        {"tags": ["\ud800"]},
    ],
)
def test_text_that_cannot_be_stored_is_refused(registry, save, said):
    with pytest.raises(ConfigError):
        save(**said)
    assert registry.list_versions() == []


def test_version_is_stored_although_the_cleanup_after_it_fails(
    registry, clock, monkeypatch, caplog
):
    manager = ModelVersionManager(
        store=registry.store, clock=clock, auto_cleanup=True, keep_best_n=1
    )
    first = manager.save_model(linear(1.0), "ppo")
    clock.advance(2 * 86_400)

    def refuse(*_args, **_options):
        raise StorageError("no room")

    with monkeypatch.context() as patch:
        patch.setattr("modelyard.version_manager.garbage.bury", refuse)
        second = manager.save_model(linear(2.0), "ppo")
    assert [v["version_id"] for v in registry.list_versions()] == [second, first]
    assert f"{second} is stored, but old versions of ppo could not be removed" in caplog.text


def test_save_whose_answer_was_lost_is_stored(registry, monkeypatch, caplog):
    commit_once(monkeypatch, is_done=True)
    version_id = registry.save_model(linear(1.0), "ppo")
    assert "is stored, although its commit raised" in caplog.text
    assert registry.verify()["problems"] == []
    assert torch.equal(registry.load_model(version_id).weight, linear(1.0).weight)


def test_save_whose_commit_failed_leaves_no_version(registry, monkeypatch):
    commit_once(monkeypatch, is_done=False)
    with pytest.raises(StorageError, match="Nothing was stored"):
        registry.save_model(linear(1.0), "ppo")
    assert list((registry.store.folder / "ppo").iterdir()) == []


def test_import_whose_answer_was_lost_keeps_its_files(registry, save, monkeypatch, tmp_path):
    bundle = registry.export_bundle(save(), tmp_path / "bundle.tar")
    other = ModelVersionManager(tmp_path / "other")
    commit_once(monkeypatch, is_done=True)
    with pytest.raises(StorageError):
        other.import_bundle(bundle)
    assert other.verify()["problems"] == []
    other.store.close()


# ── what people see, and what the database says ─────────────────────────────────────────────


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"other")])
def test_file_in_a_versions_folder_is_looked_at_and_linked_again(registry, save, damage):
    path = Path(registry.get_version(save())["path"]) / "weights.safetensors"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)  # a copy, as a file system without links has: sound
    assert registry.verify()["problems"] == []
    damage(path)
    (problem,) = registry.verify()["problems"]
    assert "gone or damaged" in problem["problem"]
    assert registry.verify(repair=True)["problems"] == [{**problem, "is_repaired": True}]
    assert path.read_bytes() == content
    assert registry.verify()["problems"] == []


def test_healed_blob_is_shown_again_by_a_repair(registry):
    version_id = registry.save_model(linear(1.0), "ppo")
    path = Path(registry.get_version(version_id)["path"]) / "weights.safetensors"
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(b"damaged")  # the blob too: one file with two names
    registry.save_model(linear(1.0), "ppo")
    assert [problem["version_id"] for problem in registry.verify()["problems"]] == [version_id]
    assert all(problem["is_repaired"] for problem in registry.verify(repair=True)["problems"])
    assert path.read_bytes() == content


def test_database_that_differs_from_the_manifest_is_told_and_not_written_over_it(registry, save):
    version_id = save(config={"scale": 2.0, "n": 1})
    manifest = Path(registry.get_version(version_id)["path"]) / "manifest.json"
    content = manifest.read_bytes()
    with registry.store.database.writing() as connection:
        connection.exec_driver_sql('UPDATE version SET config = \'{"scale": 9.0, "n": 1}\'')
    with pytest.raises(IntegrityError, match=r"expected {'scale': 2.0}, found {'scale': 9.0}"):
        registry.load_model(version_id)
    with pytest.raises(IntegrityError, match="config"):
        registry.set_alias("ppo", "production", version_id)
    (problem,) = registry.verify(repair=True)["problems"]
    assert not problem["is_repaired"]
    assert "differs from the database in: config" in problem["problem"]
    assert manifest.read_bytes() == content
    rebuilt = lose_database_and_rebuild(registry)
    assert rebuilt.get_version(version_id)["config"] == {"scale": 2.0, "n": 1}
    rebuilt.store.close()


# ── forks ───────────────────────────────────────────────────────────────────────────────────

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes by fork here")


def succeeds_in_a_child(work):
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        signal.alarm(10)
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


@contextlib.contextmanager
def stopped_in_a_thread(monkeypatch, target, name, work):
    """Have another thread do `work`, and stop it for the block in a call of `target.name`."""
    is_there, may_go, real = threading.Event(), threading.Event(), getattr(target, name)

    def stop(*args, **options):
        monkeypatch.setattr(target, name, real)
        is_there.set()
        may_go.wait(10)
        return real(*args, **options)

    monkeypatch.setattr(target, name, stop)
    thread = threading.Thread(target=work)
    thread.start()
    assert is_there.wait(10)
    try:
        yield
    finally:
        may_go.set()
        thread.join()


class Own(nn.Linear):
    def __setstate__(self, state):
        super().__setstate__(state)


@needs_fork
def test_child_of_a_process_that_loads_can_load_and_trusts_nothing_more(registry, monkeypatch):
    version_id = registry.save_model(Own(2, 2), "ppo")
    before = set(torch.serialization.get_safe_globals())

    def load():
        assert set(torch.serialization.get_safe_globals()) == before
        registry.load_model(version_id)

    with stopped_in_a_thread(monkeypatch, torch, "load", lambda: registry.load_model(version_id)):
        assert set(torch.serialization.get_safe_globals()) > before
        assert succeeds_in_a_child(load)


@needs_fork
def test_child_does_not_wait_for_a_sync_of_its_parent(registry):
    blobs, may_go = registry.store.blobs, threading.Event()
    digest = blobs.put(lambda file: file.write(b"x")).digest
    background_thread("sync").submit(may_go.wait, 10)
    blobs.start_sync(digest)
    try:
        assert succeeds_in_a_child(lambda: blobs.sync([digest]))
    finally:
        may_go.set()
    blobs.sync([digest])


@needs_fork
@pytest.mark.parametrize("url", [None, "sqlite://"])
def test_child_of_a_process_that_writes_can_write(tmp_path, url):
    registry = ModelVersionManager(tmp_path / "models", database_url=url)
    documents, real = registry.store.documents, registry.store.documents.write
    is_there = threading.Event()

    def write_slowly(name, data):
        is_there.set()
        time.sleep(0.2)
        real(name, data)

    documents.write = write_slowly
    thread = threading.Thread(target=registry.save_model, args=(linear(1.0), "ppo"))
    thread.start()
    assert is_there.wait(10)

    def save():
        documents.write = real
        registry.save_model(linear(2.0), "ppo")

    assert succeeds_in_a_child(save)
    thread.join()
    assert len(registry.list_versions()) == (
        2 if url is None else 1
    )  # a child's memory is its own
    registry.store.close()


@needs_fork
def test_fork_inside_a_transaction_of_ones_own_does_not_wait(registry, save):
    with registry.store.database.writing():
        assert succeeds_in_a_child(lambda: None)
    save()
    assert succeeds_in_a_child(lambda: registry.save_model(linear(3.0), "ppo"))
