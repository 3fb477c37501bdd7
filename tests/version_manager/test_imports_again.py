"""Bundles whose versions are, or were, in the registry already."""

import pytest
from torch import nn

from modelyard._core.errors import ConflictError
from modelyard.version_manager import ModelVersionManager, garbage, rebuild_registry

DAY_S = 24 * 3600


@pytest.fixture
def removed(registry, save, tmp_path):
    """A version that was removed, and its bundle."""
    version = save(metrics={"sharpe": 1.0, "bad": float("nan")}, artifacts={"s": [1]})
    registry.attach(version, "baseline", {"mean": 0.5})
    path = registry.export_bundle(version, tmp_path / "v.tar")
    registry.remove_version(version)
    return version, path


def take(registry, clock):
    """Have gc take the bytes of what was removed."""
    for _ in range(2):
        clock.advance(2 * DAY_S)
        registry.gc()


def check_whole(registry, version):
    assert registry.get_version(version)["metrics"] == {"sharpe": 1.0, "bad": None}
    assert registry.load_model(version).weight.tolist() == [[0.0, 0.0]]
    assert registry.read_artifact(version, "s") == [1]
    assert registry.read_attachment(version, "baseline") == {"mean": 0.5}
    assert registry.verify()["problems"] == []


def test_import_restores_a_removed_version(registry, removed):
    version, path = removed
    assert registry.import_bundle(path) == {version: version}
    check_whole(registry, version)
    actions = [event["action"] for event in registry.get_history(version_id=version)]
    assert actions.count("restore") == 1


def test_import_brings_back_what_gc_has_taken(registry, removed, clock):
    version, path = removed
    take(registry, clock)
    assert registry.import_bundle(path) == {version: version}
    check_whole(registry, version)
    registry.store.close()
    for file in registry.base_dir.glob("registry.db*"):
        file.unlink()
    assert rebuild_registry(registry.base_dir)["problems"] == []
    rebuilt = ModelVersionManager(registry.base_dir)
    check_whole(rebuilt, version)
    rebuilt.store.close()


def test_other_version_in_the_place_of_one_that_gc_took_is_refused(registry, clock, tmp_path):
    other = ModelVersionManager(tmp_path / "other", clock=clock)
    version = registry.save_model(nn.Linear(1, 1), "ppo")
    assert other.save_model(nn.Linear(1, 1), "ppo") == version
    path = other.export_bundle(version, tmp_path / "v.tar")
    other.store.close()
    registry.remove_version(version)
    take(registry, clock)
    with pytest.raises(ConflictError, match="another version"):
        registry.import_bundle(path)


def test_gc_at_the_same_time_leaves_what_was_brought_back(registry, removed, clock, monkeypatch):
    version, path = removed
    folder = registry.base_dir / "ppo" / version
    begin = garbage._condemned

    def condemned(*given, **options):
        monkeypatch.setattr(type(registry.store.documents), "remove_folder", import_first)
        return begin(*given, **options)

    remove = type(registry.store.documents).remove_folder

    def import_first(documents, name):
        monkeypatch.setattr(type(registry.store.documents), "remove_folder", remove)
        registry.import_bundle(path)
        remove(documents, name)

    monkeypatch.setattr(garbage, "_condemned", condemned)
    clock.advance(2 * DAY_S)
    registry.gc()
    assert (folder / "manifest.json").exists()
    check_whole(registry, version)


def test_rename_keeps_ids_that_are_free_and_versions_that_are_here(registry, tmp_path, clock):
    versions = [registry.save_model(nn.Linear(1, 1), "ppo") for _ in range(2)]
    path = registry.export_bundle(versions[1], tmp_path / "second.tar")
    other = ModelVersionManager(tmp_path / "other", clock=clock)
    for _ in range(3):
        assert other.import_bundle(path, rename=True) == {versions[1]: versions[1]}
    assert [version["version_id"] for version in other.list_versions()] == [versions[1]]
    other.store.close()
