"""Many processes, killed processes, full disks: nothing stored is lost, nothing is half there."""

import errno
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch
from sqlalchemy import event
from torch import nn

from modelyard import ManualClock
from modelyard._core.errors import IntegrityError, StaleRevisionError, StorageError
from modelyard.version_manager import ModelVersionManager, manifests

SAVER = """
import sys, torch
from modelyard.version_manager import ModelVersionManager, manifests

folder, seed, n = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.manual_seed(seed)
manager = ModelVersionManager(folder)
for i in range(n):
    model = torch.nn.Linear(200, 100)
    total = float(model.weight.double().sum())
    print(manager.save_model(model, "ppo", {"sum": total}), flush=True)
"""


def start_saver(folder, seed, n):
    return subprocess.Popen(
        [sys.executable, "-c", SAVER, str(folder), str(seed), str(n)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def check_everything(folder):
    """Load and verify every version; their ids."""
    manager = ModelVersionManager(folder)
    versions = manager.list_versions()
    for version in versions:
        loaded = manager.load_model(version["version_id"], load_full=True)
        assert float(loaded.weight.detach().double().sum()) == version["metrics"]["sum"]
    manager.store.close()
    return [version["version_id"] for version in versions]


def processes_save_at_once(folder, n_processes, n_saves):
    savers = [start_saver(folder, seed, n_saves) for seed in range(n_processes)]
    answers = [saver.communicate(timeout=240) for saver in savers]
    assert [saver.returncode for saver in savers] == [0] * n_processes, answers
    ids = [line for out, _ in answers for line in out.split()]
    assert len(set(ids)) == n_processes * n_saves
    assert sorted(check_everything(folder)) == sorted(ids)


@pytest.mark.slow
def test_processes_that_save_at_once_from_nothing_all_succeed(tmp_path):
    processes_save_at_once(tmp_path / "models", 4, 10)


@pytest.mark.soak
@pytest.mark.parametrize("turn", range(4))
def test_many_processes_that_save_at_once_from_nothing_all_succeed(tmp_path, turn):
    processes_save_at_once(tmp_path / "models", 8, 50)


def kill_while_saving(folder, rng):
    """Kill a saving process at a random moment; the ids it had acknowledged."""
    saver = start_saver(folder, rng.randrange(10**6), 1000)
    first = saver.stdout.readline()
    assert first, saver.stderr.read()
    time.sleep(rng.uniform(0, 0.15))
    os.kill(saver.pid, signal.SIGKILL)
    rest = saver.stdout.read().split()
    saver.communicate()
    return [first.strip(), *rest]


def check_nothing_is_left(folder):
    """What killed saves have left is taken in or taken away; then every file has its owner."""
    manager = ModelVersionManager(folder)
    manager.rebuild()
    clock = ManualClock(datetime.now(UTC) + timedelta(days=1))
    later = ModelVersionManager(store=manager.store, clock=clock)
    later.gc(grace_hours=0)
    assert later.verify()["problems"] == []
    report = later.gc(grace_hours=0)
    assert report["leftovers"] == report["unknown_versions"] == []
    needed = {
        part["blake3"]
        for version in later.list_versions()
        for part in manifests.read(later.store, "ppo", version["version_id"])["files"].values()
    }
    assert {blob.digest for blob in later.store.blobs.stored()} == needed
    assert list(later.store.blobs.leftovers()) == []
    manager.store.close()


def survives_kills(folder, n_kills, seed):
    rng = random.Random(seed)  # noqa: S311 - moments, not secrets
    # Kept running, so that kills come in the middle of others' saves too.
    neighbour = start_saver(folder, 0, 10**6)
    acknowledged = [neighbour.stdout.readline().strip()]
    for _ in range(n_kills):
        acknowledged += kill_while_saving(folder, rng)
    os.kill(neighbour.pid, signal.SIGKILL)
    acknowledged += neighbour.communicate()[0].split()
    assert set(acknowledged) <= set(check_everything(folder))
    check_nothing_is_left(folder)


@pytest.mark.slow
def test_killed_process_leaves_an_openable_registry_without_a_damaged_version(tmp_path):
    survives_kills(tmp_path / "models", 3, seed=1)


@pytest.mark.soak
def test_many_killed_processes_leave_an_openable_registry(tmp_path):
    survives_kills(tmp_path / "models", 100, seed=2)


def test_saving_again_heals_a_damaged_blob(registry, mlp):
    version_id = registry.save_model(mlp, "ppo")
    path = Path(registry.get_version(version_id)["path"]) / "weights.safetensors"
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match="save the version again"):
        registry.load_model(version_id)
    again = registry.save_model(mlp, "ppo")
    for key in (version_id, again):
        assert torch.equal(registry.load_model(key)[0].weight, mlp[0].weight)


def test_clock_that_goes_back_changes_neither_order_nor_ids(tmp_path, mlp):
    later = ManualClock(datetime(2024, 1, 2, tzinfo=UTC))
    earlier = ManualClock(datetime(2024, 1, 1, tzinfo=UTC))
    manager = ModelVersionManager(tmp_path / "models", clock=later)
    back = ModelVersionManager(store=manager.store, clock=earlier)
    first = manager.save_model(mlp, "ppo", {"sharpe": 1.0})
    second = back.save_model(mlp, "ppo", {"sharpe": 1.0})
    again = manager.save_model(mlp, "ppo")
    assert again == f"{first}_2"
    assert [v["version_id"] for v in back.list_versions()] == [again, second, first]
    assert back.get_best_version("ppo", "sharpe")["version_id"] == second
    manager.store.close()


def test_disk_that_fills_in_the_database_leaves_the_version_out(registry, mlp, save, tmp_path):
    kept = save()
    pages = registry.store.database.engine.connect()
    used = pages.exec_driver_sql("PRAGMA page_count").scalar()
    pages.close()

    def allow(n):
        def set_limit(connection, _record, _proxy):
            connection.execute(f"PRAGMA max_page_count = {n}")

        return set_limit

    limit = allow(used)
    event.listen(registry.store.database.engine, "checkout", limit)
    with pytest.raises(StorageError, match="full"):
        registry.save_model(mlp, "ppo", config={"text": "x" * 200_000})
    event.remove(registry.store.database.engine, "checkout", limit)
    event.listen(registry.store.database.engine, "checkout", allow(10**6))
    assert [v["version_id"] for v in registry.list_versions()] == [kept]
    assert [path.name for path in (tmp_path / "models" / "ppo").iterdir()] == [kept]
    assert registry.save_model(mlp, "ppo") != kept


def test_flipped_byte_in_the_weights_is_found_and_production_stays(registry, mlp, new_mlp):
    good = registry.save_model(mlp, "ppo")
    bad = registry.save_model(new_mlp(seed=1), "ppo")
    registry.set_alias("ppo", "production", good)
    path = Path(registry.get_version(bad)["path"]) / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)  # a hard link: the blob itself changes
    with pytest.raises(IntegrityError, match="damaged"):
        registry.load_model(bad)
    with pytest.raises(IntegrityError, match="damaged"):
        registry.rollback_to_version(bad)
    assert registry.get_by_alias("ppo")["version_id"] == good


def files_in(folder):
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and "registry.db" not in path.name
    )


def test_full_disk_is_a_storage_error_and_nothing_is_lost(registry, mlp, monkeypatch, tmp_path):
    kept = registry.save_model(mlp, "ppo")
    before = files_in(tmp_path / "models")

    def no_room(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("modelyard.storage.blobs.os.fsync", no_room)
    with pytest.raises(StorageError, match="No space left"):
        registry.save_model(nn.Linear(2, 2), "ppo")
    monkeypatch.undo()
    left = set(files_in(tmp_path / "models")) - set(before)
    assert {path.parent.parent.name for path in left} == {"blobs"}  # `gc` takes them
    assert torch.equal(registry.load_model(kept)[0].weight, mlp[0].weight)


def test_disk_that_fills_at_the_manifest_leaves_no_version(registry, mlp, monkeypatch, tmp_path):
    def no_room(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("modelyard.storage.documents.write_bytes", no_room)
    with pytest.raises(StorageError, match="No space left"):
        registry.save_model(mlp, "ppo")
    monkeypatch.undo()
    assert registry.list_versions() == []
    assert list((tmp_path / "models" / "ppo").iterdir()) == []
    assert registry.load_model(registry.save_model(mlp, "ppo")) is not None


@contextmanager
def as_another_user():
    """Root may write anywhere; user 12345, who has no name, may not."""
    os.seteuid(12345)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="changes user, needs root")
def test_folder_that_may_not_be_written_is_a_storage_error_and_nothing_is_lost(mlp):
    # Not tmp_path: its parents are closed to other users.
    with tempfile.TemporaryDirectory() as folder:
        manager = ModelVersionManager(folder)
        kept = manager.save_model(mlp, "ppo")
        Path(folder).chmod(0o555)
        with as_another_user(), pytest.raises(StorageError, match="Permission denied"):
            manager.save_model(nn.Linear(1, 1), "ppo")
        with as_another_user(), pytest.raises(StorageError, match="cannot be made"):
            ModelVersionManager(Path(folder) / "inner")
        assert [version["version_id"] for version in manager.list_versions()] == [kept]
        manager.store.close()


def test_of_two_who_promote_at_once_one_wins(registry, new_mlp):
    first, *rivals = [registry.save_model(new_mlp(seed=i), "ppo") for i in range(3)]
    registry.set_alias("ppo", "production", first)
    start = threading.Barrier(2)
    outcomes = []

    def promote(version_id):
        start.wait()
        try:
            registry.set_alias("ppo", "production", version_id, expected_version_id=first)
        except StaleRevisionError:
            outcomes.append("stale")
        else:
            outcomes.append(version_id)

    threads = [threading.Thread(target=promote, args=(rival,)) for rival in rivals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes, key=lambda outcome: outcome == "stale")[1] == "stale"
    assert registry.get_by_alias("ppo")["version_id"] == outcomes[outcomes.index("stale") - 1]


def test_threads_save_load_and_tag_at_once(registry, new_mlp):
    errors = []

    def work(seed):
        try:
            model = new_mlp(seed=seed)
            version_id = registry.save_model(model, "ppo")
            registry.tag_version(version_id, "shared")
            loaded = registry.load_model(version_id, load_full=True)
            assert torch.equal(loaded[0].weight, model[0].weight)
        except Exception as error:  # noqa: BLE001 - reported below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(registry.list_versions("ppo", ["shared"])) == 8
