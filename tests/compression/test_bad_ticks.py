"""One sample far out, one channel in a small unit: no constant answers, nothing lost unseen."""

import pytest
import torch
from torch import nn

from modelyard import ModelCompressor
from modelyard._core.errors import QuantizationError
from modelyard.torchtools.samples import batches_of, times_beyond


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def worst_channel(model, smaller, inputs):
    """Straight from the definition, channels along the second axis."""
    with torch.no_grad():
        want, got = (m(inputs).double().movedim(1, -1).flatten(0, -2) for m in (model, smaller))
    return float(((want - got).norm(dim=0) / (want - want.mean(dim=0)).norm(dim=0)).max())


def with_bad_tick(size, *shape):
    data = normal(*shape)
    data[len(data) // 2] *= size
    return data


@pytest.mark.parametrize("size", [1e4, 1e5])
def test_a_bad_tick_does_not_make_a_model_that_answers_a_constant(new_mlp, size):
    model = new_mlp(16, 64, 4)
    compressor = ModelCompressor(model)
    compressor.quantize_model(calibration_method="minmax")
    with pytest.raises(QuantizationError, match=r"limit is 10 %"):
        compressor.calibrate_quantization(with_bad_tick(size, 1000, 16))
    assert compressor.model(normal(100, 16, seed=1)).unique(dim=0).shape[0] == 100


def test_a_bad_tick_in_the_validation_data_of_a_model_that_convolves():
    torch.manual_seed(0)
    layers = nn.Conv1d(4, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 30, 3)
    model = nn.Sequential(*layers).eval()
    compressor = ModelCompressor(model, validation_data=with_bad_tick(1e4, 512, 4, 32))
    assert compressor.weight_only_quantization()["max_error"] < 0.1
    compressor.quantize_model(calibration_method="minmax")
    with pytest.raises(QuantizationError, match=r"limit is 10 %"):
        compressor.calibrate_quantization(with_bad_tick(1e4, 512, 4, 32))


def test_a_signal_beside_a_price_survives_in_the_outputs_of_convolutions():
    torch.manual_seed(0)
    layers = nn.Conv1d(4, 32, 3, padding=1), nn.ReLU(), nn.Conv1d(32, 2, 3, padding=1)
    model = nn.Sequential(*layers).eval()
    with torch.no_grad():
        model[2].weight[0] *= 1000
    compressor = ModelCompressor(model, validation_data=normal(256, 4, 32))
    stats = compressor.dynamic_quantization()
    assert worst_channel(model, compressor.model, normal(256, 4, 32, seed=1)) < 0.05
    assert stats["layers_kept_float"] == ["2"]


def test_no_channel_of_many_is_lost_unseen():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 128)).eval()
    with torch.no_grad():
        model[2].weight[:6] *= 1e-3
        model[2].bias[:6] *= 1e-3
    compressor = ModelCompressor(model, validation_data=normal(256, 32))
    compressor.quantize_model()
    compressor.calibrate_quantization(normal(256, 32))
    assert worst_channel(model, compressor.model, normal(256, 32, seed=1)) < 0.05


@pytest.mark.parametrize("shape", [(1000, 16), (300, 4, 16), (40, 16)])
def test_a_value_far_out_is_warned_of(caplog, shape):
    batches_of(normal(*shape))
    assert not caplog.records
    batches_of(with_bad_tick(1e4, *shape), what="validation_data")
    (told,) = (record.getMessage() for record in caplog.records)
    assert "validation_data holds a value" in told
    assert "99th percentile" in told


def test_columns_in_units_of_their_own_and_rare_flags_are_no_outliers():
    table = normal(1000, 200).abs()
    table[:, 0] *= 1e9  # a volume beside returns
    table[:, 1] = 0.0
    table[3, 1] = 1e6  # set once
    assert times_beyond(table) < 10
    assert times_beyond(torch.zeros(10, 3)) == times_beyond(torch.zeros(10, 0)) == 0.0
    assert times_beyond((2 * normal(3000, 3)).exp()) < 100  # heavy tails
