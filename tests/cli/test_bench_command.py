"""`modelyard bench`: a table, a page, JSON, and errors that say what to do."""

import json

import pytest
import torch

from modelyard import InferenceOptimizer, ModelVersionManager
from modelyard.cli import inference


@pytest.fixture
def version(tmp_path, mlp):
    manager = ModelVersionManager(base_dir=tmp_path / "models")
    return manager.save_model(mlp, "policy", example_input=torch.randn(2, 8))


def test_table_and_page(run, tmp_path, version):
    page = tmp_path / "bench.html"
    result = run(
        "bench", version, "--base-dir", str(tmp_path / "models"),
        "--iterations", "5", "--html", str(page), "--device", "cpu",
    )  # fmt: skip
    assert "onnxruntime" in result.output
    assert "In use (*)" in result.output
    assert "one sample: median" in result.output
    assert f"Inference of {version}" in page.read_text(encoding="utf-8")


def test_choice_is_stored_with_the_version(run, tmp_path, version):
    run("bench", version, "--base-dir", str(tmp_path / "models"), "--iterations", "5", "--keep")
    manager = ModelVersionManager(base_dir=tmp_path / "models")
    assert manager.read_attachment(version, "tuning")["winners"]


def test_json_and_a_shape_of_ones_own(run, tmp_path, version):
    result = run(
        "bench", version, "--base-dir", str(tmp_path / "models"),
        "--input-shape", "1,8", "--iterations", "5", "--batch-size", "4", "--json",
    )  # fmt: skip
    found = json.loads(result.output)
    assert found["inputs"] == [[8]]
    assert found["optimization"]["backend_by_batch"].keys() == {"1", "4"}
    assert found["benchmark"]["median_latency_ms"] > 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--input-shape", "1,9"], "does not run on an input"),
        (["--input-shape", "a"], "--input-shape must be whole numbers"),
        (["--backend", "magic"], "backend 'magic' is not one of"),
        (["--html", "."], "--html must name a file"),
        (["--batch-size", "0"], "batch_size must be 1 or more"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(run, tmp_path, version, options, told):
    result = run("bench", version, "--base-dir", str(tmp_path / "models"), *options, exit_code=1)
    assert told in result.output


@pytest.mark.parametrize("page", ["a_file/bench.html", "a_file/deeper/bench.html"])
def test_a_page_that_cannot_be_written_is_refused_before_measuring(
    run, tmp_path, version, monkeypatch, page
):
    def measure(*_args, **_options):
        raise AssertionError("measured")

    monkeypatch.setattr(InferenceOptimizer, "optimize_for_inference", measure)
    (tmp_path / "a_file").write_text("")
    result = run(
        "bench", version, "--base-dir", str(tmp_path / "models"),
        "--html", str(tmp_path / page), exit_code=1,
    )  # fmt: skip
    assert f"{page}' cannot be written: " in result.output
    assert len(result.output.splitlines()) == 1


def test_a_page_that_cannot_be_written_in_the_end_is_said_in_one_line(
    run, tmp_path, version, monkeypatch
):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(inference, "write_text", full)
    result = run(
        "bench", version, "--base-dir", str(tmp_path / "models"), "--backend", "eager",
        "--iterations", "5", "--html", str(tmp_path / "new" / "bench.html"), exit_code=1,
    )  # fmt: skip
    assert result.output.splitlines()[-1].endswith("No space left on device")
