"""The same short suite wherever a registry can live."""

import uuid
from dataclasses import replace

import pytest
import torch

from modelyard import ManualClock
from modelyard._core.errors import (
    ConfigError,
    IntegrityError,
    StaleRevisionError,
    StorageError,
    VersionNotFoundError,
)
from modelyard.storage import Database, open_store
from modelyard.version_manager import ModelVersionManager
from modelyard.version_manager.rebuild import rebuild

DAY_S = 24 * 3600


PLACES = ["sqlite", "memory-database", "postgres", "s3", "postgres-s3"]
PLACES += ["memory-blobs", "file-blobs"]


@pytest.fixture(params=PLACES)
def options(request, tmp_path):
    """What a manager is opened with. Several managers of one test share the place."""
    if request.param == "memory-database":
        return {"store": open_store(tmp_path, database_url="sqlite://")}
    if request.param == "memory-blobs":
        return {"store": open_store(tmp_path, storage_url="memory://")}
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_url")
        return {"base_dir": tmp_path, "database_url": url}
    if request.param in {"s3", "postgres-s3"}:
        places = {"storage_url": f"{request.getfixturevalue('s3_url')}/{uuid.uuid4().hex}"}
        if request.param == "postgres-s3":
            places["database_url"] = request.getfixturevalue("postgres_url")
        return {"base_dir": tmp_path, **places}
    if request.param == "file-blobs":
        return {"base_dir": tmp_path, "storage_url": (tmp_path / "remote").as_uri()}
    return {"base_dir": tmp_path}


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def name():
    """A model name of the test's own: PostgreSQL is shared by all."""
    return f"ppo-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def registry(options, clock):
    manager = ModelVersionManager(**options, clock=clock)
    yield manager
    manager.store.close()


@pytest.mark.slow
def test_saved_version_loads_bit_for_bit_through_another_manager(
    registry, options, clock, name, mlp
):
    version_id = registry.save_model(
        mlp, name, {"sharpe": 1.5, "bad": float("nan")}, {"lr": 0.1}, "text", ["a"]
    )
    other = ModelVersionManager(**options, clock=clock)
    version = other.get_version(version_id)
    assert version["metrics"] == {"sharpe": 1.5, "bad": None}
    assert version["config"] == {"lr": 0.1}
    loaded = other.load_model(version_id)
    assert all(
        torch.equal(loaded.state_dict()[key], tensor) for key, tensor in mlp.state_dict().items()
    )
    if "storage_url" in options:
        assert version["path"] == f"{options['storage_url']}/{name}/{version_id}"
    other.store.close()


def test_versions_are_found_sorted_and_compared(registry, name, mlp):
    first = registry.save_model(mlp, name, {"sharpe": 1.0}, tags=["a"])
    second = registry.save_model(mlp, name, {"sharpe": 2.0}, tags=["a", "b"], parents=first)
    third = registry.save_model(mlp, name)
    ids = [v["version_id"] for v in registry.list_versions(name, sort_by="sharpe")]
    assert ids == [second, first, third]
    assert [v["version_id"] for v in registry.list_versions(name, ["a", "b"])] == [second]
    assert registry.get_best_version(name, "sharpe")["version_id"] == second
    assert registry.compare_versions(first, second)["lineage"].startswith(second)
    assert registry.get_statistics(name)["total_versions"] == 3


def test_aliases_move_once_and_are_audited(registry, name, mlp):
    first, second = registry.save_model(mlp, name), registry.save_model(mlp, name)
    registry.set_alias(name, "production", first)
    registry.set_alias(name, "production", second, expected_version_id=first)
    with pytest.raises(StaleRevisionError):
        registry.set_alias(name, "production", second, expected_version_id=first)
    assert registry.rollback_to_version(first)["previous_version_id"] == second
    actions = [record["action"] for record in registry.get_history(name)]
    assert actions == ["save", "save", "set_alias", "set_alias", "rollback"]


def test_attachments_come_back_and_are_replaced(registry, name, mlp):
    version_id = registry.save_model(mlp, name, artifacts={"scaler": b"abc"})
    for n in (1, 2):
        registry.attach(version_id, "baseline", {"n": n})
    assert registry.read_attachment(version_id, "baseline") == {"n": 2}
    assert registry.read_artifact(version_id, "scaler") == b"abc"


def test_removed_bytes_are_freed_and_shared_ones_stay(registry, name, new_mlp, clock):
    gone = registry.save_model(new_mlp(seed=1), name)
    clock.advance(2 * DAY_S)
    kept = registry.save_model(new_mlp(seed=2), name)
    assert registry.cleanup_old_versions(name, 1) == [gone]
    for _ in range(2):
        clock.advance(2 * DAY_S)
        freed = registry.gc()["freed"]
    assert freed
    assert not any(registry.store.blobs.has(digest) for digest in freed)
    assert registry.load_model(kept) is not None
    with pytest.raises(VersionNotFoundError):
        registry.load_model(gone)


def test_refused_metric_stores_nothing(registry, name, mlp):
    with pytest.raises(ConfigError):
        registry.save_model(mlp, name, {"m" * 121: 1.0})
    assert registry.list_versions(name) == []


def test_everything_verifies_and_a_lost_manifest_is_written_again(registry, name, mlp):
    version_id = registry.save_model(mlp, name, artifacts={"scaler": b"abc"})
    registry.tag_version(version_id, "a")
    registry.attach(version_id, "baseline", {"n": 1})
    assert registry.verify(name)["problems"] == []
    registry.store.documents.remove(f"{name}/{version_id}/manifest.json")
    (problem,) = registry.verify(name, repair=True)["problems"]
    assert problem["is_repaired"]
    assert registry.verify(name)["problems"] == []


def test_bundle_goes_from_any_store_to_any(registry, name, mlp, tmp_path, clock):
    first = registry.save_model(mlp, name, {"sharpe": 1.0}, tags=["a"])
    second = registry.save_model(mlp, name, parents=[(first, "quantized")])
    registry.attach(second, "baseline", {"n": 1})
    path = registry.export_bundle(second, tmp_path / "out.tar")
    other = ModelVersionManager(tmp_path / "other", clock=clock)
    other.import_bundle(path)
    back = other.export_bundle(second, tmp_path / "back.tar")
    assert registry.import_bundle(back) == {first: first, second: second}
    assert other.read_attachment(second, "baseline") == {"n": 1}
    assert other.get_lineage(first) == registry.get_lineage(first)
    other.store.close()


def test_another_database_is_filled_from_the_files(registry, options, name, mlp, tmp_path, clock):
    version_id = registry.save_model(mlp, name, {"sharpe": 1.0}, tags=["a"])
    registry.tag_version(version_id, "b")
    registry.attach(version_id, "baseline", {"n": 1})
    registry.set_alias(name, "production", version_id)
    store = registry.store
    fresh = replace(store, database=Database(f"sqlite:///{tmp_path}/fresh.db"))
    with pytest.raises(StorageError, match="rebuild"):
        ModelVersionManager(store=fresh, clock=clock)
    assert version_id in rebuild(fresh, now=clock.now(), actor="me")["versions"]
    other = ModelVersionManager(store=fresh, clock=clock)
    assert other.get_version(version_id) == registry.get_version(version_id)
    assert other.get_by_alias(name)["version_id"] == version_id
    assert other.read_attachment(version_id, "baseline") == {"n": 1}
    assert other.get_history(name) == registry.get_history(name)
    fresh.database.close()


def test_leftover_blobs_go_and_named_ones_stay(registry, name, mlp, clock):
    version_id = registry.save_model(mlp, name)
    orphan = registry.store.blobs.put(lambda file: file.write(b"half a save"))
    clock.advance(50 * 365 * DAY_S)  # blobs are as old as the machine's clock says
    report = registry.gc()
    assert orphan.digest in report["leftovers"]
    assert not registry.store.blobs.has(orphan.digest)
    assert registry.load_model(version_id) is not None


@pytest.mark.parametrize("damage", ["blob", "manifest"])
def test_copies_kept_here_do_not_hide_what_the_store_has_lost(tmp_path, mlp, damage):
    url = (tmp_path / "remote").as_uri()
    manager = ModelVersionManager(tmp_path / "models", storage_url=url)
    version_id = manager.save_model(mlp, "ppo")
    (lost,) = (
        [tmp_path / "remote" / "ppo" / version_id / "manifest.json"]
        if damage == "manifest"
        else sorted((tmp_path / "remote" / "blobs").glob("??/*"))[:1]
    )
    lost.unlink()
    assert [p["version_id"] for p in manager.verify()["problems"]] == [version_id]
    if damage == "blob":
        with pytest.raises(IntegrityError, match="is gone"):
            manager.rollback_to_version(version_id)
    manager.store.close()


def test_two_stores_with_one_folder_do_not_mix(tmp_path, new_mlp, clock):
    places = [(tmp_path / name).as_uri() for name in ("x", "y")]
    managers = [
        ModelVersionManager(
            tmp_path / "models", database_url="sqlite://", storage_url=url, clock=clock
        )
        for url in places
    ]
    for seed, manager in enumerate(managers):  # the same id in the same second
        manager.save_model(new_mlp(seed=seed), "ppo")
    for manager in managers:
        assert manager.verify()["problems"] == []
        manager.store.close()
