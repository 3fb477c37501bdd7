"""Quantized models for sequences of several lengths, from the compressor to serving."""

import onnxruntime as ort
import pytest
import torch
from torch import nn

from modelyard import InferenceOptimizer, ModelCompressor, ModelExporter, ModelVersionManager
from modelyard._core.errors import ConfigError, InputError
from modelyard.torchtools.conversion import opset_of_bytes

VARYING = {"input": {1: "time"}}
LIMIT = 0.1
LENGTHS = [(1, 20), (3, 7), (5, 50)]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 4, 256, batch_first=True, dropout=0.0)
        self.inner, self.body = nn.Linear(8, 64), nn.TransformerEncoder(layer, 2)
        self.out = nn.Linear(64, 3)

    def forward(self, x):
        return self.out(self.body(self.inner(x)).mean(dim=1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.out = nn.LSTM(8, 32, batch_first=True), nn.Linear(32, 3)

    def forward(self, x):
        return self.out(self.body(x)[0][:, -1])


class Convolving(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.out = nn.Conv1d(8, 32, 3, padding=2, dilation=2), nn.Linear(32, 3)

    def forward(self, x):
        return self.out(torch.relu(self.body(x.transpose(1, 2))).transpose(1, 2))


class Pair(nn.Module):
    """A sequence of any length and one row that goes with it."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.out = nn.Linear(8, 32), nn.Linear(4, 32), nn.Linear(32, 3)

    def forward(self, series, row):
        return self.out(torch.relu(self.left(series).mean(dim=1) + self.right(row)))


def made(kind):
    torch.manual_seed(0)
    return kind().eval()


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def relative_error(got, want):
    return float(((got - want).norm() / want.norm()).detach())


def quantized(compressor, how):
    if how == "static":
        compressor.quantize_model()
        compressor.calibrate_quantization([normal(32, n, 8) for n in (20, 7, 50)])
    else:
        getattr(compressor, f"{how}_quantization")()
    return compressor.model


@pytest.mark.parametrize("how", ["dynamic", "weight_only", "static"])
@pytest.mark.parametrize(
    "kind", [pytest.param(Attention, marks=pytest.mark.slow), Recurrent, Convolving]
)
def test_a_quantized_model_takes_every_length(kind, how):
    model = made(kind)
    compressor = ModelCompressor(model, example_input=normal(2, 20, 8), dynamic_axes=VARYING)
    small = quantized(compressor, how)
    for batch, length in LENGTHS:
        x = normal(batch, length, 8)
        assert relative_error(small(x), model(x)) < LIMIT


@pytest.mark.slow
def test_without_being_told_the_length_is_the_examples_and_the_error_says_what_to_do():
    compressor = ModelCompressor(made(Attention), example_input=normal(2, 20, 8))
    compressor.dynamic_quantization()
    assert compressor.model(normal(3, 20, 8)).shape == (3, 3)
    with pytest.raises(InputError, match="dynamic_axes="):
        compressor.model(normal(1, 7, 8))


@pytest.mark.parametrize(
    "axes",
    [
        {"series": {1: "time"}},
        {"series": [1]},
        {"series": {0: "n", 1: "time"}},
        {"series": {1: "time"}, "row": {0: "n"}},
    ],
)
def test_the_batch_of_every_input_varies_whatever_else_does(axes):
    model = made(Pair)
    example = (normal(2, 20, 8), normal(2, 4))
    compressor = ModelCompressor(model, example_input=example, dynamic_axes=axes)
    compressor.dynamic_quantization()
    for batch, length in LENGTHS:
        inputs = normal(batch, length, 8), normal(batch, 4)
        assert relative_error(compressor.model(*inputs), model(*inputs)) < LIMIT


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"x": {1: "time"}}, "names x; this model has input"),
        ({"input": {7: "time"}}, "an axis 7"),
        ({"input": {2: "width"}}, "does not run at width"),
        ("time", "must be such as"),
        ({"input": 1}, "must be such as"),
    ],
)
def test_a_size_that_cannot_vary_is_refused(axes, message):
    def compress():
        example = normal(2, 20, 8)
        ModelCompressor(made(Convolving), example_input=example, dynamic_axes=axes).search(
            lambda model: float(model(example).sum()), progress=False
        )

    with pytest.raises(ConfigError, match=message):
        compress()


@pytest.mark.slow
def test_lengths_vary_from_the_search_to_the_registry_the_file_and_serving(tmp_path):
    model, example = made(Attention), normal(2, 20, 8)
    compressor = ModelCompressor(model, example_input=example, dynamic_axes=VARYING)
    compressor.search(
        lambda found: -relative_error(found(example), model(example)),
        max_metric_drop=1.0,
        target_size_mb=compressor.original_size / 1.5,
        progress=False,
    )
    registry = ModelVersionManager(tmp_path)
    version_id = registry.save_model(compressor.model, "encoder", example_input=example)
    signature = registry.get_version(version_id)["signature"]
    assert signature["inputs"][0]["shape"] == [None, None, 8]
    loaded = registry.load_model(version_id)
    optimizer = InferenceOptimizer(loaded, device="cpu")
    optimizer.optimize_for_inference(example, budget_s=0.1)
    path = ModelExporter(tmp_path).export_to_onnx(
        loaded,
        "encoder",
        example_input=example,
        opset_version=opset_of_bytes(loaded.graph_bytes),
    )
    session = ort.InferenceSession(path)
    for batch, length in LENGTHS:
        x = normal(batch, length, 8)
        want = compressor.model(x)
        assert torch.allclose(optimizer.predict(x), want, atol=1e-5)
        assert torch.allclose(
            torch.from_numpy(session.run(None, {"input": x.numpy()})[0]), want, atol=1e-5
        )
    registry.store.close()
