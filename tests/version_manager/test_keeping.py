"""Removing, leases, verification and what killed saves leave behind."""

import itertools
import logging
import os
import re
from pathlib import Path

import pytest

from modelyard._core.errors import (
    ConfigError,
    IntegrityError,
    NotFoundError,
    VersionInUseError,
    VersionNotFoundError,
)
from modelyard.storage import tables as t
from modelyard.storage.sealed import sealed, unsealed
from modelyard.version_manager import ModelVersionManager, lineage_tree

DAY_S = 24 * 3600


def flip(path, position=-2):
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def age(path, hours=100):
    """Let a file look old: leftovers are told by the file's own time."""
    then = path.stat().st_mtime - hours * 3600
    os.utime(path, (then, then))


@pytest.fixture
def now_registry(tmp_path, mlp):
    """A registry on the machine's clock, as files have it, with one version."""
    manager = ModelVersionManager(tmp_path / "now")
    manager.save_model(mlp, "ppo")
    yield manager
    manager.store.close()


# ── removing ────────────────────────────────────────────────────────────────────────────────


def test_removed_version_is_gone_until_restored(registry, save):
    version_id = save()
    registry.remove_version(version_id)
    with pytest.raises(VersionNotFoundError, match="restore_version"):
        registry.load_model(version_id)
    assert registry.list_versions() == []
    assert registry.restore_version(version_id)["version_id"] == version_id
    assert [e["action"] for e in registry.get_history()] == ["save", "remove", "restore"]


def test_needed_versions_say_what_needs_them(registry, save, clock):
    parent = save(tags=["milestone"])
    child = save(parents=parent)
    before, now = save(), save()
    registry.set_alias("ppo", "production", before)
    registry.set_alias("ppo", "production", now)
    registry.set_alias("ppo", "mine", child)
    with registry.store.database.writing() as connection:
        row = {"rollout_id": "r1", "model_name": "ppo", "new_version_id": child, "revision": 1}
        connection.execute(t.rollout.insert(), {**row, "status": "running", "state": {}})
    expected = {
        parent: ["tagged 'milestone'", f"{child} was made from it"],
        child: ["the alias 'mine' points to it", "rollout r1"],
        before: ["a rollback may go to it"],
        now: ["the alias 'production'"],
    }
    for version_id, reasons in expected.items():
        with pytest.raises(VersionInUseError) as caught:
            registry.remove_version(version_id)
        assert all(reason in str(caught.value) for reason in reasons), str(caught.value)
    assert len(registry.list_versions()) == 4
    clock.advance(10 * DAY_S)
    assert registry.cleanup_old_versions("ppo", 1) == []


def test_lease_keeps_a_version_until_it_runs_out_or_is_given_up(registry, save, clock):
    held = save()
    registry.hold_version(held, holder="server-1", seconds=3 * DAY_S)
    clock.advance(2 * DAY_S)
    save()
    with pytest.raises(VersionInUseError, match="server-1 holds it"):
        registry.remove_version(held)
    assert registry.cleanup_old_versions("ppo", 1) == []
    registry.hold_version(held, holder="server-1", seconds=3 * DAY_S)  # renewed
    registry.hold_version(held, holder="server-2", seconds=1)
    clock.advance(2 * DAY_S)
    with pytest.raises(VersionInUseError, match="server-1 holds it"):
        registry.remove_version(held)
    registry.release_version(held, holder="server-2")  # has run out: nothing
    registry.release_version(held, holder="server-1")
    registry.remove_version(held)
    with pytest.raises(VersionNotFoundError):
        registry.hold_version(held, holder="server-1", seconds=1)


def test_lease_with_an_endless_name_is_refused(registry, save):
    with pytest.raises(ConfigError, match="too long"):
        registry.hold_version(save(), holder="x" * 300, seconds=1)


# ── leftovers ───────────────────────────────────────────────────────────────────────────────


def test_leftovers_of_killed_saves_go_once_they_are_old(now_registry):
    base = now_registry.base_dir
    whole = sorted(path for path in base.rglob("*") if "registry.db" not in path.name)
    orphan = base / "blobs" / "ab" / ("ab" + "0" * 62)
    incoming = base / "blobs" / "incoming" / "0123456789abcdef"
    folder = base / "ppo" / "ppo_v20200101_000000" / "weights.safetensors"
    half = next(base.glob("ppo/ppo_v*")) / ".manifest.json.0123abcd.tmp"
    event = base / "ppo" / "history" / "000000000001-0123456789ab.json"  # number 1 was the save
    leftovers = [orphan, incoming, folder, half, event]
    for path in leftovers:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    event.write_bytes(sealed({"action": "tag"}))
    assert now_registry.gc()["leftovers"] == []  # perhaps somebody is writing them
    for path in leftovers:
        age(path)
    plan = now_registry.gc(dry_run=True)
    assert len(plan["leftovers"]) == len(leftovers)
    assert all(path.exists() for path in leftovers)
    assert now_registry.gc() == plan
    assert not any(path.exists() for path in leftovers)
    for path in whole:
        assert path.exists(), path
    assert now_registry.verify()["problems"] == []


def test_other_peoples_files_are_never_leftovers(now_registry):
    base = now_registry.base_dir
    others = [
        base / "onnx" / "ppo.onnx",
        base / "ppo" / "notes.txt",
        base / "ppo" / "history" / "mine.json",
        base / "ppo" / "other_v20200101_000000" / "weights.safetensors",
        base / ".git" / "config",
        base / "data.json",
    ]
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
        age(path)
    assert now_registry.gc()["leftovers"] == []
    assert all(path.exists() for path in others)


def test_bytes_a_manifest_names_are_kept_though_the_database_lost_them(now_registry, tmp_path):
    (version,) = now_registry.list_versions()
    for path in now_registry.base_dir.rglob("*"):
        if path.is_file() and "registry.db" not in path.name:
            age(path)
    with now_registry.store.database.writing() as connection:
        for table in (t.metric, t.artifact, t.blob, t.version):
            connection.execute(table.delete())
    report = now_registry.gc(grace_hours=0)
    assert report["unknown_versions"] == [version["version_id"]]
    assert report["leftovers"] == []
    assert now_registry.rebuild()["versions"] == [version["version_id"]]
    assert now_registry.load_model(version["version_id"]) is not None


# ── verification ────────────────────────────────────────────────────────────────────────────


def test_sound_registry_has_no_problems(registry, save):
    version_id = save(artifacts={"s": b"123"})
    registry.attach(version_id, "baseline", [1])
    registry.tag_version(version_id, "a")
    registry.set_alias("ppo", "production", version_id)
    report = registry.verify()
    assert report["problems"] == []
    assert report["n_versions"] == 1
    assert report["n_bytes"] > 0


@pytest.mark.parametrize(
    "file", ["weights.safetensors", "module.pt", "artifacts/s", "manifest.json"]
)
def test_flipped_byte_in_any_file_is_found_with_path_expected_and_found(registry, save, file):
    good = save(artifacts={"s": b"other"})
    bad = save(artifacts={"s": b"123"}, config={"only": "here"})
    path = Path(registry.get_version(bad)["path"]) / file
    if file == "module.pt":  # both have the same
        registry.remove_version(good)
    flip(path)
    problems = registry.verify()["problems"]
    assert [problem["version_id"] for problem in problems] == [bad]
    assert re.search("damaged: expected .* found", problems[0]["problem"])
    if file == "artifacts/s":
        with pytest.raises(IntegrityError, match=r"damaged: expected .* found"):
            registry.read_artifact(bad, "s")
        return
    for load in (registry.load_model, registry.verify_version, registry.rollback_to_version):
        with pytest.raises(IntegrityError, match=r"damaged: expected .* found"):
            load(bad)


@pytest.mark.parametrize("n", range(0, 2000, 97))
def test_flipped_byte_anywhere_in_the_manifest_is_found_at_load(registry, save, n):
    version_id = save(config={"a": 1})
    path = Path(registry.get_version(version_id)["path"]) / "manifest.json"
    flip(path, n % path.stat().st_size)
    with pytest.raises(IntegrityError, match=r"manifest\.json"):
        registry.load_model(version_id)


def test_lost_manifest_is_a_warning_and_is_repaired(registry, save, caplog):
    version_id = save(tags=["a"], metrics={"sharpe": 1.0})
    registry.tag_version(version_id, "b")
    path = Path(registry.get_version(version_id)["path"]) / "manifest.json"
    content = unsealed(path.read_bytes(), where="before")
    path.unlink()
    with caplog.at_level(logging.WARNING):
        assert registry.load_model(version_id) is not None
    assert "verify --repair" in caplog.text
    assert not registry.verify()["problems"][0]["is_repaired"]
    (problem,) = registry.verify(repair=True)["problems"]
    assert problem["is_repaired"]
    assert unsealed(path.read_bytes(), where="after") == content
    assert registry.verify()["problems"] == []


def test_damaged_event_is_found_and_repaired(registry, save):
    version_id = save()
    registry.tag_version(version_id, "b")
    (event,) = (registry.base_dir / "ppo" / "history").iterdir()
    content = unsealed(event.read_bytes(), where="before")
    for damage in (lambda: flip(event), event.unlink):
        damage()
        assert len(registry.verify(repair=True)["problems"]) == 1
        assert unsealed(event.read_bytes(), where="after") == content
        assert registry.verify()["problems"] == []


def test_lost_blobs_come_back_from_the_versions_folder(registry, save):
    version_id = save()
    for path in (registry.base_dir / "blobs").glob("??/*"):
        path.unlink()
    problems = registry.verify()["problems"]
    assert {problem["version_id"] for problem in problems} == {version_id}
    assert not any(problem["is_repaired"] for problem in problems)
    assert all(problem["is_repaired"] for problem in registry.verify(repair=True)["problems"])
    assert registry.load_model(version_id) is not None
    assert registry.verify()["problems"] == []


def test_blobs_lost_for_good_are_told_without_an_exception(registry, save):
    version_id = save()
    for path in (registry.base_dir / "blobs").glob("??/*"):
        path.unlink()
    folder = Path(registry.get_version(version_id)["path"])
    flip(folder / "weights.safetensors")
    (folder / "manifest.json").unlink()
    repaired = [problem["is_repaired"] for problem in registry.verify(repair=True)["problems"]]
    assert sorted(repaired) == [False, True, True]
    assert (folder / "weights.safetensors").is_file()  # repairing destroys nothing
    assert (folder / "manifest.json").is_file()


def test_family_of_many_generations_is_shown(registry):
    names = [f"ppo_v20240101_{n:06d}" for n in range(3000)]
    lineage = {
        "version_id": names[0],
        "nodes": [
            {"version_id": n, "model_name": "ppo", "metrics": {}, "is_removed": False}
            for n in names
        ],
        "edges": [
            {"parent": a, "child": b, "kind": "retrained"} for a, b in itertools.pairwise(names)
        ],
    }
    lines = lineage_tree(lineage, lambda node: node["version_id"])
    assert len(lines) == 3000
    assert lines[2] == f"    {names[2]} (retrained)"


# ── lineage ─────────────────────────────────────────────────────────────────────────────────


def test_lineage_is_the_whole_family_of_a_version(registry, save):
    root = save(metrics={"sharpe": 1.0})
    left = save(parents=[(root, "compressed")])
    right = save(parents=[(root, "distilled")])
    joined = save(parents=[(left, "retrained"), (right, "retrained")])
    stranger = save()
    expected = [
        {"parent": left, "child": joined, "kind": "retrained"},
        {"parent": right, "child": joined, "kind": "retrained"},
        {"parent": root, "child": left, "kind": "compressed"},
        {"parent": root, "child": right, "kind": "distilled"},
    ]
    for version_id in (root, joined):
        found = registry.get_lineage(version_id)
        assert [node["version_id"] for node in found["nodes"]] == [root, left, right, joined]
        assert found["edges"] == sorted(expected, key=lambda e: (e["parent"], e["child"]))
        assert found["nodes"][0]["metrics"] == {"sharpe": 1.0}
    assert [n["version_id"] for n in registry.get_lineage(left)["nodes"]] == [root, left, joined]
    assert registry.get_lineage(stranger)["edges"] == []
    with pytest.raises(NotFoundError):
        registry.get_lineage("ppo_v20200101_000000")


# ── environment ─────────────────────────────────────────────────────────────────────────────


def test_other_environment_is_told_once(registry, save, caplog, monkeypatch):
    version_id = save()
    from modelyard.version_manager import manager as module

    now = {**module.current_environment()}
    now["packages"] = {**now["packages"], "torch": "9.9.9"}
    now["machine"] = "abacus"
    monkeypatch.setattr(module, "current_environment", lambda: now)
    with caplog.at_level(logging.WARNING):
        registry.load_model(version_id)
        registry.load_model(version_id)
    (record,) = [r for r in caplog.records if "another environment" in r.message]
    assert "torch 2.13" in record.message
    assert "9.9.9 now" in record.message
    assert "abacus now" in record.message


def test_same_environment_is_not_worth_a_word(registry, save, caplog):
    with caplog.at_level(logging.WARNING):
        registry.load_model(save())
    assert caplog.text == ""


def test_environment_tells_python_packages_machine_and_commit(registry, save):
    found = registry.get_version(save())["environment"]
    assert found["packages"]["torch"].startswith("2.13")
    assert {"python", "platform", "machine", "processor", "n_cpus", "gpu"} <= found.keys()
    assert {"git_commit", "git_dirty"} <= found.keys()


@pytest.mark.parametrize("name", ["blobs", "Cache", "registry.db", "registry.db-wal"])
def test_names_of_the_registrys_own_files_are_refused(registry, mlp, name):
    with pytest.raises(ConfigError, match="choose another"):
        registry.save_model(mlp, name)


def test_versions_can_be_listed_in_pages(registry, save):
    ids = [save() for _ in range(5)][::-1]
    pages = [registry.list_versions(limit=2, offset=n) for n in (0, 2, 4, 6)]
    assert [[v["version_id"] for v in page] for page in pages] == [ids[:2], ids[2:4], ids[4:], []]
    for wrong in ({"limit": -1}, {"offset": -1}):
        with pytest.raises(ConfigError, match="0 or more"):
            registry.list_versions(**wrong)


def test_many_versions_come_with_all_that_belongs_to_them(registry, mlp):
    version_id = registry.save_model(mlp, "ppo", {"sharpe": 1.0}, tags=["a"])
    with registry.store.database.writing() as connection:
        (row,) = connection.execute(t.version.select()).mappings()
        copies = [{**row, "seq": n, "version_id": f"copy{n}"} for n in range(2, 700)]
        connection.execute(t.version.insert(), copies)
        metrics = [
            {
                "version_id": c["version_id"],
                "name": "sharpe",
                "value": c["seq"],
                "model_name": "ppo",
            }
            for c in copies
        ]
        connection.execute(t.metric.insert(), metrics)
    found = registry.list_versions("ppo", sort_by="sharpe", ascending=True)
    assert [v["metrics"]["sharpe"] for v in found] == [1.0, *map(float, range(2, 700))]
    assert found[0]["version_id"] == version_id
    assert found[0]["tags"] == ["a"]
    assert registry.get_best_version("ppo", "sharpe")["version_id"] == "copy699"
    assert len(registry.list_versions("ppo", sort_by="sharpe", limit=600, offset=50)) == 600


def test_nothing_is_freed_while_a_damaged_manifest_may_name_it(now_registry, tmp_path):
    (version,) = now_registry.list_versions()
    with now_registry.store.database.writing() as connection:
        for table in (t.metric, t.artifact, t.blob, t.version):
            connection.execute(table.delete())
    for path in now_registry.base_dir.rglob("*"):
        if path.is_file() and "registry.db" not in path.name:
            age(path)
    flip(Path(version["path"]) / "manifest.json")
    before = list(now_registry.store.blobs.stored())
    assert now_registry.gc()["leftovers"] == []
    assert list(now_registry.store.blobs.stored()) == before


def test_gc_that_is_killed_between_its_steps_frees_the_rest_the_next_time(
    registry, save, clock, monkeypatch
):
    gone = save()
    registry.remove_version(gone)
    clock.advance(2 * DAY_S)

    def power_cut(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(registry.store.documents, "remove_folder", power_cut)
        with pytest.raises(KeyboardInterrupt):
            registry.gc()
    with pytest.raises(VersionNotFoundError, match="gone"):
        registry.restore_version(gone)
    clock.advance(50 * 365 * DAY_S)
    freed = registry.gc()
    assert freed["freed"]
    assert registry.verify()["problems"] == []
    assert list(registry.store.blobs.stored()) == []


def test_negative_grace_is_refused(registry):
    with pytest.raises(ConfigError, match="between 0 and"):
        registry.gc(grace_hours=-1)
