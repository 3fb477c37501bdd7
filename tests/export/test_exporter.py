"""The exporter: files written whole, read by others, measured honestly."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from modelyard._core.errors import (
    ConfigError,
    ConversionError,
    ExampleInputRequiredError,
    InputError,
    NotFoundError,
)
from modelyard.compression import ModelCompressor
from modelyard.export import ModelExporter


class Branches(nn.Module):
    def forward(self, x):
        return 2 * x if x.sum() > 0 else -x


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.rand(x.shape)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, state, scale):
        y = self.layer(state) * scale
        return y, y.sum(1)


@pytest.fixture
def exporter(tmp_path):
    return ModelExporter(tmp_path / "onnx")


def files(exporter):
    return (
        sorted(path.name for path in exporter.output_dir.glob("*"))
        if (exporter.output_dir.exists())
        else []
    )


def test_file_gives_the_models_answers_in_onnx_runtime(exporter, mlp):
    path = exporter.export_to_onnx(mlp, "policy", input_shape=(1, 8))
    assert isinstance(path, str)
    assert Path(path) == exporter.output_dir / "policy.onnx"
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for n in (1, 9):
        x = torch.randn(n, 8)
        (found,) = session.run(["output"], {"input": x.numpy()})
        np.testing.assert_allclose(found, mlp(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_information_tells_everything_asked_of_a_file(exporter, mlp):
    path = exporter.export_to_onnx(mlp, "policy", (1, 8), metadata={"version": "v1"})
    info = exporter.get_model_info(path)
    json.dumps(info, allow_nan=False)
    assert info["file_size_mb"] == Path(path).stat().st_size / 1e6
    assert info["opset_version"] == 14
    assert info["inputs"] == [{"name": "input", "shape": ["batch_size", 8], "dtype": "float32"}]
    assert info["outputs"] == [{"name": "output", "shape": ["batch_size", 4], "dtype": "float32"}]
    assert info["node_count"] == sum(info["operators"].values()) == 3
    assert info["operators"] == {"Gemm": 2, "Relu": 1}
    assert info["parameter_count"] == sum(p.numel() for p in mlp.parameters())
    assert info["producer"] == "modelyard"
    assert info["metadata"] == {
        "version": "v1",
        "precision": "fp32",
        "verification": "compared",
    }
    assert info["total_size_mb"] == info["file_size_mb"]


def test_comparison_has_every_key_and_tells_each_output(exporter):
    model = TwoInputs().eval()
    example = (torch.randn(2, 4), torch.ones(2, 1))
    path = exporter.export_to_onnx(model, "two", example_input=example)
    found = exporter.compare_outputs(model, path, example)
    assert found.keys() == {
        "max_abs_diff",
        "max_rel_diff",
        "mean_abs_diff",
        "is_close",
        "rtol",
        "atol",
        "outputs",
    }
    assert found["is_close"]
    assert found["outputs"].keys() == {"output_0", "output_1"}
    assert exporter.get_model_info(path)["inputs"][1]["name"] == "scale"
    with torch.no_grad():
        model.layer.bias += 0.5
    other = exporter.compare_outputs(model, path, example, atol=0.0)
    assert not other["is_close"]
    assert other["max_abs_diff"] > 0.1
    json.dumps(other, allow_nan=False)


def test_benchmark_has_every_key(exporter, mlp):
    path = exporter.export_to_onnx(mlp, "policy", (1, 8))
    found = exporter.benchmark_onnx(path, (4, 8), num_iterations=20)
    assert found["median_latency_ms"] <= found["p95_latency_ms"] <= found["p99_latency_ms"]
    assert found["throughput_qps"] > 0
    assert found["num_iterations"] == 20
    assert found["input_shape"] == [4, 8]
    assert {"mean_latency_ms", "memory_mb", "n_threads"} <= found.keys()
    with pytest.raises(ConfigError, match="num_iterations must be a whole number, 1 or more"):
        exporter.benchmark_onnx(path, (4, 8), num_iterations=0)


def test_benchmark_of_several_inputs_takes_a_shape_for_each_or_an_example(exporter):
    example = (torch.randn(2, 4), torch.randn(2, 1))
    path = exporter.export_to_onnx(TwoInputs(), "two", example_input=example)
    with pytest.raises(ConfigError, match=r"takes state .*scale.*shape for each by name"):
        exporter.benchmark_onnx(path, (1, 4), 10)
    shapes = {"state": (3, 4), "scale": (3, 1)}
    assert exporter.benchmark_onnx(path, shapes, 5)["input_shape"] == {
        "state": [3, 4],
        "scale": [3, 1],
    }
    assert exporter.benchmark_onnx(path, None, 5, example_input=example)["num_iterations"] == 5
    with pytest.raises(ConfigError, match="input_shape names state"):
        exporter.benchmark_onnx(path, {"state": (3, 4)}, 5)
    with pytest.raises(InputError, match="takes state"):
        exporter.benchmark_onnx(path, {"state": (3, 5), "scale": (3, 1)}, 5)
    with pytest.raises(ConfigError, match="input_shape or example_input"):
        exporter.benchmark_onnx(path, None, 5)


def test_benchmark_beside_the_module_takes_turns_on_as_many_threads(exporter, mlp):
    path = exporter.export_to_onnx(mlp, "policy", (1, 8))
    found = exporter.benchmark_onnx(path, (1, 8), 20, pytorch_model=mlp, n_threads=1)
    assert found["n_threads"] == 1
    assert found["pytorch"].keys() >= {"median_latency_ms", "p99_latency_ms"}
    assert found["speedup"] == pytest.approx(
        found["pytorch"]["median_latency_ms"] / found["median_latency_ms"]
    )


def test_fixed_batch_is_verified_at_its_size(exporter, mlp):
    path = exporter.export_to_onnx(mlp, "fixed", (3, 8), dynamic_axes={})
    assert exporter.get_model_info(path)["inputs"][0]["shape"] == [3, 8]


def test_axes_get_the_callers_names(exporter):
    model = nn.Linear(4, 2)
    path = exporter.export_to_onnx(
        model, "named", (2, 5, 4), dynamic_axes={"input": {0: "n", 1: "steps"}, "output": {0: "n"}}
    )
    assert exporter.get_model_info(path)["inputs"][0]["shape"] == ["n", "steps", 4]
    assert exporter.compare_outputs(model, path, torch.randn(3, 9, 4))["is_close"]


def test_model_in_train_mode_is_exported_for_inference_and_restored(exporter):
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)).train()
    model[1].eval()
    path = exporter.export_to_onnx(model, "policy")
    assert [module.training for module in model.modules()] == [True, True, False, True]
    exporter.compare_outputs(model, path, torch.randn(4, 8))
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert "Dropout" not in exporter.get_model_info(path)["operators"]


@pytest.mark.parametrize(
    ("model", "message"), [(Noisy(), "two answers"), (Branches(), "branches on the data")]
)
def test_models_no_graph_can_equal_are_refused_and_an_older_file_stays(
    exporter, mlp, model, message
):
    path = exporter.export_to_onnx(mlp, "policy", (1, 8))
    before = Path(path).read_bytes()
    with pytest.raises(ConversionError, match=message):
        exporter.export_to_onnx(model, "policy", (2, 8))
    assert Path(path).read_bytes() == before
    assert files(exporter) == ["policy.onnx"]


def test_failed_first_export_leaves_nothing(exporter):
    with pytest.raises(ConversionError):
        exporter.export_to_onnx(Noisy(), "noisy", (2, 8))
    assert files(exporter) == []


def test_disk_error_leaves_the_older_file(exporter, mlp, new_mlp, monkeypatch):
    path = exporter.export_to_onnx(mlp, "policy", (1, 8))
    before = Path(path).read_bytes()

    def no_room(_path):
        raise OSError("No space left on device")

    monkeypatch.setattr("modelyard._core.files.fsync_file", no_room)
    with pytest.raises(OSError, match="No space left"):
        exporter.export_to_onnx(new_mlp(seed=1), "policy", (1, 8))
    assert Path(path).read_bytes() == before
    assert files(exporter) == ["policy.onnx"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model_name": "../evil"}, ConfigError, "not allowed"),
        ({"dynamic_axes": {"x": {0: "n"}}}, ConfigError, "names x; this model has input, output"),
        ({"input_shape": (1, 9)}, InputError, "does not run on an input of shape"),
        ({"opset_version": 99}, ConversionError, "newest is"),
    ],
)
def test_wrong_arguments_are_named(exporter, mlp, options, error, message):
    arguments = {"model_name": "policy", "input_shape": (1, 8)} | options
    with pytest.raises(error, match=message):
        exporter.export_to_onnx(mlp, **arguments)


def test_input_is_inferred_or_asked_for(exporter, mlp):
    assert exporter.export_to_onnx(mlp, "policy")
    with pytest.raises(ExampleInputRequiredError, match="example_input="):
        exporter.export_to_onnx(TwoInputs(), "two")


def test_what_is_no_module_is_refused(exporter, mlp):
    with pytest.raises(InputError, match=r"nn\.Module"):
        exporter.export_to_onnx(mlp.state_dict(), "policy")


def test_original_of_a_compressor_is_exported_with_one_warning(exporter, mlp, caplog):
    ModelCompressor(mlp).prune_model(0.5)
    exporter.export_to_onnx(mlp, "policy")
    exporter.export_to_onnx(mlp, "policy")
    assert [record.message for record in caplog.records if "exported" in record.message] != []
    assert sum("compressor.model" in record.message for record in caplog.records) == 1


def test_graph_of_a_quantized_model_is_its_export(exporter, new_mlp):
    compressor = ModelCompressor(new_mlp(8, 64, 4))
    compressor.dynamic_quantization()
    for options in ({}, {"input_shape": (1, 8)}, {"example_input": torch.zeros(2, 8)}):
        path = exporter.export_to_onnx(compressor.model, "int8", **options)
        assert Path(path).read_bytes() == compressor.model.graph_bytes
    with pytest.raises(ConversionError, match="opset_version=14"):
        exporter.export_to_onnx(compressor.model, "int8", opset_version=17)


@pytest.mark.slow
@pytest.mark.parametrize("optimize", [True, False])
def test_optimized_files_are_standard_and_equal(exporter, optimize):
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    path = exporter.export_to_onnx(model, "encoder", (1, 5, 8), optimize=optimize)
    graph = onnx.load(path)
    onnx.checker.check_model(graph, full_check=True)
    assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"}
    assert exporter.get_model_info(path)["opset_version"] == 14
    assert exporter.compare_outputs(model, path, torch.randn(3, 5, 8))["is_close"]


def test_missing_and_foreign_files_are_named(exporter, mlp, tmp_path):
    (tmp_path / "text.onnx").write_text("no model")
    for call in (
        exporter.get_model_info,
        lambda path: exporter.compare_outputs(mlp, path, torch.zeros(1, 8)),
        lambda path: exporter.benchmark_onnx(path, (1, 8), 1),
    ):
        with pytest.raises(NotFoundError, match="no file"):
            call(tmp_path / "absent.onnx")
        with pytest.raises(InputError, match="is no ONNX model"):
            call(tmp_path / "text.onnx")
