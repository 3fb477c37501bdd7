"""Every kind of model through every way to quantize: under the limit, smaller, any batch."""

import onnx
import pytest
import torch
from torch import nn

from modelyard import InferenceOptimizer, ModelCompressor, ModelExporter, ModelVersionManager
from modelyard.torchtools.inputs import Inputs, call, mapped
from modelyard.torchtools.onnx_module import OnnxModule
from modelyard.torchtools.parity import flat_outputs
from modelyard.torchtools.quantization import error_between

LIMIT = 0.1


class Recurrent(nn.Module):
    def __init__(self, kind, *, is_bidirectional=False):
        super().__init__()
        self.body = getattr(nn, kind)(8, 32, 2, batch_first=True, bidirectional=is_bidirectional)
        self.out = nn.Linear(64 if is_bidirectional else 32, 4)

    def forward(self, x):
        return self.out(self.body(x)[0][:, -1])


class Embedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(500, 32), nn.Linear(32, 8)

    def forward(self, ids):
        return self.out(self.table(ids).mean(dim=1))


class Several(nn.Module):
    """Two inputs, a dict of two outputs."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(8, 64), nn.Linear(4, 64)
        self.policy, self.value = nn.Linear(64, 64), nn.Linear(64, 1)

    def forward(self, left, right):
        hidden = torch.relu(self.left(left) + self.right(right))
        return {"policy": self.policy(hidden), "value": self.value(hidden)}


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def mlp():
    return nn.Sequential(nn.Linear(16, 128), nn.GELU(), nn.Linear(128, 64)), normal(64, 16)


def cnn_1d():
    layers = nn.Conv1d(4, 64, 5), nn.BatchNorm1d(64), nn.ReLU(), nn.Conv1d(64, 32, 5)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 12, 8)), normal(64, 4, 20)


def cnn_2d():
    layers = nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)
    grouped = nn.Conv2d(32, 32, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 9, 8)
    return nn.Sequential(*layers, *grouped), normal(64, 3, 12, 12)


def transposed():
    return (
        nn.Sequential(nn.Conv1d(4, 64, 3), nn.ReLU(), nn.ConvTranspose1d(64, 16, 4, 2)),
        normal(64, 4, 20),
    )


def encoder():
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    return nn.TransformerEncoder(layer, 2), normal(64, 10, 64)


KINDS = {
    "mlp": mlp,
    "cnn 1-D": cnn_1d,
    "cnn 2-D": cnn_2d,
    "transposed": transposed,
    "encoder": encoder,
    "lstm": lambda: (Recurrent("LSTM"), normal(64, 12, 8)),
    "bidirectional lstm": lambda: (
        Recurrent("LSTM", is_bidirectional=True),
        normal(64, 12, 8),
    ),
    "gru": lambda: (Recurrent("GRU"), normal(64, 12, 8)),
    "embedding": lambda: (
        Embedding(),
        torch.randint(0, 500, (64, 7), generator=torch.Generator().manual_seed(0)),
    ),
    "several": lambda: (Several(), (normal(64, 8), normal(64, 4))),
}


def compressor_of(name):
    torch.manual_seed(0)
    model, data = KINDS[name]()
    model.eval()
    example = cut(data, 0, 2)
    return ModelCompressor(model, example_input=example, validation_data=data), data


def cut(data: Inputs, start: int, end: int) -> Inputs:
    return mapped(data, lambda tensor: tensor[start:end])


def dynamic(compressor, _):
    return compressor.dynamic_quantization(max_error=LIMIT)


def static(compressor, data):
    compressor.quantize_model(max_error=LIMIT)
    return compressor.calibrate_quantization(data)


def weight_only(compressor, _):
    return compressor.weight_only_quantization(max_error=LIMIT)


@pytest.mark.slow
@pytest.mark.parametrize("quantize", [dynamic, static, weight_only], ids=lambda f: f.__name__)
@pytest.mark.parametrize("name", KINDS)
def test_results_are_smaller_right_and_take_any_batch(name, quantize):
    compressor, data = compressor_of(name)
    stats = quantize(compressor, data)
    assert isinstance(compressor.model, OnnxModule)
    wanted, answers = [], []
    for start, end in ((0, 1), (1, 4), (4, 64)):
        part = cut(data, start, end)
        wanted.append(flat_outputs(call(compressor.original_model, part)))
        answers.append(flat_outputs(call(compressor.model, part)))
    assert stats["max_error"] <= LIMIT
    assert error_between(wanted, answers) <= 1.5 * LIMIT  # other batches, other dynamic ranges
    assert stats["quantized_size_mb"] < 0.75 * stats["original_size_mb"]
    assert all(layer["decision"] == "quantized" for layer in stats["layers"] if layer["layer"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn 1-D", "cnn 2-D", "transposed"])
def test_what_convolves_never_gets_dynamic_ranges(name):
    compressor, data = compressor_of(name)
    assert dynamic(compressor, data)["recipe"].startswith("static_int8")
    graph = onnx.load_from_string(compressor.model.graph_bytes).graph
    assert not {node.op_type for node in graph.node} & {"ConvInteger", "DynamicQuantizeLinear"}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.qint8, "int4", torch.bfloat16, "int8_blocks"])
def test_weights_alone_go_the_whole_way(dtype, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)).eval()
    x = normal(64, 64)
    compressor = ModelCompressor(model, validation_data=x)
    stats = compressor.weight_only_quantization(dtype, max_error=0.2)
    largest = {"int4": 0.18, torch.bfloat16: 0.52}.get(dtype, 0.3)
    assert stats["quantized_size_mb"] < largest * stats["original_size_mb"]
    manager = ModelVersionManager(tmp_path / "models")
    loaded = manager.load_model(manager.save_model(compressor.model, "net"))
    answer = compressor.model(x[:5])
    assert torch.equal(loaded(x[:5]), answer)
    path = ModelExporter(tmp_path / "onnx").export_to_onnx(
        loaded, "net", opset_version=14, example_input=x[:2]
    )
    assert ModelExporter().compare_outputs(loaded, path, x[:5])["is_close"]
    optimizer = InferenceOptimizer(loaded)
    optimizer.optimize_for_inference(x[:2])
    torch.testing.assert_close(optimizer.predict(x[:5]), answer, rtol=1e-4, atol=1e-5)


class OneLayer(nn.Module):
    """A recurrent layer alone: there is none that could stay in float beside it."""

    def __init__(self):
        super().__init__()
        self.body = nn.LSTM(8, 32, batch_first=True)

    def forward(self, x):
        return self.body(x)[0][:, -1]


def unstable(model):
    """A state that is fed back multiplies what rounding does to it."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.body.parameters():
            parameter.mul_(10.0)
    return model


@pytest.mark.slow
def test_recurrent_network_that_int8_arithmetic_breaks_keeps_its_weights_alone_small(caplog):
    torch.manual_seed(0)
    model = unstable(OneLayer())
    compressor = ModelCompressor(model, validation_data=normal(64, 12, 8))
    free = compressor.dynamic_quantization(max_error=9.0)["max_error"]
    stats = compressor.dynamic_quantization(max_error=0.8 * free)
    assert stats["recipe"] == "weight_only_int8"
    assert [attempt["recipe"] for attempt in stats["attempts"]] == [
        "dynamic_int8",
        "weight_only_int8",
    ]
    assert stats["compression_ratio"] > 2
    assert "dynamic_int8 would change the outputs by" in caplog.text


@pytest.mark.slow
def test_layer_that_breaks_the_limit_is_computed_in_float_from_small_weights():
    torch.manual_seed(0)
    model = unstable(Recurrent("LSTM"))
    compressor = ModelCompressor(model, validation_data=normal(64, 12, 8))
    free = compressor.dynamic_quantization(max_error=9.0)
    stats = compressor.dynamic_quantization(max_error=0.8 * free["max_error"])
    assert stats["recipe"] == "dynamic_int8"
    assert stats["layers_kept_float"] == ["body"]
    decisions = {layer["layer"]: layer["decision"] for layer in stats["layers"]}
    assert decisions == {"body": "weights only", "out": "quantized"}
    assert stats["quantized_size_mb"] < 1.1 * free["quantized_size_mb"]


def test_a_graph_is_converted_again_only_after_a_change(monkeypatch):
    from modelyard.compression import quantization

    counted, x = [], normal(64, 16)
    real = quantization.float_graph

    def float_graph(*arguments, **options):
        counted.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr(quantization, "float_graph", float_graph)
    compressor = ModelCompressor(nn.Sequential(nn.Linear(16, 32)), validation_data=x)
    compressor.dynamic_quantization()
    compressor.weight_only_quantization()
    assert len(counted) == 1
    compressor.quantize_model()
    with torch.no_grad():
        compressor.model[0].weight += 1.0  # trained by hand
    compressor.calibrate_quantization(x)
    assert len(counted) == 2


def test_unknown_weight_dtype_is_named():
    from modelyard._core.errors import ConfigError

    compressor = ModelCompressor(nn.Linear(8, 8))
    with pytest.raises(ConfigError, match=r"'int3' is not one of torch\.qint8"):
        compressor.weight_only_quantization("int3")
