"""The stages on a small model of the user's own kind."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from modelyard import ModelVersionManager
from modelyard._core.config import load_config
from modelyard._core.errors import ConfigError, InputError, UntrustedClassError
from modelyard.pipeline import run_from_files
from modelyard.pipeline.files import settings_from
from modelyard.pipeline.loading import load_user_model

CONFIG = """\
version_management: {{base_dir: "{base}"}}
compression: {{distillation: {{epochs: 2}}}}
inference_optimization: {{device: cpu, batch_size: 8}}
ab_testing: {{min_samples: 50}}
monitoring: {{window_size: 200}}
"""

FACTORY = """\
import torch
from torch import nn


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))


def wrong():
    return 1
"""


def silent() -> Console:
    return Console(quiet=True)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: configuration, factory and data."""
    name = f"users_model_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(FACTORY)
    (tmp_path / "config.yaml").write_text(CONFIG.format(base=tmp_path / "models"))
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(1500, 6)).astype(np.float32)
    np.savez(tmp_path / "data.npz", inputs=inputs, targets=rng.integers(0, 3, size=1500))
    np.save(tmp_path / "inputs.npy", inputs)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "name").write_text(name)
    return tmp_path


def factory(workplace: Path, function: str = "make") -> str:
    return f"{(workplace / 'name').read_text()}:{function}"


@pytest.mark.slow
@pytest.mark.parametrize("data", ["data.npz", "inputs.npy"])
def test_run_takes_a_users_model_through_every_stage(workplace: Path, data: str) -> None:
    report = run_from_files(
        workplace / "config.yaml",
        factory(workplace),
        workplace / data,
        workplace / "out",
        seed=0,
        console=silent(),
    )
    text = report.read_text(encoding="utf-8")
    for title in ("Compression", "Export and inference", "A/B test", "Monitoring", "Rollouts"):
        assert title in text
    manager = ModelVersionManager(workplace / "out" / "registry")
    tags = {tag for version in manager.list_versions("make") for tag in version["tags"]}
    assert tags == {"original", "compressed", "faulty"}
    production = manager.get_by_alias("make")
    assert manager.load_model(production["version_id"])(torch.zeros(1, 6)).shape == (1, 3)
    faulty = manager.list_versions("make", tags=["faulty"])[0]
    assert production["version_id"] != faulty["version_id"]
    assert (workplace / "out" / "onnx" / "make_compressed.onnx").is_file()
    assert not (workplace / "models").exists()


@pytest.mark.slow
def test_compressed_version_knows_what_it_was_made_from(workplace: Path) -> None:
    run_from_files(
        workplace / "config.yaml",
        factory(workplace),
        workplace / "data.npz",
        workplace / "out",
        seed=0,
        console=silent(),
    )
    manager = ModelVersionManager(workplace / "out" / "registry")
    small = manager.list_versions("make", tags=["compressed"])[0]
    original = manager.list_versions("make", tags=["original"])[0]
    assert small["parents"] == [original["version_id"]]
    assert json.dumps(manager.read_attachment(small["version_id"], "compression"))
    assert manager.read_attachment(original["version_id"], "baseline")


def test_without_model_and_data_the_error_names_the_demo(workplace: Path) -> None:
    with pytest.raises(ConfigError, match="modelyard demo"):
        run_from_files(workplace / "config.yaml", None, None, workplace, seed=0, console=silent())


def test_model_file_is_read_without_running_code(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "model.pt")
    assert isinstance(load_user_model(str(tmp_path / "model.pt")), nn.Sequential)


class Hostile:
    def __reduce__(self):
        return (Path.touch, (Path("ran"),))


def test_hostile_model_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(Hostile(), "model.pt")
    with pytest.raises(UntrustedClassError):
        load_user_model("model.pt")
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("spec", "message"),
    [("nothing.pt", "neither a file nor"), ("no_such_module:make", "cannot be imported")],
)
def test_model_that_is_not_there_names_the_way_out(spec: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_user_model(spec)


def test_factory_that_gives_no_module_is_an_error(workplace: Path) -> None:
    with pytest.raises(InputError, match=r"no nn\.Module"):
        load_user_model(factory(workplace, "wrong"))


def test_settings_follow_the_file(workplace: Path) -> None:
    settings = settings_from(load_config(workplace / "config.yaml"), n_stream=10_000, seed=3)
    assert settings.compression.epochs == 2
    assert settings.compression.seed == 3
    assert settings.inference["batch_size"] == 8
    assert settings.window_size == 200
    assert settings.update["min_samples"] == 200
