"""Odd arguments to the registry end in words that say what is wanted; figures stay finite."""

import functools
import subprocess

import pytest
import torch
from torch import nn

from modelyard._core.errors import ConfigError
from modelyard.version_manager import ModelVersionManager, environment


@pytest.fixture
def registry(tmp_path):
    return ModelVersionManager(base_dir=tmp_path / "models")


def save(registry, **options):
    return registry.save_model(nn.Linear(2, 2), "ppo", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": {"a": 10**400}}, "larger than any float"),
        ({"metrics": {"": 1.0}}, "needs a name"),
        ({"parents": None}, "ids or"),
        ({"parents": [5]}, "ids or"),
        ({"parents": [["ppo_v20240101_000000"]]}, "ids or"),
    ],
)
def test_what_cannot_be_said_of_a_version(registry, options, message):
    with pytest.raises(ConfigError, match=message):
        save(registry, **options)
    assert registry.list_versions() == []


@pytest.mark.parametrize(
    "options",
    [{"limit": 2**70}, {"limit": "1"}, {"offset": -1}, {"offset": 1.5}, {"sort_by": None}],
)
def test_what_no_list_can_be_asked_for(registry, options):
    with pytest.raises(ConfigError, match="must be"):
        registry.list_versions(**options)


@pytest.mark.parametrize("hours", [-1.0, float("nan"), float("inf"), 1e9])
def test_a_grace_is_a_time_that_passes(registry, hours):
    with pytest.raises(ConfigError, match="grace_hours must be between"):
        registry.gc(grace_hours=hours)


def test_bytes_of_all_files_are_at_least_those_stored_once(registry):
    model = nn.Linear(300, 100)
    for _ in range(3):
        registry.save_model(model, "ppo", artifacts={"scaler": torch.zeros(5000)})
    found = registry.get_statistics()
    once = found["stored_size_bytes"]
    assert once > 120_000 + 20_000
    assert found["total_size_bytes"] == 3 * once


def test_figures_of_the_largest_numbers_are_finite_or_none(registry):
    first, second = (save(registry, metrics={"pnl": pnl}) for pnl in (1.7e308, 1.6e308))
    third = save(registry, metrics={"pnl": -1.7e308})
    registry.remove_version(third)
    assert registry.get_statistics()["metrics"]["pnl"]["mean"] == pytest.approx(1.65e308)
    assert registry.compare_versions(first, second)["metrics"]["pnl"]["difference"] < 0
    registry.restore_version(third)
    found = registry.compare_versions(third, first)["metrics"]["pnl"]
    assert found["difference"] is None
    assert found["better"] == first


def git(folder, *arguments):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_the_commit_is_that_of_the_moment(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "_GIT_HOLDS_S", 1e-9)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    code = work / "code.py"
    code.write_text("a = 1\n")
    git(work, "init")
    git(work, "add", ".")
    git(work, "commit", "-m", "first")
    clean = registry.get_version(save(registry))["environment"]
    code.write_text("a = 2\n")
    dirty = registry.get_version(save(registry))["environment"]
    git(work, "commit", "-a", "-m", "second")
    after = registry.get_version(save(registry))["environment"]
    assert [one["git_dirty"] for one in (clean, dirty, after)] == [False, True, False]
    assert clean["git_commit"] == dirty["git_commit"] != after["git_commit"]


def test_git_is_asked_once_in_a_while(registry, monkeypatch):
    asked = []
    monkeypatch.setattr(environment, "_git", lambda *arguments: asked.append(arguments))
    monkeypatch.setattr(environment, "_GIT_HOLDS_S", 1e9)
    for _ in range(3):
        save(registry)
    assert len(asked) <= 2


def test_a_working_folder_that_is_gone_is_no_hindrance(registry, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert registry.get_version(save(registry))["environment"]["git_commit"] is None


def test_classes_are_vouched_for_by_classes(registry):
    version_id = save(registry)
    for odd in (nn.Linear, "x", 5, ["x"], [nn.Linear(1, 1)]):
        with pytest.raises(ConfigError, match="trusted_classes"):
            registry.load_model(version_id, trusted_classes=odd)
    with pytest.raises(ConfigError, match="a class such as Linear, got an object of it"):
        registry.load_model(version_id, nn.Linear(2, 2))
    assert registry.load_model(version_id, trusted_classes=iter([nn.Linear])).in_features == 2


def test_what_only_a_dangerous_call_could_make_is_said_at_save(registry):
    model = nn.Linear(2, 2)
    model.reduce = functools.partial(torch.sum, dim=1)
    version_id = registry.save_model(model, "ppo", config={"in_features": 2, "out_features": 2})
    found = registry.get_version(version_id)
    assert not found["can_load_full"]
    assert "builtins.getattr" in found["cannot_load_full_reason"]
    assert torch.equal(registry.load_model(version_id, nn.Linear).weight, model.weight)
