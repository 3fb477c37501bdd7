"""Exported files give the same numbers in another language's runtimes."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from modelyard import ModelCompressor, ModelExporter
from modelyard.torchtools.inputs import call, tensors_of
from modelyard.torchtools.parity import flat_outputs
from modelyard.trading import build_models, presets

pytestmark = pytest.mark.node

_HERE = Path(__file__).parent
RUNTIMES = ["onnxruntime-node", "onnxruntime-web"]


@pytest.fixture(scope="module")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both runtimes in it."""
    folder = tmp_path_factory.mktemp("node")
    for name in ("package.json", "run.js"):
        shutil.copy(_HERE / name, folder)
    command = ["npm", "install", "--ignore-scripts", "--no-package-lock", "--silent"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder


def in_node(
    folder: Path, runtime: str, path: str | Path, inputs: dict[str, torch.Tensor]
) -> list[torch.Tensor]:
    """The file's outputs, in order."""
    values = {
        name: {
            "type": str(tensor.dtype).removeprefix("torch."),
            "data": tensor.flatten().int().tolist()
            if tensor.dtype == torch.bool
            else tensor.flatten().tolist(),
            "dims": list(tensor.shape),
        }
        for name, tensor in inputs.items()
    }
    ended = subprocess.run(
        ["node", "run.js"],
        cwd=folder,
        input=json.dumps({"runtime": runtime, "path": str(path), "inputs": values}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return [
        torch.tensor(output["data"]).reshape(output["dims"])
        for output in json.loads(ended.stdout).values()
    ]


def check(
    folder: Path, runtime: str, exported: Any, model: nn.Module, example: Any, **bounds: float
) -> None:
    """The file's answers are the module's."""
    inputs = dict(zip(exported.inputs, tensors_of(example), strict=True))
    answers = in_node(folder, runtime, exported.path, inputs)
    for want, got in zip(flat_outputs(call(model, example)), answers, strict=True):
        torch.testing.assert_close(
            got.to(want.dtype), want, **{"rtol": 1e-4, "atol": 1e-5} | bounds
        )


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("opset", [14, 18])
@pytest.mark.parametrize(
    ("preset", "name", "shape"),
    [
        ("ppo", "policy", (5, 263)),
        ("transformer", "transformer", (3, 64, 155)),
        ("ts2vec", "ts2vec", (3, 256, 4)),
    ],
)
def test_document_models_answer_the_same(
    preset: str,
    name: str,
    shape: tuple[int, ...],
    opset: int,
    runtime: str,
    node_folder: Path,
    tmp_path: Path,
) -> None:
    model: nn.Module = getattr(build_models(presets.quick().architecture, seed=0), name).eval()
    exported = ModelExporter(tmp_path).export(model, name, preset=preset, opset_version=opset)
    example = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    check(node_folder, runtime, exported, model, example)


class Mixed(nn.Module):
    """Numbers, categories and a mask in; two named answers out."""

    def __init__(self) -> None:
        super().__init__()
        self.sectors = nn.Embedding(11, 4)
        self.head = nn.Linear(10, 3)

    def forward(self, prices: torch.Tensor, meta: dict[str, torch.Tensor]) -> dict[str, Any]:
        x = torch.cat([prices, self.sectors(meta["sector"])], 1)
        scores = self.head(x).masked_fill(meta["halted"].unsqueeze(1), -1.0)
        return {"scores": scores, "action": scores.argmax(1)}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_whole_numbers_masks_and_named_outputs_go_through(
    runtime: str, node_folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = Mixed().eval()
    example = (
        torch.randn(4, 6),
        {
            "sector": torch.tensor([1, 10, 3, 0]),
            "halted": torch.tensor([True, False, False, False]),
        },
    )
    exported = ModelExporter(tmp_path).export(model, "mixed", example_input=example)
    assert exported.inputs == ("prices", "meta_sector", "meta_halted")
    check(node_folder, runtime, exported, model, example)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("precision", "atol"), [("bf16", 2e-2), ("int8", 3e-2)])
def test_smaller_numbers_answer_nearly_the_same(
    precision: str, atol: float, runtime: str, node_folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(263, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
    exported = ModelExporter(tmp_path).export(model, "net", preset="ppo", precision=precision)
    example = torch.randn(4, 263, generator=torch.Generator().manual_seed(2))
    check(node_folder, runtime, exported, model, example, atol=atol)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_graph_of_a_compressor_answers_the_same(
    runtime: str, node_folder: Path, tmp_path: Path
) -> None:
    compressor = ModelCompressor(nn.Sequential(nn.Linear(263, 64), nn.ReLU(), nn.Linear(64, 4)))
    compressor.dynamic_quantization()
    exported = ModelExporter(tmp_path).export(compressor.model, "int8")
    example = torch.randn(4, 263, generator=torch.Generator().manual_seed(2))
    check(node_folder, runtime, exported, compressor.model, example, rtol=1e-3, atol=1e-4)
