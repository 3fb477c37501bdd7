"""Exported files give the same numbers in another language's runtime."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from modelyard import ModelCompressor, ModelExporter
from modelyard.trading import build_models, presets

pytestmark = pytest.mark.node

_HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with onnxruntime-node in it."""
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "run.js"):
        shutil.copy(_HERE / name, folder)
    command = ["npm", "install", "--ignore-scripts", "--no-package-lock", "--silent"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


def in_node(folder: Path, path: str, inputs: torch.Tensor) -> torch.Tensor:
    question = {"path": path, "data": inputs.flatten().tolist(), "dims": list(inputs.shape)}
    answer = subprocess.run(
        ["node", "run.js"],
        cwd=folder,
        input=json.dumps(question),
        capture_output=True,
        text=True,
        check=True,
    )
    output = json.loads(answer.stdout)
    return torch.tensor(output["data"]).reshape(output["dims"])


@pytest.mark.parametrize(
    ("name", "shape"),
    [("policy", (5, 263)), ("transformer", (3, 64, 155)), ("ts2vec", (3, 256, 4))],
)
def test_document_models_answer_the_same(
    name: str, shape: tuple[int, ...], node_folder: Path, tmp_path: Path
) -> None:
    model: nn.Module = getattr(build_models(presets.quick().architecture, seed=0), name).eval()
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    path = ModelExporter(tmp_path).export_to_onnx(model, name, input_shape=(1, *shape[1:]))
    with torch.inference_mode():
        expected = model(inputs)
    torch.testing.assert_close(in_node(node_folder, path, inputs), expected, rtol=1e-4, atol=1e-5)


def test_int8_graph_answers_the_same(node_folder: Path, tmp_path: Path) -> None:
    compressor = ModelCompressor(nn.Sequential(nn.Linear(263, 64), nn.ReLU(), nn.Linear(64, 4)))
    compressor.dynamic_quantization()
    path = ModelExporter(tmp_path).export_to_onnx(compressor.model, "int8")
    inputs = torch.randn(4, 263, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = compressor.model(inputs)
    torch.testing.assert_close(in_node(node_folder, path, inputs), expected, rtol=1e-3, atol=1e-4)
