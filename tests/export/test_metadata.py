"""What stands in a file: written and read alike, from the registry and from data."""

import math
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from modelyard._core.clock import ManualClock
from modelyard._core.errors import InputError
from modelyard.export import ModelExporter
from modelyard.export.metadata import as_texts, as_values, input_statistics
from modelyard.torchtools.onnx_module import OnnxModule
from modelyard.version_manager import ModelVersionManager

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(-1e6, 1e6) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.text(min_size=1).filter(lambda key: key != "json_keys")


@given(st.dictionaries(KEYS, PLAIN, max_size=5))
def test_what_is_written_is_read(values):
    texts = as_texts(values)
    assert all(isinstance(text, str) for text in texts.values())
    assert as_values(texts) == values


@pytest.mark.parametrize(
    "texts", [{"json_keys": "no json"}, {"json_keys": "3"}, {"json_keys": '["a"]', "a": "{"}]
)
def test_other_tools_texts_stay_texts(texts):
    assert as_values(texts) == texts


def test_statistics_are_numpys():
    rng = np.random.default_rng(0)
    values = rng.normal(2, 3, (500, 7, 4)).astype(np.float32)
    found = input_statistics(
        ["x"], [torch.from_numpy(values[:200]), torch.from_numpy(values[200:])]
    )
    stats = found["x"]
    assert stats["n_samples"] == 500
    assert stats["mean"] == pytest.approx(values.mean(dtype=float))
    assert stats["std"] == pytest.approx(values.std(dtype=float))
    assert stats["q50"] == pytest.approx(np.quantile(values, 0.5, method="inverted_cdf"))
    assert stats["q99"] == pytest.approx(np.quantile(values, 0.99, method="inverted_cdf"))
    np.testing.assert_allclose(stats["feature_means"], values.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(stats["feature_stds"], values.std((0, 1)), rtol=1e-5)


def test_whole_numbers_have_a_range_alone():
    assert input_statistics(["ids"], [torch.tensor([[3, 9], [1, 2]])]) == {
        "ids": {"n_samples": 2, "min": 1.0, "max": 9.0}
    }


@pytest.fixture
def registry(tmp_path):
    return ModelVersionManager(tmp_path / "models", clock=ManualClock())


def test_a_version_takes_its_origin_along(registry, tmp_path):
    saved = registry.save_model(
        nn.Linear(4, 2), "ppo", metrics={"sharpe": 1.25}, example_input=torch.ones(2, 4)
    )
    model = registry.load_model(saved)
    exporter = ModelExporter(tmp_path / "onnx")
    data = torch.randn(100, 4)
    path = exporter.export_to_onnx(model, saved, validation_data=data, metadata={"desk": "rates"})
    metadata = exporter.get_model_info(path)["metadata"]
    assert metadata["version_id"] == saved
    assert metadata["model_name"] == "ppo"
    assert metadata["metrics"] == {"sharpe": 1.25}
    assert metadata["desk"] == "rates"
    assert metadata["input_statistics"]["input"]["n_samples"] == 100
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    assert metadata.get("git_commit", "") == commit


def test_a_version_that_was_trained_on_is_no_longer_that_version(registry, tmp_path):
    saved = registry.save_model(nn.Linear(4, 2), "ppo")
    model = registry.load_model(saved)
    with torch.no_grad():
        model.weight.add_(1.0)
    exporter = ModelExporter(tmp_path / "onnx")
    path = exporter.export_to_onnx(model, "ppo", (1, 4))
    assert "version_id" not in exporter.get_model_info(path)["metadata"]


def zeroed(model):
    for parameter in model.parameters():
        parameter.data.mul_(0)


def through_numpy(model):
    model[0].weight.detach().numpy()[:] = 0


def another_part(model):
    model[1] = nn.Tanh()


def one_more_part(model):
    model.append(nn.Softmax(-1))


def in_inference_mode(model):
    with torch.inference_mode():
        model[0].bias.add_(1.0)


@pytest.mark.parametrize(
    "change", [zeroed, through_numpy, another_part, one_more_part, in_inference_mode]
)
def test_whatever_changes_a_version_makes_it_another_model(registry, tmp_path, change):
    saved = registry.save_model(nn.Sequential(nn.Linear(4, 2), nn.ReLU()), "ppo")
    model, exporter = registry.load_model(saved), ModelExporter(tmp_path)
    path = exporter.export_to_onnx(model, "before", (1, 4))
    assert exporter.get_model_info(path)["metadata"]["version_id"] == saved
    change(model)
    path = exporter.export_to_onnx(model, "after", (1, 4))
    assert "version_id" not in exporter.get_model_info(path)["metadata"]


def test_a_file_that_is_exported_again_keeps_what_it_says(tmp_path):
    exporter = ModelExporter(tmp_path)
    path = exporter.export_to_onnx(
        nn.Linear(4, 2), "net", (1, 4), metadata={"desk": "fx", "sizes": [1, 2]}
    )
    again = OnnxModule(Path(path).read_bytes())
    path = exporter.export_to_onnx(again, "again", metadata={"desk": "rates", "by": "me"})
    assert exporter.get_model_info(path)["metadata"] == {
        "desk": "rates",
        "by": "me",
        "sizes": [1, 2],
        "precision": "fp32",
        "verification": "compared",
    }


def test_the_same_model_gives_the_same_bytes(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    first, again = (
        ModelExporter(tmp_path / name).export(model, "net", input_shape=(1, 4), optimize=False)
        for name in "ab"
    )
    assert first.path.read_bytes() == again.path.read_bytes()


def external(path, location):
    """An ONNX file that keeps its weights in another."""
    weight = onnx.numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, ["n", 64])],
        [onnx.helper.make_tensor_value_info("y", 1, ["n", 64])],
        [weight],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)])
    onnx.save_model(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    if location != "w.bin":
        model = onnx.load(path, load_external_data=False)
        model.graph.initializer[0].external_data[0].value = location
        path.write_bytes(model.SerializeToString())


def test_weights_in_other_files_are_counted(tmp_path):
    path = tmp_path / "net.onnx"
    external(path, "w.bin")
    info = ModelExporter().get_model_info(path)
    assert info["parameter_count"] == 64 * 64
    assert info["total_size_mb"] == pytest.approx(info["file_size_mb"] + 64 * 64 * 4 / 1e6)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(InputError, match=r"'w.bin', which is not there"):
        ModelExporter().get_model_info(path)


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd"])
def test_weights_elsewhere_are_refused(tmp_path, location):
    path = tmp_path / "net.onnx"
    external(path, location)
    with pytest.raises(InputError, match="outside its folder"):
        ModelExporter().get_model_info(path)


def test_non_finite_metrics_are_no_numbers():
    assert as_values(as_texts({"sharpe": math.nan}))["sharpe"] is None
