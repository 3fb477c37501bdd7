"""`modelyard run` in a registry of its own, as often as somebody likes, broken off or not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from modelyard import ModelMonitor, ModelVersionManager, UpdateStrategy
from modelyard._core.clock import ManualClock
from modelyard.pipeline import (
    LifecycleSettings,
    ModelSource,
    SilentProgress,
    Stream,
    files,
    lifecycle,
    run_from_files,
)

EXAMPLE = torch.ones(2, 4)


@pytest.fixture
def registry(tmp_path: Path) -> ModelVersionManager:
    return ModelVersionManager(tmp_path / "registry", clock=ManualClock())


def saved(registry: ModelVersionManager, n: int) -> list[str]:
    return [registry.save_model(nn.Linear(4, 2), "net", example_input=EXAMPLE) for _ in range(n)]


def operation_on(
    registry: ModelVersionManager, clock: ManualClock, original: str, compressed: str
) -> "lifecycle._Operation":
    inputs = torch.ones(300, 4)
    source = ModelSource(
        name="net",
        model=nn.Linear(4, 2),
        config={},
        train_inputs=inputs,
        held_out_inputs=inputs,
        evaluate=lambda _: {"gap": 0.0},
        primary_metric="gap",
        unit_scores=lambda _: np.zeros(300),
        unit_metric="gap",
    )
    columns = inputs.numpy()
    stream = Stream(
        reference_inputs=inputs,
        reference_features=columns,
        inputs=inputs,
        features=columns,
        times=[str(i) for i in range(300)],
        feature_names=["a", "b", "c", "d"],
    )
    return lifecycle._in_production(
        registry,
        source,
        {"net original": original, "net compressed": compressed},
        stream,
        LifecycleSettings(window_size=200),
        SilentProgress(),
        clock,
    )


def production(registry: ModelVersionManager) -> str:
    return registry.get_by_alias("net")["version_id"]


def test_a_run_that_was_killed_amid_a_rollout_stops_no_other(
    registry: ModelVersionManager,
) -> None:
    clock = ManualClock()
    first, second, original, compressed = saved(registry, 4)
    killed = operation_on(registry, clock, first, second)
    killed.strategy.update_model(second)
    assert killed.strategy.get_rollout()["status"] == "running"
    again = operation_on(registry, clock, original, compressed)
    assert production(registry) == original
    assert again.strategy.get_rollout() is None
    assert again.strategy.should_update()["cooldown_until"] is None
    # Its clock goes on where the other's stood.
    assert again.clock.now() > killed.clock.now()


def test_a_run_that_is_broken_off_aborts_its_rollout(
    registry: ModelVersionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    original, compressed = saved(registry, 2)
    operation = operation_on(registry, clock, original, compressed)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(lifecycle, "roll_out", interrupted)
    with pytest.raises(KeyboardInterrupt):
        operation.update(None, original)
    operation.end()
    seen = UpdateStrategy(registry, ModelMonitor("net"), is_remote=True, clock=operation.clock)
    assert seen.get_rollout() is None
    assert seen.get_update_history(1)[0]["status"] == "aborted"
    assert production(registry) == original


class _ToldEnoughError(Exception):
    pass


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration that names the registry one serves from, a model and data."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(
        "version_management: {base_dir: models}\ncompression: {distillation: {epochs: 1}}\n"
        "inference_optimization: {device: cpu}\n"
    )
    torch.save(nn.Sequential(nn.Linear(6, 3)), tmp_path / "net.pt")
    inputs = np.random.default_rng(0).normal(size=(1200, 6)).astype(np.float32)
    np.save(tmp_path / "inputs.npy", inputs)
    return tmp_path


def run(base_dir: Path | None = None) -> None:
    run_from_files(
        Path("config.yaml"),
        "net.pt",
        Path("inputs.npy"),
        Path("out"),
        seed=0,
        console=Console(quiet=True),
        base_dir=base_dir,
    )


def test_a_run_keeps_to_its_own_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    def noted(*args: object, **_: object) -> None:
        told.extend(args)
        raise _ToldEnoughError

    monkeypatch.setattr(files, "run_lifecycle", noted)
    with pytest.raises(_ToldEnoughError):
        run()
    settings, base_dir = told[2], told[3]
    assert base_dir == Path("out/registry")
    assert settings.log_dir == str(Path("out/logs"))
    assert not (place / "models").exists()


@pytest.mark.slow
def test_a_second_run_works_and_a_named_registry_gets_the_versions_alone(place: Path) -> None:
    serving = ModelVersionManager(place / "models")
    stable = serving.save_model(nn.Linear(6, 3), "net", example_input=torch.ones(2, 6))
    serving.set_alias("net", "production", stable)
    run()
    run(place / "models")
    shown = ModelVersionManager(place / "out" / "registry")
    assert len(shown.list_versions("net")) == 6  # original, compressed and faulty, twice
    assert serving.get_by_alias("net")["version_id"] == stable
    kept = serving.list_versions("net")
    assert {tag for version in kept for tag in version["tags"]} == {"original", "compressed"}
    assert UpdateStrategy(serving, ModelMonitor("net")).get_update_history() == []
