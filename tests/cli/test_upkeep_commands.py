"""`modelyard versions save, remove, gc, verify, rebuild, export, import, lineage`."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from modelyard import ModelExporter
from modelyard.version_manager import ModelVersionManager


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "policy.pt"
    torch.save(nn.Linear(4, 2), path)
    return path


def test_save_makes_a_registry_and_a_version_with_all_that_was_said(run_json, policy, tmp_path):
    (tmp_path / "config.json").write_text('{"hidden_dim": 4}')
    words = [
        "versions",
        "save",
        policy,
        "ppo",
        "--metric",
        "sharpe=1.8",
        "--metric",
        "max_dd=-1e-1",
    ]
    first = run_json(*words, "--tag", "v2", "--description", "text", "--config", "config.json")
    assert first["metrics"] == {"sharpe": 1.8, "max_dd": -0.1}
    assert (first["tags"], first["config"]) == (["v2"], {"hidden_dim": 4})
    parent = f"{first['version_id']}:quantized"
    second = run_json("versions", "save", policy, "ppo", "--parent", parent)
    assert second["parents"] == [first["version_id"]]
    loaded = ModelVersionManager("models").load_model(second["version_id"])
    assert torch.equal(loaded.weight, torch.load(policy, weights_only=False).weight)


def test_onnx_files_and_factories_can_be_saved_too(run, registry, tmp_path):
    path = ModelExporter(tmp_path).export_to_onnx(nn.Linear(4, 2), "ppo", input_shape=(1, 4))
    (tmp_path / "own_factory.py").write_text("import torch\ndef make(): return torch.nn.ReLU()\n")
    for model, kind in ((path, "OnnxModule"), ("own_factory:make", "ReLU")):
        version_id = run("versions", "save", model, "ppo").stdout.strip()
        assert registry.get_version(version_id)["class_name"].endswith(kind)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--metric", "sharpe"], "sharpe=1.8"),
        (["--metric", "sharpe=much"], "sharpe=1.8"),
        (["--config", "nowhere.json"], "cannot be read"),
        (["--config", "list.json"], "one JSON object"),
        (["--parent", "ppo_v20200101_000000"], "No version"),
        (["--parent", "x:bought"], "bought"),
    ],
)
def test_what_cannot_be_saved_is_said_and_stores_nothing(run, policy, tmp_path, options, said):
    (tmp_path / "list.json").write_text("[]")
    result = run("versions", "save", policy, "ppo", *options, exit_code=1)
    assert said in result.stderr
    assert ModelVersionManager("models").list_versions() == []


def test_remove_restore_and_gc_say_what_they_do(run, run_json, ids, registry):
    assert "removed" in run("versions", "remove", ids[2]).stdout
    assert "cannot be removed: the alias" in run("versions", "remove", ids[0], exit_code=1).stderr
    assert "is back" in run("versions", "restore", ids[2]).stdout
    run("versions", "remove", ids[2])
    plan = run_json("versions", "gc", "--dry-run", "--grace-hours", 0)
    assert plan["versions"] == [ids[2]]
    assert plan["is_dry_run"]
    assert registry.restore_version(ids[2]) is not None
    run("versions", "remove", ids[2])
    assert (
        f"{ids[2]} can be restored"
        in run("versions", "gc", "--dry-run", "--grace-hours", 0).stdout
    )
    assert f"{ids[2]} can no longer be" in run("versions", "gc", "--grace-hours", 0).stdout
    assert "freed" in run("versions", "gc", "--grace-hours", 0).stdout
    assert "are gone" in run("versions", "restore", ids[2], exit_code=1).stderr


def test_verify_finds_repairs_and_tells_by_its_exit(run, run_json, ids, registry):
    assert "no problems" in run("versions", "verify").stdout
    manifest = Path(registry.get_version(ids[1])["path"]) / "manifest.json"
    manifest.unlink()
    assert "gone" in run("versions", "verify", "ppo", exit_code=3).stdout
    assert run_json("versions", "verify", "--repair")["problems"][0]["is_repaired"]
    assert manifest.is_file()
    assert "no problems" in run("versions", "verify").stdout


def test_rebuild_restores_a_lost_database(run, run_json, ids, registry, tmp_path):
    before = registry.list_versions()
    registry.store.close()
    for file in Path("models").glob("registry.db*"):
        file.unlink()
    assert "is gone, but versions are there" in run("versions", "list", exit_code=1).stderr
    assert "3 versions and 1 events" in run("versions", "rebuild").stdout
    assert ModelVersionManager("models").list_versions() == before
    assert run_json("versions", "rebuild")["versions"] == []
    assert (
        "There is no folder" in run("versions", "rebuild", "--base-dir", "x", exit_code=1).stderr
    )


def test_a_bundle_that_is_not_there_makes_no_registry(run):
    run("versions", "import", "nosuch.tar", "--base-dir", "new", exit_code=2)
    assert not Path("new").exists()


def test_without_a_grace_time_blobs_are_freed_and_not_condemned_too(run_json, ids):
    run_json("versions", "remove", ids[1])
    report = run_json("versions", "gc", "--grace-hours", "0")
    assert report["freed"]
    assert not set(report["freed"]) & set(report["condemned"])


def test_versions_go_from_registry_to_registry(run, run_json, ids, tmp_path):
    assert "MB" in run("versions", "export", ids[0], ids[1], "--out", "out.tar").stdout
    said = run("versions", "import", "out.tar", "--base-dir", "elsewhere").stdout
    assert said.split() == ids[:2]
    again = run_json("versions", "import", "out.tar", "--base-dir", "elsewhere", "--rename")
    assert again == {key: key for key in ids[:2]}
    assert len(ModelVersionManager("elsewhere").list_versions()) == 2
    assert (
        "no version"
        in run("versions", "export", "x", "--out", "x.tar", exit_code=1).stderr.lower()
    )


def test_lineage_is_a_tree(run, run_json, ids, registry):
    child = registry.save_model(nn.Linear(4, 2), "ppo", parents=[(ids[0], "quantized")])
    grandchild = registry.save_model(
        nn.Linear(4, 2), "ppo", parents=[child, (ids[1], "distilled")]
    )
    lines = run("versions", "lineage", child).stdout.splitlines()
    assert lines[0].startswith(ids[0])
    assert lines[1] == f"  > {child} (quantized)"
    assert lines[2] == f"    {grandchild} (retrained)"
    assert json.loads(json.dumps(run_json("versions", "lineage", child)))["edges"] == [
        {"parent": ids[0], "child": child, "kind": "quantized"},
        {"parent": child, "child": grandchild, "kind": "retrained"},
    ]


def test_history_of_an_alias_is_where_it_pointed(run_json, ids, registry):
    registry.rollback_to_version(ids[1])
    moves = run_json("versions", "history", "--alias", "production")
    assert [move["version_id"] for move in moves] == ids[:2]


def test_list_is_shown_in_pages(run_json, ids):
    pages = [run_json("versions", "list", "--limit", 2, "--offset", n) for n in (0, 2)]
    assert [v["version_id"] for page in pages for v in page] == ids[::-1]
