"""`modelyard export` to every target, and `modelyard inspect --graph`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytestmark = pytest.mark.slow

FACTORY = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
"""


@pytest.mark.parametrize(
    ("target", "suffixes"),
    [
        ("onnx", [".onnx"]),
        ("torch_export", [".pt2"]),
        ("torchscript", [".pt"]),
        ("openvino", [".bin", ".xml"]),
    ],
)
def test_a_version_goes_to_every_target(run_json, ids, target, suffixes):
    told = run_json("export", ids[0], "--target", target, "--target-dir", "out", "--name", "net")
    assert sorted(path.suffix for path in Path("out").iterdir()) == suffixes
    assert told["verification"]["n_samples"] == 22
    assert told["size_bytes"] == sum(path.stat().st_size for path in Path("out").iterdir())


def test_samples_calibrate_and_are_described(run_json, run, ids):
    np.savez("samples.npz", inputs=np.random.default_rng(0).normal(3, 1, (64, 4)))
    told = run_json(
        "export", ids[0], "--precision", "int8", "--data", "samples.npz", "--metadata", "desk=fx",
        "--target-dir", "out",
    )  # fmt: skip
    assert told["details"]["validated_on"] == "validation_data"
    metadata = run_json("inspect", told["path"])["metadata"]
    assert metadata["version_id"] == ids[0]
    assert metadata["desk"] == "fx"
    assert metadata["metrics"]["sharpe"] == 1.0
    assert metadata["input_statistics"]["input"]["mean"] == pytest.approx(3, abs=0.2)


def test_a_factory_is_exported_with_sizes_that_vary(run, run_json, monkeypatch):
    Path("made_here.py").write_text(FACTORY)
    told = run_json(
        "export", "made_here:make", "--input-shape", "1,5,8", "--dynamic", "input:0=batch_size",
        "--dynamic", "input:1=time", "--target-dir", "out",
    )  # fmt: skip
    assert told["path"] == "out/make.onnx"
    assert told["inputs"][0]["shape"] == ["batch_size", "time", 8]
    fixed = run_json(
        "export", "made_here:make", "--input-shape", "3,5,8", "--fixed", "--target-dir", "fixed"
    )
    assert fixed["inputs"][0]["shape"] == [3, 5, 8]
    said = run("inspect", told["path"], "--graph", "graph.html").stdout
    assert "graph.html" in said
    assert "Softmax" in Path("graph.html").read_text()


def test_a_preset_gives_the_shapes(run):
    torch.save(nn.Linear(263, 4), "policy.pt")
    said = run("export", "policy.pt", "--preset", "ppo", "--opset", 17, "--target-dir", "o").stdout
    assert said.startswith("o/policy.onnx: ")
    assert "opset 17, differs by" in said


def test_an_onnx_file_keeps_its_own_opset(run_json, ids):
    first = run_json("export", ids[0], "--opset", 18, "--target-dir", "a")
    assert run_json("export", first["path"], "--target-dir", "b")["opset_version"] == 18


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "tflite"], "target must be one of onnx"),
        (["--precision", "fp8"], "precision must be one of"),
        (["--preset", "dqn"], "preset must be one of"),
        (["--preset", "ppo"], "does not run on an input of shape"),
        (["--preset", "ppo", "--input-shape", "1,4"], "one of example_input, input_shape and"),
        (["--dynamic", "input=time"], "--dynamic must be such as input:1=time"),
        (["--dynamic", "input:1"], "--dynamic must be such as input:1=time"),
        (["--dynamic", "x:0=n"], "names x; this model has input, output"),
        (["--dynamic", "input:0=n", "--fixed"], "leave out --dynamic"),
        (["--metadata", "desk"], "--metadata must be such as desk=rates"),
        (["--metadata", "precision=x"], "may not hold precision"),
        (["--data", "absent.npz"], "no data file 'absent.npz'"),
        (["--name", "../evil"], "not allowed"),
        (["--opset", "99"], "newest is 25"),
    ],
)
def test_wrong_options_are_one_line(run, ids, arguments, said):
    result = run("export", ids[0], *arguments, exit_code=1)
    assert result.stdout == ""
    assert said in result.stderr
    assert not list(Path("models").rglob("*.onnx"))
