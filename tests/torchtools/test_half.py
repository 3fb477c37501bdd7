"""Graphs with numbers of 16 bits."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import nn

from modelyard._core.errors import QuantizationError
from modelyard.torchtools.conversion import to_onnx
from modelyard.torchtools.onnx_module import make_session, run_session
from modelyard.torchtools.probing import is_crash
from modelyard.torchtools.quantization import half

pytestmark = pytest.mark.slow

MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4)), (2, 16)),
    "lstm": (lambda: nn.LSTM(8, 16, batch_first=True), (2, 5, 8)),
    "encoder": (lambda: nn.TransformerEncoderLayer(16, 2, 64, batch_first=True), (2, 5, 16)),
    "convolution": (lambda: nn.Sequential(nn.Conv1d(8, 16, 3), nn.BatchNorm1d(16)), (2, 8, 9)),
}


def types(data):
    graph = onnx.load_from_string(data).graph
    return {value.data_type for value in graph.initializer if np.prod(value.dims) >= 64}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("narrow", "stored", "largest"),
    [
        (half.float16, TensorProto.FLOAT16, 2e-3),
        (half.bfloat16_weights, TensorProto.BFLOAT16, 2e-2),
    ],
)
def test_weights_take_half_the_room_and_answers_stay(name, narrow, stored, largest):
    torch.manual_seed(0)
    make, shape = MODELS[name]
    model = make().eval()
    data = to_onnx(model, torch.randn(shape)).data
    small = narrow(data)
    onnx.checker.check_model(onnx.load_from_string(small), full_check=True)
    assert types(small) == {stored}
    x = torch.randn(3, *shape[1:])
    (want, *_), (got, *_) = (
        run_session(make_session(data), [x]),
        run_session(make_session(small), [x]),
    )
    assert got.dtype == torch.float32
    assert float((got - want).abs().max() / want.abs().max()) < largest


def test_numbers_too_large_are_refused():
    model = nn.Linear(4, 4)
    with torch.no_grad():
        model.weight[0, 0] = 1e5
    data = to_onnx(model, torch.randn(2, 4)).data
    with pytest.raises(QuantizationError, match=r"1e\+05 is too large for float16.*bf16"):
        half.float16(data)
    half.bfloat16_weights(data)


def test_bfloat16_needs_a_newer_opset():
    data = to_onnx(nn.Linear(4, 4), torch.randn(2, 4), opset=12).data
    with pytest.raises(QuantizationError, match="needs opset 13"):
        half.bfloat16_weights(data)


def test_a_graph_that_crashes_the_runtime_is_refused(monkeypatch):
    data = to_onnx(nn.Linear(4, 4), torch.randn(2, 4)).data
    monkeypatch.setattr("modelyard.torchtools.probing._SCRIPT", "import os; os.abort()")
    with pytest.raises(QuantizationError, match=r"crashes on loading.*bf16"):
        half.float16(data)


@pytest.mark.parametrize(
    ("returncode", "expected"), [(0, False), (1, False), (-11, True), (0xC0000005, True)]
)
def test_only_a_signal_is_a_crash(returncode, expected):
    assert is_crash(returncode) is expected
