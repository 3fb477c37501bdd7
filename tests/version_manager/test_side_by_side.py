"""Work that goes on beside other work: syncs while others write, hashes while modules are made."""

import threading

import pytest
import torch
from torch import nn

from modelyard._core.errors import IntegrityError, StorageError
from modelyard.version_manager import ModelVersionManager, contents


def linear(value):
    layer = nn.Linear(2, 1)
    nn.init.constant_(layer.weight, value)
    return layer


@pytest.fixture
def other(registry):
    """The same registry as another process has it open."""
    manager = ModelVersionManager(registry.base_dir)
    yield manager
    manager.store.close()


def save_while_held(registry, other, monkeypatch, sync):
    """Save while `other` is in a transaction that ends once `sync` was called; what came of it."""
    came_to_sync = threading.Event()
    found = []

    def noted_sync(digests):
        try:
            return sync(list(digests))
        finally:
            came_to_sync.set()

    def save():
        try:
            found.append(registry.save_model(linear(1.0), "ppo"))
        except StorageError as error:
            found.append(error)

    monkeypatch.setattr(registry.store.blobs, "sync", noted_sync)
    thread = threading.Thread(target=save)
    with other.store.database.writing():
        thread.start()
        assert came_to_sync.wait(30)
    thread.join(30)
    return found[0]


def test_whoever_waits_for_the_lock_brings_its_blobs_to_the_disk_meanwhile(
    registry, other, monkeypatch
):
    synced = []
    real = registry.store.blobs.sync

    def sync(digests):
        synced.extend(digests)
        real(digests)

    version_id = save_while_held(registry, other, monkeypatch, sync)
    assert registry.load_model(version_id).weight[0, 0] == 1.0
    # Both blobs before the lock was had, and both again with it, when nothing is left to write.
    assert len(synced) == 4
    assert set(synced[:2]) == set(synced[2:])


def test_a_blob_that_gc_takes_from_who_waits_is_written_again(registry, other, monkeypatch):
    real = registry.store.blobs.sync
    taken = []

    def sync(digests):
        if not taken:
            taken.extend(digests)
            registry.store.blobs.remove(digests[0])
        real(digests)

    version_id = save_while_held(registry, other, monkeypatch, sync)
    assert taken
    assert registry.load_model(version_id).weight[0, 0] == 1.0
    assert not registry.verify()["problems"]


def test_a_disk_that_refuses_while_one_waits_ends_the_save(registry, other, monkeypatch):
    def sync(digests):
        raise StorageError(f"no space for {digests}")

    error = save_while_held(registry, other, monkeypatch, sync)
    assert isinstance(error, StorageError)
    assert not registry.list_versions()


@pytest.mark.parametrize("options", [{}, {"model_class": nn.Identity}])
def test_large_weights_are_hashed_aside_and_damage_is_found_all_the_same(
    registry, save, monkeypatch, options
):
    version_id = save()
    monkeypatch.setattr(contents, "WORTH_THREADS_BYTES", 0)
    if not options:
        assert torch.equal(
            registry.load_model(version_id).weight, registry.load_model(version_id).weight
        )
    weights = registry.base_dir / "ppo" / version_id / "weights.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(data)
    with pytest.raises(IntegrityError, match="expected blake3"):
        registry.load_model(version_id, **options)
    with pytest.raises(IntegrityError, match="expected blake3"):
        registry.verify_version(version_id)


def test_large_weights_are_loaded_where_no_thread_can_be_had(registry, save, monkeypatch):
    version_id = save()
    monkeypatch.setattr(contents, "WORTH_THREADS_BYTES", 0)

    def refuse(*_):
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(contents.ThreadPoolExecutor, "submit", refuse)
    assert isinstance(registry.load_model(version_id), nn.Linear)
