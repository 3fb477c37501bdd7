"""Conversion: the same answers at every batch size, or an error and no graph."""

import logging
import warnings

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from modelyard._core.errors import ConfigError, ConversionError
from modelyard.torchtools.conversion import opset_of, to_onnx, to_runnable


class Branches(nn.Module):
    """What it does depends on the data, which a trace freezes."""

    def forward(self, x):
        return 2 * x if x.sum() > 0 else -x


class Random(nn.Module):
    def forward(self, x):
        return x + torch.randn(x.shape)


class FixesBatch(nn.Module):
    """A trace at a batch of 2 keeps the 2."""

    def forward(self, x):
        return x.reshape(int(x.shape[0]), -1) + torch.arange(int(x.shape[0])).reshape(-1, 1)


class Optional(nn.Module):
    """Has further arguments, with defaults that are no tensors."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, x, mask=None, temperature=2.0, is_scaled=True):  # noqa: FBT002
        y = self.layer(x if mask is None else x * mask)
        return y / temperature if is_scaled else y


class Named(nn.Module):
    def forward(self, state, action):
        return state + action, state - action


class MatrixTranspose(nn.Module):
    """Only the newer exporter knows this operation."""

    def forward(self, x):
        return x.mT @ x


MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), (2, 4)),
    "encoder": (lambda: nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), (2, 5, 4)),
    "lstm": (lambda: nn.LSTM(4, 3, batch_first=True), (2, 5, 4)),
    "convolution": (lambda: nn.Sequential(nn.Conv1d(4, 2, 3), nn.BatchNorm1d(2)), (2, 4, 9)),
    "optional arguments": (Optional, (2, 4)),
}


def run(graph, *inputs):
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return session.run(None, {n: x.numpy() for n, x in zip(names, inputs, strict=True)})


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_converted_at_the_documents_opset(name):
    make, shape = MODELS[name]
    model = make().eval()
    graph = to_onnx(model, torch.randn(shape))
    assert opset_of(onnx.load_from_string(graph.data)) == 14
    assert graph.max_abs_diff < 1e-5
    for n in (1, 7):
        x = torch.randn(n, *shape[1:])
        with torch.no_grad():
            want = model(x)
        want = want[0] if isinstance(want, tuple) else want
        np.testing.assert_allclose(run(graph.data, x)[0], want.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [13, 17, 18, pytest.param(20, marks=pytest.mark.slow)])
def test_the_opset_asked_for_is_the_one_written(opset, mlp):
    graph = onnx.load_from_string(to_onnx(mlp, torch.zeros(2, 8), opset=opset).data)
    assert opset_of(graph) == opset


@pytest.mark.parametrize("opset", [3, 99])
def test_unknown_opsets_are_refused(opset, mlp):
    with pytest.raises(ConversionError, match=r"oldest written|newest is"):
        to_onnx(mlp, torch.zeros(2, 8), opset=opset)


def test_example_of_one_sample_gives_a_dynamic_batch():
    model = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
    graph = to_onnx(model, torch.randn(1, 5, 4))
    assert run(graph.data, torch.randn(6, 5, 4))[0].shape == (6, 5, 4)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [14, 18, pytest.param(25, marks=pytest.mark.slow)])
def test_branches_on_data_are_found_and_their_line_is_named(opset):
    message = r"test_conversion.py:\d+: return 2 \* x if.*branches on the data.*torch.where"
    with pytest.raises(ConversionError, match=message):
        to_onnx(Branches(), torch.randn(2, 3), opset=opset)


@pytest.mark.slow
def test_frozen_batches_are_found():
    with pytest.raises(
        ConversionError, match=r"on example input at batch 1.*opset_version=18 works"
    ):
        to_onnx(FixesBatch(), torch.randn(2, 3))
    # The other route keeps the size.
    assert to_onnx(FixesBatch(), torch.randn(2, 3), opset=18).route == "torch_export"


def test_random_models_are_refused_with_the_way_out():
    with pytest.raises(ConversionError, match=r"two answers.*Take the sampling out"):
        to_onnx(Random(), torch.randn(2, 3))


def test_unknown_axis_names_are_refused_with_those_there_are(mlp):
    with pytest.raises(ConfigError, match="names inputs; this model has input, output"):
        to_onnx(mlp, torch.zeros(2, 8), dynamic_axes={"inputs": {0: "batch"}})


def test_fixed_sizes_are_fixed(mlp):
    graph = to_onnx(mlp, torch.zeros(3, 8), dynamic_axes={})
    (value,) = onnx.load_from_string(graph.data).graph.input
    assert [dim.dim_value for dim in value.type.tensor_type.shape.dim] == [3, 8]


@pytest.mark.parametrize("kind", ["tuple", "dict"])
def test_several_inputs_and_outputs_have_forwards_names(kind):
    state, action = torch.randn(2, 3), torch.randn(2, 3)
    example = (state, action) if kind == "tuple" else {"action": action, "state": state}
    graph = onnx.load_from_string(to_onnx(Named(), example).data).graph
    assert sorted(value.name for value in graph.input) == ["action", "state"]
    assert [value.name for value in graph.output] == ["output_0", "output_1"]
    feeds = {"state": state.numpy(), "action": action.numpy()}
    session = ort.InferenceSession(
        to_onnx(Named(), example).data, providers=["CPUExecutionProvider"]
    )
    assert np.array_equal(session.run(None, feeds)[1], (state - action).numpy())


@pytest.mark.slow
def test_nothing_of_this_machine_is_in_the_file(mlp):
    for opset in (14, 18):
        data = to_onnx(mlp, torch.zeros(2, 8), opset=opset).data
        assert b"/work/" not in data
        assert b"site-packages" not in data
        assert onnx.load_from_string(data).producer_name == "modelyard"


@pytest.mark.slow
def test_model_settings_and_streams_are_left_as_they_were(capfd):
    model = nn.Sequential(MatrixTranspose(), nn.Dropout()).train()
    model[1].eval()
    model[0].forward = model[0].forward
    example = torch.randn(2, 3, 3)
    state = torch.get_rng_state()
    level = logging.getLogger("torch.onnx").level
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ConversionError, match=r"opset 14.*opset_version=18 works"):
            to_onnx(model, example)
    assert [module.training for module in model.modules()] == [True, True, False]
    assert "forward" in vars(model[0])
    assert "forward" not in vars(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.backends.mha.get_fastpath_enabled()
    assert logging.getLogger("torch.onnx").level == level
    assert not caught
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_graph_to_run_takes_the_newer_route_where_it_must():
    assert to_runnable(MatrixTranspose(), torch.randn(2, 3, 3)).route == "torch_export"
    with pytest.raises(ConversionError, match="Then:"):
        to_runnable(Branches(), torch.randn(2, 3))
