"""Every call of the registry, on a local folder."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from modelyard._core.errors import (
    ConfigError,
    InputError,
    NotFoundError,
    StaleRevisionError,
    VersionNotFoundError,
)
from modelyard.version_manager import ModelVersionManager

VERSION_KEYS = {
    "version_id",
    "model_name",
    "timestamp",
    "datetime",
    "metrics",
    "non_finite_metrics",
    "config",
    "description",
    "tags",
    "path",
    "sha256",
    "size_bytes",
    "format",
    "parents",
    "aliases",
    "can_load_full",
    "cannot_load_full_reason",
    "class_name",
    "signature",
    "environment",
}
DAY_S = 24 * 3600


class Sized(nn.Module):
    """A module whose constructor takes part of the config."""

    def __init__(self, size, *, bias=True):
        super().__init__()
        self.layer = nn.Linear(size, 2, bias=bias)

    def forward(self, x):
        return self.layer(x)


# ── saving ──────────────────────────────────────────────────────────────────────────────────


def test_ids_name_the_second_and_count_within_it(registry, mlp):
    ids = [registry.save_model(mlp, "ppo") for _ in range(3)]
    assert ids == ["ppo_v20231120_120000", "ppo_v20231120_120000_2", "ppo_v20231120_120000_3"]


def test_version_tells_all_that_was_saved(registry, mlp, tmp_path):
    version_id = registry.save_model(
        mlp,
        "ppo",
        metrics={"sharpe": np.float32(1.5), "loss": float("nan"), "wins": True},
        config={"size": np.int64(3), "nested": {"lr": 1e-3}, "path": Path("data")},
        description="first",
        tags=["b", "a", "b"],
        example_input=torch.zeros(5, 8),
    )
    version = registry.get_version(version_id)
    assert version.keys() == VERSION_KEYS
    assert json.loads(json.dumps(version, allow_nan=False)) == version
    assert version["timestamp"] == "20231120_120000"
    assert version["datetime"] == "2023-11-20T12:00:00+00:00"
    assert version["metrics"] == {"sharpe": 1.5, "loss": None, "wins": 1.0}
    assert version["non_finite_metrics"] == ["loss"]
    assert version["config"] == {"size": 3, "nested": {"lr": 1e-3}, "path": "data"}
    assert version["tags"] == ["a", "b"]
    assert version["path"] == str(tmp_path / "models" / "ppo" / version_id)
    assert version["size_bytes"] == (Path(version["path"]) / "weights.safetensors").stat().st_size
    assert version["can_load_full"]
    assert version["signature"]["inputs"] == [
        {"name": "input", "shape": [None, 8], "dtype": "float32"}
    ]
    assert version["environment"]["packages"]["torch"] == torch.__version__


def test_folder_holds_the_files_and_a_manifest(registry, mlp):
    version = registry.get_version(
        registry.save_model(mlp, "ppo", {"sharpe": 1.0}, artifacts={"scaler": b"abc"})
    )
    folder = Path(version["path"])
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["sha256"] == version["sha256"]
    assert manifest["metrics"] == {"sharpe": 1.0}
    for name, file in manifest["files"].items():
        assert (folder / name).stat().st_size == file["size_bytes"]
    assert (folder / "artifacts" / "scaler").read_bytes() == b"abc"


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "..", ".hidden", "a" * 121, 7, "a..b"])
def test_names_never_leave_their_folder(registry, mlp, name):
    with pytest.raises(ConfigError, match="not allowed"):
        registry.save_model(mlp, name)
    version_id = registry.save_model(mlp, "ppo")
    with pytest.raises(ConfigError, match="not allowed"):
        registry.tag_version(version_id, name)
    with pytest.raises(ConfigError, match="not allowed"):
        registry.attach(version_id, name, b"")
    with pytest.raises(ConfigError, match="not allowed"):
        registry.set_alias("ppo", name, version_id)
    with pytest.raises(ConfigError, match="not allowed"):
        registry.save_model(mlp, "ppo", artifacts={name: b""})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"config": {"opt": {"fn": object()}}}, r"config\.opt\.fn holds a builtins\.object"),
        ({"config": {"lr": float("inf")}}, r"config\.lr is inf"),
        ({"metrics": {"sharpe": "good"}}, r"metrics\.sharpe must be a number"),
        ({"metrics": {"m" * 121: 1.0}}, "120 is the limit"),
        ({"tags": "production"}, "must be a list"),
        ({"parents": [("ppo_v1", "stolen")]}, "Lineage kind 'stolen'"),
        ({"artifacts": {"scaler": object()}}, "artifact 'scaler'"),
        ({"artifacts": {"scaler": np.array([object()])}}, "Python objects"),
    ],
)
def test_what_cannot_be_stored_is_named_and_nothing_is_stored(registry, mlp, options, message):
    with pytest.raises(ConfigError, match=message):
        registry.save_model(mlp, "ppo", **options)
    assert registry.list_versions() == []


def test_unknown_parent_stores_nothing(registry, mlp, tmp_path):
    with pytest.raises(VersionNotFoundError, match="parents: No version 'gone'"):
        registry.save_model(mlp, "ppo", parents="gone")
    assert registry.list_versions() == []
    assert not (tmp_path / "models" / "ppo").exists()


def test_model_that_is_no_module_is_refused(registry):
    with pytest.raises(InputError, match=r"nn\.Module"):
        registry.save_model({"weights": [1.0]}, "ppo")


def test_module_that_cannot_be_pickled_is_saved_without_its_description(registry, mlp):
    mlp.hook = lambda x: x
    version_id = registry.save_model(mlp, "ppo")
    version = registry.get_version(version_id)
    assert not version["can_load_full"]
    assert "cannot be pickled" in version["cannot_load_full_reason"]
    with pytest.raises(InputError, match="Pass model_class="):
        registry.load_model(version_id, load_full=True)
    with pytest.raises(InputError, match="Pass model_class="):
        registry.load_model(version_id)


def test_original_of_a_compressor_is_saved_with_one_warning(registry, mlp, caplog):
    from modelyard.compression import ModelCompressor

    ModelCompressor(mlp).prune_model(0.5)
    registry.save_model(mlp, "ppo")
    registry.save_model(mlp, "ppo")
    assert [r.message for r in caplog.records if "compressor.model" in r.message] != []
    assert len(caplog.records) == 1


# ── loading ─────────────────────────────────────────────────────────────────────────────────


def test_module_comes_back_bit_for_bit_in_eval_mode(registry, mlp):
    mlp.train()
    loaded = registry.load_model(registry.save_model(mlp, "ppo"), load_full=True)
    assert not any(module.training for module in loaded.modules())
    assert mlp.training
    for name, tensor in mlp.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_class_gets_the_config_keys_its_constructor_takes(registry):
    config = {"size": 3, "bias": False, "learning_rate": 1e-3}
    version_id = registry.save_model(Sized(3, bias=False), "ppo", config=config)
    loaded = registry.load_model(version_id, Sized)
    assert loaded.layer.bias is None
    assert loaded.layer.in_features == 3


def test_class_that_cannot_be_made_names_the_config(registry):
    version_id = registry.save_model(Sized(3), "ppo", config={"other": 1})
    with pytest.raises(InputError, match=r"size.*The version's config has the keys: other"):
        registry.load_model(version_id, Sized)


@pytest.mark.slow
def test_weights_that_do_not_fit_the_class_are_refused(registry):
    version_id = registry.save_model(Sized(3), "ppo", config={"size": 4})
    with pytest.raises(InputError, match="do not fit Sized"):
        registry.load_model(version_id, Sized)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_class_keeps_the_stored_precision(registry, dtype):
    model = Sized(3).to(dtype)
    loaded = registry.load_model(registry.save_model(model, "ppo", config={"size": 3}), Sized)
    assert loaded.layer.weight.dtype == dtype
    assert torch.equal(loaded.layer.weight, model.layer.weight)


def test_training_a_loaded_model_leaves_the_stored_one_alone(registry, mlp):
    version_id = registry.save_model(mlp, "ppo")
    loaded = registry.load_model(version_id)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(1.0)
    again = registry.load_model(version_id)
    assert torch.equal(again[0].weight, mlp[0].weight)


def test_unknown_version_names_the_newest(registry, mlp):
    newest = registry.save_model(mlp, "ppo")
    with pytest.raises(VersionNotFoundError, match=newest):
        registry.load_model("ppo_v19990101_000000")


# ── finding ─────────────────────────────────────────────────────────────────────────────────


def test_newest_come_first_whatever_the_clock_says(registry, mlp, save, clock):
    ids = [save() for _ in range(3)]
    assert [v["version_id"] for v in registry.list_versions()] == ids[::-1]
    assert [v["version_id"] for v in registry.list_versions(ascending=True)] == ids


def test_versions_are_filtered_by_model_and_by_all_tags(registry, save):
    both = save(tags=["a", "b"])
    save(tags=["a"])
    save("other", tags=["a", "b"])
    found = registry.list_versions("ppo", tags=["a", "b"])
    assert [v["version_id"] for v in found] == [both]
    many = [f"tag{i}" for i in range(1500)]
    tagged = save(tags=many)
    assert [v["version_id"] for v in registry.list_versions(tags=many)] == [tagged]


@pytest.mark.parametrize("key", ["sharpe", "metrics.sharpe"])
def test_versions_sort_by_a_metric_and_those_without_come_last(registry, save, key):
    low, none, high = save(metrics={"sharpe": 0.5}), save(), save(metrics={"sharpe": 2.0})
    nan = save(metrics={"sharpe": float("nan")})
    ids = [v["version_id"] for v in registry.list_versions(sort_by=key)]
    assert ids == [high, low, nan, none]
    ids = [v["version_id"] for v in registry.list_versions(sort_by=key, ascending=True)]
    assert ids == [low, high, nan, none]


def test_unknown_sort_key_names_those_there_are(registry, save):
    save(metrics={"sharpe": 1.0})
    with pytest.raises(ConfigError, match=r"'sharp'.*timestamp.*sharpe"):
        registry.list_versions(sort_by="sharp")


def test_best_version_leaves_nan_out_and_prefers_the_newest_of_equals(registry, save):
    save(metrics={"sharpe": 1.0, "loss": 0.1})
    equal = save(metrics={"sharpe": 1.0, "loss": 0.2})
    save(metrics={"sharpe": float("nan"), "loss": float("inf")})
    save(metrics={"other": 9.0})
    assert registry.get_best_version("ppo", "sharpe")["version_id"] == equal
    assert registry.get_best_version("ppo", "loss", maximize=False)["metrics"]["loss"] == 0.1


def test_best_version_without_the_metric_names_the_metrics_there_are(registry, save):
    save(metrics={"sharpe": 1.0, "broken": float("nan")})
    with pytest.raises(VersionNotFoundError, match=r"finite 'broken'.*sharpe"):
        registry.get_best_version("ppo", "broken")
    with pytest.raises(VersionNotFoundError, match=r"'ghost' is stored. Models: ppo"):
        registry.get_best_version("ghost", "sharpe")


def test_comparison_tells_metrics_config_size_and_lineage(registry, save):
    first = save(metrics={"sharpe": 1.0, "loss": 0.4}, config={"lr": 0.1, "net": {"d": 8}})
    second = save(
        metrics={"sharpe": 1.5, "loss": 0.2},
        config={"lr": 0.1, "net": {"d": 16}},
        parents=[(first, "compressed")],
    )
    found = registry.compare_versions(first, second)
    sharpe = found["metrics"]["sharpe"]
    assert sharpe == {
        "value1": 1.0,
        "value2": 1.5,
        "difference": 0.5,
        "relative_change": 0.5,
        "better": second,
    }
    assert found["metrics"]["loss"]["better"] == second
    assert found["config"] == {"net.d": {"value1": 8, "value2": 16}}
    assert found["size_bytes"]["ratio"] == 1.0
    assert found["lineage"] == f"{second} was made from {first}"
    assert registry.compare_versions(first, second, ["sharpe"])["metrics"].keys() == {"sharpe"}
    missing = registry.compare_versions(first, second, ["absent"])["metrics"]["absent"]
    assert missing["better"] is None


def test_statistics_count_equal_bytes_once(registry, mlp, clock):
    for day in range(2):
        registry.save_model(mlp, "ppo", metrics={"sharpe": float(day), "max_dd": float(day)})
        clock.advance(DAY_S)
    found = registry.get_statistics("ppo")
    assert found["total_versions"] == 2
    assert found["versions_by_model"] == {"ppo": 2}
    assert found["stored_size_bytes"] < found["total_size_bytes"] * 2
    assert found["versions_per_day"] == {"2023-11-20": 1, "2023-11-21": 1}
    assert found["metrics"]["sharpe"]["mean"] == 0.5
    newest, oldest = registry.list_versions()
    assert found["metrics"]["sharpe"]["best"] == newest["version_id"]
    assert found["metrics"]["max_dd"]["best"] == oldest["version_id"]
    assert registry.get_statistics("ghost")["total_versions"] == 0


# ── aliases, tags, history ──────────────────────────────────────────────────────────────────


def test_rollback_moves_production_and_tells_the_previous(registry, save):
    old, new = save(), save()
    assert registry.set_alias("ppo", "production", new)["previous_version_id"] is None
    back = registry.rollback_to_version(old)
    assert back["version_id"] == old
    assert back["previous_version_id"] == new
    assert back["aliases"] == ["production"]
    assert registry.get_by_alias("ppo")["version_id"] == old
    assert len(registry.list_versions()) == 2


def test_history_says_who_did_what_in_order(registry, save):
    version_id = save()
    registry.set_alias("ppo", "candidate", version_id, actor="bob")
    registry.tag_version(version_id, "good")
    registry.untag_version(version_id, "good")
    registry.attach(version_id, "baseline", {"mean": 1.0})
    registry.rollback_to_version(version_id)
    registry.drop_alias("ppo", "candidate")
    records = registry.get_history(version_id=version_id)
    assert [(r["action"], r["actor"]) for r in records] == [
        ("save", "ada"),
        ("set_alias", "bob"),
        ("tag", "ada"),
        ("untag", "ada"),
        ("attach", "ada"),
        ("rollback", "ada"),
        ("drop_alias", "ada"),
    ]
    assert records[-2]["detail"] == {"alias": "production", "previous_version_id": None}
    assert [r["seq"] for r in records] == sorted(r["seq"] for r in records)


def test_alias_expected_elsewhere_is_not_moved(registry, save):
    first, second, third = save(), save(), save()
    registry.set_alias("ppo", "production", first)
    registry.set_alias("ppo", "production", second, expected_version_id=first)
    with pytest.raises(StaleRevisionError, match=f"points to '{second}', not to '{first}'"):
        registry.set_alias("ppo", "production", third, expected_version_id=first)
    assert registry.get_by_alias("ppo")["version_id"] == second


def test_alias_of_another_model_is_refused(registry, save):
    other = save("other")
    with pytest.raises(ConfigError, match="a version of 'other', not of 'ppo'"):
        registry.set_alias("ppo", "production", other)


def test_unknown_alias_names_those_there_are(registry, save):
    registry.set_alias("ppo", "candidate", save())
    with pytest.raises(VersionNotFoundError, match=r"no alias 'production'.*candidate"):
        registry.get_by_alias("ppo")
    with pytest.raises(VersionNotFoundError, match="no alias"):
        registry.drop_alias("ppo", "production")


def test_tag_moves_no_alias(registry, save):
    version_id = save()
    assert registry.tag_version(version_id, "production")["tags"] == ["production"]
    assert registry.tag_version(version_id, "production")["tags"] == ["production"]
    with pytest.raises(VersionNotFoundError):
        registry.get_by_alias("ppo")
    assert registry.untag_version(version_id, "never")["tags"] == ["production"]


# ── artifacts and attachments ───────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "value",
    [
        b"raw bytes",
        {"mean": [1.0, 2.0], "name": "scaler"},
        [1, "two", None],
        np.arange(6, dtype=np.int16).reshape(2, 3),
        np.array(["a", "bc"]),
        torch.tensor([1.5, float("nan")]),
        (torch.zeros(2), torch.ones(1, dtype=torch.int64)),
        {"a": torch.zeros(2), "b": torch.tensor(True)},
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_travels_with_a_version_comes_back_as_it_went_in(registry, mlp, value):
    version_id = registry.save_model(mlp, "ppo", artifacts={"thing": value})
    registry.attach(version_id, "thing", value)
    for found in (
        registry.read_artifact(version_id, "thing"),
        registry.read_attachment(version_id, "thing"),
    ):
        assert type(found) is type(value)
        np.testing.assert_equal(_comparable(found), _comparable(value))


def _comparable(value):
    if isinstance(value, torch.Tensor):
        return value.numpy()
    if isinstance(value, dict):
        return {key: _comparable(item) for key, item in value.items()}
    return [_comparable(item) for item in value] if isinstance(value, tuple) else value


def test_attachment_is_replaced_and_unknown_ones_name_those_there_are(registry, save):
    version_id = save()
    registry.attach(version_id, "baseline", {"n": 1})
    registry.attach(version_id, "baseline", {"n": 2})
    assert registry.read_attachment(version_id, "baseline") == {"n": 2}
    with pytest.raises(NotFoundError, match=r"no attachment 'tuning'\. There are: baseline"):
        registry.read_attachment(version_id, "tuning")


def test_example_input_travels_with_the_version(registry, mlp):
    version_id = registry.save_model(mlp, "ppo", example_input=(torch.zeros(1, 8),))
    assert torch.equal(registry.read_artifact(version_id, "example_input")[0], torch.zeros(1, 8))


# ── removing ────────────────────────────────────────────────────────────────────────────────


def test_cleanup_keeps_the_newest_and_everything_that_is_needed(registry, save, clock):
    aliased, milestone, parent = save(), save(tags=["milestone"]), save()
    old = [save(), save()]
    save(parents=parent)
    clock.advance(2 * DAY_S)
    newest = save()
    planned = registry.cleanup_old_versions("ppo", 2, dry_run=True)
    registry.set_alias("ppo", "champion", aliased)
    assert set(planned) == {aliased, *old}
    assert registry.cleanup_old_versions("ppo", 2) == old
    left = {v["version_id"] for v in registry.list_versions()}
    assert {aliased, milestone, parent, newest} <= left
    assert left.isdisjoint(old)


def test_cleanup_by_metric_keeps_the_best_and_those_without_it(registry, save, clock):
    worst = save(metrics={"loss": 0.9})
    best = save(metrics={"loss": 0.1})
    without = save()
    clock.advance(2 * DAY_S)
    assert registry.cleanup_old_versions("ppo", 1, "loss", maximize=False) == [worst]
    assert {v["version_id"] for v in registry.list_versions()} == {best, without}


def test_young_versions_are_never_removed(registry, save, clock):
    save()
    clock.advance(DAY_S - 10)
    save()
    assert registry.cleanup_old_versions("ppo", 1) == []


def test_removed_version_says_so_and_can_be_restored(registry, save, clock):
    old = save()
    clock.advance(2 * DAY_S)
    save()
    assert registry.cleanup_old_versions("ppo", 1) == [old]
    with pytest.raises(VersionNotFoundError, match=r"was removed at .* restore_version"):
        registry.load_model(old)
    assert registry.restore_version(old)["version_id"] == old
    assert registry.load_model(old) is not None


def test_collected_version_is_gone_for_good_and_its_bytes_are_freed(registry, save, clock):
    old = save()
    path = Path(registry.get_version(old)["path"])
    clock.advance(2 * DAY_S)
    kept = save()
    registry.cleanup_old_versions("ppo", 1)
    nothing = registry.gc()  # removed just now
    assert nothing["condemned"] == nothing["freed"] == nothing["versions"] == []
    clock.advance(2 * DAY_S)
    plan = registry.gc(dry_run=True)
    assert registry.gc() == plan  # condemned now, freed after another time of grace
    assert plan["versions"] == [old]
    assert plan["condemned"]
    assert plan["freed"] == []
    clock.advance(2 * DAY_S)
    plan = registry.gc(dry_run=True)
    assert all(registry.store.blobs.has(digest) for digest in plan["freed"])
    assert registry.gc() == plan
    assert plan["freed_bytes"] > 0
    assert not any(registry.store.blobs.has(digest) for digest in plan["freed"])
    assert not path.exists()
    with pytest.raises(VersionNotFoundError, match="gc"):
        registry.restore_version(old)
    assert registry.load_model(kept) is not None


def test_save_of_condemned_bytes_takes_them_back(registry, clock):
    model = nn.Linear(2, 2)
    registry.save_model(model, "ppo")
    clock.advance(2 * DAY_S)
    registry.save_model(nn.Linear(3, 3), "ppo")
    registry.cleanup_old_versions("ppo", 1)
    clock.advance(2 * DAY_S)
    registry.gc()  # condemns
    again = registry.save_model(model, "ppo")
    clock.advance(2 * DAY_S)
    registry.gc()
    assert torch.equal(registry.load_model(again).weight, model.weight)


def test_bytes_collected_between_put_and_commit_are_written_again(registry, clock, monkeypatch):
    blobs = registry.store.blobs
    put = blobs.put

    def put_and_lose(fill):
        ref = put(fill)
        monkeypatch.setattr(blobs, "put", put)
        blobs.remove(ref.digest)
        return ref

    version_id = registry.save_model(nn.Linear(2, 2), "ppo")
    monkeypatch.setattr(blobs, "put", put_and_lose)
    registry.attach(version_id, "baseline", {"n": 1})
    assert registry.read_attachment(version_id, "baseline") == {"n": 1}


def test_auto_cleanup_follows_each_save(tmp_path, clock, new_mlp):
    manager = ModelVersionManager(tmp_path, clock=clock, auto_cleanup=True, keep_best_n=2)
    for seed in range(4):
        manager.save_model(new_mlp(seed=seed), "ppo")
        clock.advance(2 * DAY_S)
    assert len(manager.list_versions()) == 2
    manager.store.close()


@pytest.mark.parametrize("n", [0, -1])
def test_keeping_nothing_is_refused(registry, tmp_path, n):
    with pytest.raises(ConfigError, match="1 or more"):
        registry.cleanup_old_versions(keep_best_n=n)
    with pytest.raises(ConfigError, match="1 or more"):
        ModelVersionManager(tmp_path, keep_best_n=n)


def test_manager_on_an_open_store_writes_to_the_stores_folder(registry, mlp, tmp_path):
    second = ModelVersionManager(store=registry.store)
    version = second.get_version(second.save_model(mlp, "ppo"))
    assert version["path"].startswith(str(tmp_path / "models"))


def test_user_without_a_name_can_open_a_registry(tmp_path, monkeypatch):
    def nameless():
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", nameless)
    manager = ModelVersionManager(tmp_path)
    manager.save_model(nn.Linear(1, 1), "ppo")
    assert manager.get_history()[0]["actor"].startswith("uid ")
    manager.store.close()


def test_manager_goes_on_where_it_was_after_the_folder_changes(tmp_path, monkeypatch, mlp):
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    manager = ModelVersionManager("models")
    first = manager.save_model(mlp, "ppo")
    monkeypatch.chdir(tmp_path)
    assert manager.load_model(first) is not None
    second = manager.save_model(mlp, "ppo")
    assert manager.get_version(second)["path"] == str(Path("models") / "ppo" / second)
    assert (tmp_path / "a" / "models" / "ppo" / second / "manifest.json").is_file()
    assert not (tmp_path / "models").exists()
    manager.store.close()


@pytest.mark.parametrize("name", ["a b", "ünï", "a?b", "a#b", "p%41", "a?timeout=1"])
def test_folder_may_have_any_name(tmp_path, mlp, name):
    manager = ModelVersionManager(tmp_path / name)
    assert manager.load_model(manager.save_model(mlp, "ppo")) is not None
    manager.store.close()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_was_closed_keeps_all_and_opens_again(tmp_path, mlp):
    with ModelVersionManager(tmp_path) as opened:
        version_id = opened.save_model(mlp, "ppo", {"sharpe": 1.0})
    assert not (tmp_path / "registry.db-wal").exists()  # SQLite's last connection takes it along
    assert opened.get_version(version_id)["metrics"] == {"sharpe": 1.0}
    opened.close()
    opened.close()
    assert (
        ModelVersionManager(tmp_path).get_best_version("ppo", "sharpe")["version_id"] == version_id
    )
