"""int8 modules keep the form of their answers; mistakes leave the compressor usable."""

import pytest
import torch
from torch import nn

from modelyard import ModelCompressor, ModelVersionManager
from modelyard._core.errors import ConfigError, InputError, QuantizationError


class Named(nn.Module):
    """Answers with a dict that holds a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(16, 8)

    def forward(self, x):
        y = self.body(x)
        return {"mean": y, "pair": (y * 2, y + 1)}


def test_int8_answers_have_the_nesting_of_the_original(tmp_path):
    compressor = ModelCompressor(Named(), example_input=torch.randn(2, 16))
    compressor.dynamic_quantization()
    manager = ModelVersionManager(tmp_path)
    loaded = manager.load_model(manager.save_model(compressor.model, "named"), load_full=True)
    for model in (compressor.model, loaded):
        answer = model(torch.zeros(3, 16))
        assert list(answer) == ["mean", "pair"]
        assert isinstance(answer["pair"], tuple)
        torch.testing.assert_close(answer["pair"][0], answer["mean"] * 2, atol=0.1, rtol=0.1)


def test_calibrating_with_data_of_the_wrong_width_does_not_spoil_the_next_call():
    compressor = ModelCompressor(nn.Sequential(nn.Linear(16, 8), nn.ReLU()))
    compressor.quantize_model()
    with pytest.raises(InputError):
        compressor.calibrate_quantization(torch.randn(64, 5))
    assert compressor.calibrate_quantization(torch.randn(64, 16))["max_error"] < 0.1


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Linear(16, 16).double()])
def test_a_model_with_nothing_to_quantize_is_refused(model):
    dtype = next((p.dtype for p in model.parameters()), torch.float32)
    compressor = ModelCompressor(model, example_input=torch.randn(2, 16, dtype=dtype))
    with pytest.raises(QuantizationError, match="Nothing could be quantized"):
        compressor.dynamic_quantization()


def test_no_layers_to_prune_is_a_mistake():
    with pytest.raises(ConfigError, match="layers_to_prune is empty"):
        ModelCompressor(nn.Linear(4, 4)).prune_model(layers_to_prune=[])


def test_metric_of_outputs_is_recognised_whatever_its_arguments_are_called():
    data = [(torch.randn(8, 4), torch.zeros(8, dtype=torch.long))]
    compressor = ModelCompressor(nn.Linear(4, 3))
    evaluation = compressor.evaluate_compressed_model(
        data, lambda out, y: (out.argmax(dim=1) == y).float().mean()
    )
    assert evaluation["original_metric"] == evaluation["compressed_metric"]
