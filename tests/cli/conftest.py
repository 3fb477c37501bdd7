"""A registry with three versions of one model, and a way to run commands on it."""

import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from modelyard._core.clock import ManualClock
from modelyard.cli import app
from modelyard.version_manager import ModelVersionManager


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def registry(in_a_folder_of_its_own):
    """In the folder `models` of the working directory, where commands look by default."""
    return ModelVersionManager("models", clock=ManualClock(), actor="tester")


@pytest.fixture
def ids(registry):
    """Three versions of ppo, their Sharpe ratios rising; the first is production."""
    example = torch.ones(2, 4)
    saved = [
        registry.save_model(
            nn.Linear(4, 2),
            "ppo",
            metrics={"sharpe": 1.0 + i, "max_dd": 0.3 - 0.1 * i},
            config={"hidden_dim": 2**i},
            tags=["nightly"],
            example_input=example,
        )
        for i in range(3)
    ]
    registry.rollback_to_version(saved[0])
    return saved


@pytest.fixture
def run():
    """Run a command; an exception that it lets out fails the test."""

    def ran(*arguments, exit_code=0):
        result = CliRunner().invoke(app, [str(item) for item in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == exit_code, result.output
        return result

    return ran


@pytest.fixture
def run_json(run):
    """Run a command with --json; what it printed, read."""

    def ran(*arguments):
        return json.loads(run(*arguments, "--json").stdout)

    return ran
