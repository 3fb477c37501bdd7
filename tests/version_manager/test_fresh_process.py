"""Versions loaded by a process that has never seen the model."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from modelyard.compression import ModelCompressor

LOAD = """
import json, sys
import torch
from modelyard.version_manager import ModelVersionManager
manager = ModelVersionManager(sys.argv[1])
x = torch.linspace(-1, 1, 16).reshape(2, 8)
for version_id in sys.argv[2:]:
    model = manager.load_model(version_id, load_full=True)
    print(json.dumps([type(model).__name__, model(x).tolist()]))
"""

USER_MODULE = """
import torch
class Doubles(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(8, 2)
    def forward(self, x):
        return 2 * self.inner(x)
"""


def run_elsewhere(code, folder, *version_ids, path=None):
    return subprocess.run(
        [sys.executable, "-c", code, str(folder), *version_ids],
        capture_output=True,
        text=True,
        check=False,
        cwd=path,
    )


def masked():
    layer = nn.Linear(8, 2)
    prune.l1_unstructured(layer, "weight", amount=0.5)
    return layer


def compressed(model, step):
    compressor = ModelCompressor(model)
    step(compressor)
    return compressor.model


@pytest.mark.slow
def test_versions_answer_the_same_in_a_fresh_process(registry, new_mlp):
    models = [
        new_mlp(),
        masked(),
        compressed(new_mlp(8, 64, 4), lambda compressor: compressor.dynamic_quantization()),
        compressed(
            new_mlp(8, 64, 4), lambda compressor: compressor.prune_model(0.4, "structured")
        ),
    ]
    ids = [registry.save_model(model, "ppo") for model in models]
    done = run_elsewhere(LOAD, registry.base_dir, *ids)
    assert done.returncode == 0, done.stderr
    x = torch.linspace(-1, 1, 16).reshape(2, 8)
    for model, line in zip(models, done.stdout.splitlines(), strict=True):
        name, answer = json.loads(line)
        assert name == type(model).__name__
        with torch.no_grad():
            torch.testing.assert_close(torch.tensor(answer), model(x))


@pytest.mark.slow
def test_own_class_is_rebuilt_once_imported_and_refused_before(registry, tmp_path):
    (tmp_path / "users_models.py").write_text(USER_MODULE)
    save = """
import sys
from modelyard.version_manager import ModelVersionManager
from users_models import Doubles
print(ModelVersionManager(sys.argv[1]).save_model(Doubles(), "ppo"))
"""
    saved = run_elsewhere(save, registry.base_dir, path=tmp_path)
    version_id = saved.stdout.strip()
    assert version_id, saved.stderr
    refused = run_elsewhere(LOAD, registry.base_dir, version_id, path=tmp_path)
    assert "UntrustedClassError" in refused.stderr
    assert "users_models.Doubles" in refused.stderr
    imported = "import users_models\n" + LOAD
    done = run_elsewhere(imported, registry.base_dir, version_id, path=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0] == "Doubles"
