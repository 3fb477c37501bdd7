"""A lost database is made again from files, and is never taken for an empty one."""

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError
from torch import nn

from modelyard._core.errors import StorageError
from modelyard.storage import tables as t
from modelyard.version_manager import ModelVersionManager, rebuild_registry

YEARS_S = 50 * 365 * 24 * 3600


def told(manager):
    """Everything a registry tells."""
    return {
        "versions": manager.list_versions(),
        "history": manager.get_history(),
        "aliases": {
            (v["model_name"], alias): v["version_id"]
            for v in manager.list_versions()
            for alias in v["aliases"]
        },
    }


@pytest.fixture
def busy_registry(registry, save, clock, mlp):
    """A registry in which everything that has an event has happened."""
    gone = save()
    first = save(metrics={"sharpe": 1.0, "bad": float("nan")}, tags=["a", "b"], config={"x": [1]})
    second = save(metrics={"sharpe": 2.0}, parents=[(first, "quantized")], artifacts={"s": b"1"})
    registry.save_model(mlp, "other", description="text")
    registry.tag_version(first, "c")
    registry.untag_version(first, "a")
    registry.attach(first, "baseline", {"n": 1})
    registry.attach(first, "baseline", {"n": 2})
    registry.set_alias("ppo", "production", first)
    registry.set_alias("ppo", "production", second)
    registry.set_alias("ppo", "candidate", first)
    registry.drop_alias("ppo", "candidate")
    registry.rollback_to_version(first)
    registry.remove_version(gone)
    registry.load_model(first, trust=True)
    return registry


def lose_database(manager):
    manager.store.close()
    for file in manager.base_dir.glob("registry.db*"):
        file.unlink()


def test_rebuilt_registry_tells_what_the_lost_one_told(busy_registry, clock):
    before = told(busy_registry)
    attached = busy_registry.get_by_alias("ppo")["version_id"]
    lose_database(busy_registry)
    report = rebuild_registry(busy_registry.base_dir)
    assert report["problems"] == []
    assert len(report["versions"]) == 4
    again = ModelVersionManager(busy_registry.base_dir, clock=clock, actor="ada")
    assert told(again) == before
    assert again.read_attachment(attached, "baseline") == {"n": 2}
    assert again.load_model(attached) is not None
    (removed,) = set(report["versions"]) - {v["version_id"] for v in again.list_versions()}
    assert again.restore_version(removed)["version_id"] == removed
    assert again.verify()["problems"] == []
    assert again.save_model(again.load_model(attached), "ppo") not in report["versions"]
    again.store.close()


def test_empty_database_beside_manifests_is_refused_and_says_what_to_do(registry, save):
    save()
    lose_database(registry)
    for _ in range(2):  # the refusal leaves an empty database, which is no way round it
        with pytest.raises(StorageError, match=r"was lost.*versions rebuild.*nothing was changed"):
            ModelVersionManager(registry.base_dir)


def test_damaged_database_is_moved_aside_and_rebuilt(registry, save):
    version_id = save()
    registry.store.close()
    file = registry.base_dir / "registry.db"
    file.write_bytes(b"this is no database" * 1000)
    with pytest.raises(StorageError, match=r"damaged.*versions rebuild"):
        ModelVersionManager(registry.base_dir)
    assert rebuild_registry(registry.base_dir)["versions"] == [version_id]
    aside = [path for path in registry.base_dir.iterdir() if ".damaged-" in path.name]
    assert aside[0].read_bytes().startswith(b"this is no database")
    manager = ModelVersionManager(registry.base_dir)
    assert manager.load_model(version_id) is not None
    manager.store.close()


def test_sound_database_is_left_alone_and_unknown_versions_are_adopted(
    tmp_path, registry, save, clock
):
    known = save()
    registry.set_alias("ppo", "production", known)
    copy = tmp_path / "registry.db.backup"
    registry.store.close()
    copy.write_bytes((registry.base_dir / "registry.db").read_bytes())
    later = save(tags=["late"])
    registry.attach(later, "baseline", {"n": 1})
    registry.set_alias("ppo", "production", later)
    registry.store.close()
    for file in registry.base_dir.glob("registry.db-*"):
        file.unlink()
    copy.replace(registry.base_dir / "registry.db")  # an old backup is put back
    manager = ModelVersionManager(registry.base_dir, clock=clock)
    assert [v["version_id"] for v in manager.list_versions()] == [known]
    assert manager.gc(grace_hours=0)["unknown_versions"] == [later]
    report = manager.rebuild()
    assert report["versions"] == [later]
    assert manager.get_version(later)["tags"] == ["late"]
    assert manager.read_attachment(later, "baseline") == {"n": 1}
    assert manager.load_model(later) is not None
    assert manager.get_by_alias("ppo")["version_id"] == known
    assert manager.get_history(version_id=later)[-1]["action"] == "adopt"
    assert manager.rebuild()["versions"] == []
    assert manager.verify()["problems"] == []
    manager.store.close()


def test_what_cannot_be_restored_is_told_and_the_rest_is_restored(registry, save):
    damaged, without_bytes, whole = save(), save(), save()
    manifest = Path(registry.get_version(damaged)["path"]) / "manifest.json"
    data = bytearray(manifest.read_bytes())
    data[10] ^= 1
    manifest.write_bytes(data)
    weights = registry.store.blobs.path_of(
        next(
            part
            for part in (registry.base_dir / "blobs").rglob("*")
            if part.is_file()
            and part.samefile(
                Path(registry.get_version(without_bytes)["path"]) / "weights.safetensors"
            )
        ).name
    )
    weights.unlink()
    lose_database(registry)
    report = rebuild_registry(registry.base_dir)
    assert report["versions"] == [whole]
    problems = {problem["version_id"]: problem["problem"] for problem in report["problems"]}
    assert "expected blake3" in problems[damaged]
    assert "which is gone" in problems[without_bytes]


def test_new_version_never_takes_the_id_of_one_that_only_files_know(registry, save):
    lost = save()
    manifest = Path(registry.get_version(lost)["path"]) / "manifest.json"
    content = manifest.read_bytes()
    with registry.store.database.writing() as connection:
        for table in (t.artifact, t.version):
            connection.execute(table.delete())
    new = registry.save_model(nn.Linear(1, 1), "ppo")  # within the same second
    assert new == f"{lost}_2"
    assert manifest.read_bytes() == content


def test_event_that_was_not_committed_neither_replaces_another_nor_comes_back(
    registry, save, clock, monkeypatch
):
    version_id = save()
    registry.tag_version(version_id, "before")

    def power_cut(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # the document is written, the commit never comes
        patch.setattr("sqlalchemy.engine.Connection.commit", power_cut)
        patch.setattr("modelyard.version_manager.history._forget", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            registry.tag_version(version_id, "never")
    clock.advance(1)
    registry.tag_version(version_id, "after")  # under the same number
    documents = sorted((registry.base_dir / "ppo" / "history").iterdir())
    assert [path.name[:12] for path in documents] == ["000000000002"] + ["000000000003"] * 2
    lose_database(registry)
    assert rebuild_registry(registry.base_dir)["problems"] == []
    clock.advance(YEARS_S)  # files are as old as the machine's clock says
    manager = ModelVersionManager(registry.base_dir, clock=clock)
    assert manager.get_version(version_id)["tags"] == ["after", "before"]
    assert len(manager.gc()["leftovers"]) == 1
    assert manager.verify()["problems"] == []
    manager.store.close()


def test_events_of_a_lost_time_survive_events_with_the_same_numbers(registry, save, clock):
    known = save()
    registry.store.close()
    backup = (registry.base_dir / "registry.db").read_bytes()
    later = save()
    registry.attach(later, "baseline", {"n": 1})
    registry.store.close()
    for file in registry.base_dir.glob("registry.db-*"):
        file.unlink()
    (registry.base_dir / "registry.db").write_bytes(backup)
    manager = ModelVersionManager(registry.base_dir, clock=clock)
    clock.advance(1)
    for n in range(4):  # numbers that the lost time had given out too
        manager.tag_version(known, f"t{n}")
    clock.advance(YEARS_S)
    assert manager.gc()["leftovers"] == []
    assert manager.rebuild()["versions"] == [later]
    assert manager.read_attachment(later, "baseline") == {"n": 1}
    lose_database(manager)
    rebuild_registry(registry.base_dir)
    manager = ModelVersionManager(registry.base_dir, clock=clock)
    assert manager.read_attachment(later, "baseline") == {"n": 1}
    assert manager.get_version(known)["tags"] == ["t0", "t1", "t2", "t3"]
    manager.store.close()


def test_kill_in_the_very_first_save_locks_nobody_out(tmp_path, mlp, monkeypatch):
    manager = ModelVersionManager(tmp_path / "models")

    def power_cut(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(manager.store.blobs, "sync", power_cut)
        for store in (manager.store.documents, manager.store.blobs):  # nobody tidies up
            patch.setattr(store, "remove_folder", power_cut, raising=False)
            patch.setattr(store, "remove", lambda _: None)
        with pytest.raises(KeyboardInterrupt):
            manager.save_model(mlp, "ppo")
    manager.store.close()
    again = ModelVersionManager(tmp_path / "models")
    assert again.list_versions() == []
    (version_id,) = again.rebuild()["versions"]
    assert again.save_model(mlp, "ppo") != version_id
    again.store.close()


def test_failing_commit_leaves_no_folder(registry, mlp, monkeypatch):
    registry.list_versions()

    def full(*_):
        raise OperationalError("COMMIT", {}, Exception("database or disk is full"))

    with monkeypatch.context() as patch:
        patch.setattr("sqlalchemy.engine.Connection.commit", full)
        with pytest.raises(StorageError, match="full"):
            registry.save_model(mlp, "ppo")
    assert list((registry.base_dir / "ppo").iterdir()) == []


def test_numbers_given_out_twice_lose_no_version_and_no_later_event(
    registry, save, clock, monkeypatch
):
    first = save()

    def power_cut(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:  # a whole version that was not committed
        patch.setattr("sqlalchemy.engine.Connection.commit", power_cut)
        patch.setattr("modelyard.version_manager.saving.forget_folders", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            save()
        with pytest.raises(KeyboardInterrupt):
            registry.set_alias("ppo", "production", first)
    clock.advance(5)
    second = save()  # under the numbers of both
    registry.set_alias("ppo", "production", second)
    lose_database(registry)
    report = rebuild_registry(registry.base_dir)
    manager = ModelVersionManager(registry.base_dir, clock=clock)
    assert {first, second} <= set(report["versions"])
    assert manager.get_by_alias("ppo")["version_id"] == second
    assert len(manager.get_history("ppo", alias="production")) == 1
    assert manager.load_model(first) is not None
    assert manager.rebuild()["versions"] == []
    manager.store.close()


@pytest.mark.slow
def test_locked_database_is_not_taken_for_a_damaged_one(registry, save):
    save()
    registry.store.close()
    holder = sqlite3.connect(registry.base_dir / "registry.db", isolation_level=None)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StorageError, match="locked"):
        rebuild_registry(registry.base_dir)
    holder.close()
    assert list(registry.base_dir.glob("*.damaged*")) == []


def test_rebuild_that_finds_no_bytes_keeps_the_history_for_the_next_try(registry, save):
    version_id = save()
    registry.set_alias("ppo", "production", version_id)
    lose_database(registry)
    away = registry.base_dir.parent / "away"
    (registry.base_dir / "blobs").rename(away)
    report = rebuild_registry(registry.base_dir)
    assert (report["versions"], len(report["problems"])) == ([], 1)
    with pytest.raises(StorageError, match="was lost"):
        ModelVersionManager(registry.base_dir)
    away.rename(registry.base_dir / "blobs")
    assert rebuild_registry(registry.base_dir)["versions"] == [version_id]
    manager = ModelVersionManager(registry.base_dir)
    assert manager.get_by_alias("ppo")["version_id"] == version_id
    manager.store.close()


def test_rebuild_in_two_parts_brings_production_back_with_its_version(registry, save):
    first, second = save(), save()
    registry.set_alias("ppo", "production", second)
    weights = Path(registry.get_version(second)["path"]) / "weights.safetensors"
    (blob,) = [p for p in (registry.base_dir / "blobs").glob("??/*") if p.samefile(weights)]
    lose_database(registry)
    away = registry.base_dir.parent / "away"
    blob.rename(away)
    assert rebuild_registry(registry.base_dir)["versions"] == [first]
    away.rename(blob)
    assert rebuild_registry(registry.base_dir)["versions"] == [second]
    manager = ModelVersionManager(registry.base_dir)
    assert manager.get_by_alias("ppo")["version_id"] == second
    assert manager.verify()["problems"] == []
    manager.store.close()
