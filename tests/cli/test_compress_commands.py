"""`modelyard compress`: every method, what it writes, and mistakes in one line."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

FACTORY = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
"""

STATIC = ["--method", "static", "--calibration", "inputs.npy"]


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A factory, a module's file and samples in the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("made_for_compress.py").write_text(FACTORY)
    torch.manual_seed(0)
    torch.save(nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)), "net.pt")
    x = np.random.default_rng(0).normal(size=(128, 16)).astype(np.float32)
    np.savez("samples.npz", inputs=x, targets=x[:, :4].argmax(axis=1))
    np.savez("values.npz", inputs=x, targets=x[:, :4])
    np.save("inputs.npy", x)
    return "net.pt"


@pytest.mark.parametrize(
    ("options", "recipe"),
    [
        ([], "dynamic_int8"),
        (STATIC, "static_int8"),
        (
            [
                "--method",
                "static",
                "--calibration",
                "inputs.npy",
                "--calibration-method",
                "entropy",
                "--max-error",
                "0.5",
            ],
            "static_int8_entropy",
        ),
        (["--method", "weight-only"], "weight_only_int8"),
        (["--method", "weight-only", "--dtype", "bf16"], "bf16_weights"),
        (["--prune", "0.5", "--keep-float", "2", "--max-error", "0.9"], "dynamic_int8"),
    ],
)
def test_every_method_tells_what_it_did(run_json, model, options, recipe):
    told = run_json("compress", model, *options)
    assert told["recipe"] == recipe
    assert told["compressed_size_mb"] < told["original_size_mb"]
    assert told["max_error"] <= told["error_limit"]
    assert told["validated_on"] == (
        "validation_data" if "--calibration" in options else "synthetic"
    )
    if "--keep-float" in options:
        assert told["layers_kept_float"] == ["2"]


def test_a_file_a_version_and_a_page_are_written(run, run_json, model):
    said = run(
        "compress", "made_for_compress:make", "--calibration", "samples.npz",
        "--out", "deep/small.onnx", "--save-as", "small", "--report", "pages/story.html",
    ).stdout  # fmt: skip
    assert "make, dynamic_int8: " in said
    assert "on validation data (limit 10%)" in said
    onnx.checker.check_model("deep/small.onnx")
    assert "Compression of Sequential" in Path("pages/story.html").read_text()
    version = run_json("versions", "list")[0]
    assert version["model_name"] == "small"
    again = run("compress", version["version_id"], "--prune", "0.3", exit_code=1)
    assert "is quantized already (dynamic_int8); compress the float one" in " ".join(
        again.stderr.split()
    )


def test_a_version_is_the_parent_of_what_is_made_of_it(run_json, model):
    first = run_json(
        "compress",
        model,
        "--method",
        "prune",
        "--prune",
        "0.3",
        "--max-error",
        "0.5",
        "--save-as",
        "net",
    )
    second = run_json("compress", first["version_id"], "--save-as", "net")
    versions = {v["version_id"]: v for v in run_json("versions", "list")}
    assert versions[second["version_id"]]["parents"] == [first["version_id"]]
    assert versions[first["version_id"]]["parents"] == []


@pytest.mark.parametrize(
    ("data", "metric"),
    [
        ("samples.npz", "accuracy"),
        ("values.npz", "mean squared error"),
        ("inputs.npy", "agreement"),
    ],
)
def test_search_judges_by_what_the_data_holds(run_json, model, data, metric):
    told = run_json(
        "compress", model, "--method", "search", "--calibration", data, "--max-drop", "0.5"
    )
    assert told["metric"] == metric
    assert told["best"] in {one["name"] for one in told["candidates"]}
    assert told["is_complete"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "magic"], "'magic' is not one of dynamic, static"),
        (["--method", "static"], "pass --calibration FILE"),
        (["--method", "search"], "pass --calibration FILE"),
        (["--method", "prune"], "needs --prune"),
        (["--out", "net.pt/small.onnx"], "cannot be written"),
        (["--method", "search", "--prune", "0.3"], "leave --prune out"),
        (["--dtype", "int4"], "--dtype of dynamic must be int8 or uint8"),
        (["--method", "weight-only", "--dtype", "int3"], "'int3' is not one of"),
        (["--out", "net.pt"], "must end in .onnx"),
        (["--calibration", "nowhere.npz"], "no data file"),
        (["--keep-float", "head"], "No layer 'head'"),
        (["--max-error", "1e-9"], "came closest"),
        (["--input-shape", "1,7"], "does not run"),
        (["--prune", "0.95"], "pruning without training afterwards breaks models"),
        (["--method", "prune", "--prune", "0.95"], "differ from the original's by"),
        (["--prune", "2"], "0.3 means 30 %"),
        (
            ["--report", "net.pt/x.html", "--save-as", "small"],
            "--report 'net.pt/x.html' cannot be",
        ),
        (
            ["--method", "prune", "--prune", "0.3", "--max-error", "nan"],
            "must be above 0, got nan",
        ),
    ],
)
def test_mistakes_are_told_in_a_line(run, model, options, message):
    result = run("compress", model, *options, exit_code=1)
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.stderr
    assert sorted(path.suffix for path in Path().iterdir() if path.is_file()) == [
        ".npy", ".npz", ".npz", ".pt", ".py",
    ]  # fmt: skip
