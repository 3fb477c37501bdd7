"""Commands with classes of one's own, without a database, on terminals that take little."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modelyard.version_manager import ModelVersionManager
from modelyard.version_manager.trust import forget_registered

OWN = """
import torch
from torch import nn

class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.out = nn.Linear(16, 64), nn.Linear(64, 3)

    def forward(self, x):
        return self.out(torch.relu(self.layer(x)))
"""


@pytest.fixture
def own_version(tmp_path, monkeypatch):
    """A version of a class in a module that nobody has imported yet."""
    monkeypatch.syspath_prepend(tmp_path)
    Path("policy_for_the_commands.py").write_text(OWN)
    module = importlib.import_module("policy_for_the_commands")
    torch.manual_seed(0)
    version_id = ModelVersionManager("models").save_model(
        module.Policy(), "ppo", description="策略", example_input=torch.zeros(2, 16)
    )
    del sys.modules["policy_for_the_commands"]
    forget_registered()
    yield version_id
    sys.modules.pop("policy_for_the_commands", None)
    forget_registered()


@pytest.mark.parametrize(
    "command",
    [["compress"], ["export", "--target-dir", "out"], ["bench", "--iterations", "2"]],
    ids=lambda command: command[0],
)
def test_a_class_of_ones_own_is_imported_first(run, own_version, command):
    name, *options = command
    refused = run(name, own_version, *options, exit_code=1).stderr
    assert "--import on the command line" in refused
    run(name, own_version, *options, "--import", "policy_for_the_commands")


def test_what_cannot_be_imported_is_told(run, ids):
    said = run("compress", ids[0], "--import", "no_such_module", exit_code=1).stderr
    assert said.startswith("--import no_such_module cannot be imported: No module named")
    for name in ("", ".policies", "policies:Net", "a/b.py"):
        said = run("compress", ids[0], "--import", name, exit_code=1).stderr
        assert said.startswith("--import takes a module")


def test_a_lost_database_is_told_from_no_registry(run, registry, ids):
    registry.store.close()
    for file in Path("models").glob("registry.db*"):
        file.unlink()
    said = run("versions", "list", exit_code=1).stderr
    assert "versions rebuild --base-dir models" in said
    assert "There is no registry" in run("versions", "list", "--base-dir", "x", exit_code=1).stderr
    run("versions", "rebuild")
    assert ids[0] in run("versions", "list").stdout


def modelyard(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "modelyard", *arguments],
        check=False,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        **options,
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_output_that_cannot_be_written_is_one_line(ids, options):
    with Path("/dev/full").open("wb") as full:
        done = modelyard("versions", "list", *options, stdout=full)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        "The output cannot be written: No space left on device."
    ]


@pytest.mark.slow
def test_a_terminal_without_chinese_is_told_the_numbers_of_its_characters(own_version):
    done = modelyard("versions", "show", own_version, stdout=subprocess.PIPE)
    assert done.returncode == 0
    assert b"\\u7b56\\u7565" in done.stdout
