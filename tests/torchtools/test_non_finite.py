"""NaN and infinity in the inputs of int8 graphs: NaN for them, nothing for their neighbours."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from modelyard import ModelCompressor
from modelyard.torchtools.non_finite import Swallowed, are_finite, spoil_, without_swallowed


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def dynamic(model, data):
    compressor = ModelCompressor(model, validation_data=data)
    compressor.dynamic_quantization()
    return compressor.model


def static(model, data):
    compressor = ModelCompressor(model, validation_data=data)
    compressor.quantize_model()
    compressor.calibrate_quantization(data)
    return compressor.model


def blocks(model, data):
    compressor = ModelCompressor(model, validation_data=data)
    compressor.weight_only_quantization("int8_blocks")
    return compressor.model


def weights(model, data):
    compressor = ModelCompressor(model, validation_data=data)
    compressor.weight_only_quantization()
    return compressor.model


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("make", [dynamic, static, blocks])
def test_samples_that_are_not_finite_get_nan_and_their_neighbours_their_answers(
    new_mlp, make, value
):
    model = new_mlp(32, 64, 4)
    quantized = make(model, normal(64, 32))
    inputs = normal(5, 32)
    inputs[1, 3] = value
    given = inputs.clone()
    answers = quantized(inputs)
    assert answers[1].isnan().all()
    others = [0, 2, 3, 4]
    assert torch.allclose(answers[others], model(inputs[others]), atol=0.1)
    assert torch.equal(inputs.nan_to_num(), given.nan_to_num())
    assert quantized(inputs[1:2]).isnan().all()


def test_weights_alone_keep_nan_by_themselves(new_mlp):
    model = new_mlp(32, 64, 4)
    quantized = weights(model, normal(64, 32))
    inputs = normal(5, 32)
    inputs[1, 3] = math.nan
    assert quantized(inputs).isnan().any(dim=1).tolist() == [False, True, False, False, False]


class Masked(nn.Module):
    """Scores with a mask of -inf, added before the softmax."""

    def __init__(self):
        super().__init__()
        self.values, self.scores, self.out = nn.Linear(8, 32), nn.Linear(8, 1), nn.Linear(32, 4)

    def forward(self, x, mask):
        shares = torch.softmax(self.scores(x)[..., 0] + mask, dim=-1)
        return self.out((self.values(x) * shares[..., None]).sum(dim=1))


def test_masks_of_minus_infinity_mask():
    torch.manual_seed(0)
    model = Masked().eval()
    quantized = dynamic(model, (normal(64, 6, 8), torch.zeros(64, 6)))
    mask = torch.zeros(4, 6)
    mask[:, 4:] = -math.inf
    inputs = normal(4, 6, 8)
    assert torch.allclose(quantized(inputs, mask), model(inputs, mask), atol=0.1)
    mask[2, 0] = math.nan
    assert quantized(inputs, mask).isnan().all(dim=1).tolist() == [False, False, True, False]


class Cleaning(nn.Module):
    def __init__(self, clean):
        super().__init__()
        self.clean, self.layer = clean, nn.Linear(32, 16)

    def forward(self, x):
        return self.layer(self.clean(x))


def test_models_that_clean_their_inputs_are_left_alone():
    torch.manual_seed(0)
    for clean, value in ((torch.nan_to_num, math.nan), (lambda x: x.clamp(-3, 3), math.inf)):
        model = Cleaning(clean).eval()
        quantized = dynamic(model, normal(64, 32))
        inputs = normal(5, 32)
        inputs[1, 3] = value
        assert torch.allclose(quantized(inputs), model(inputs), atol=0.1)


class Pooled(nn.Module):
    """An answer a sample, one for all, and labels."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 64)

    def forward(self, x):
        y = self.layer(x)
        return y, y.mean(dim=0, keepdim=True)[0], y.argmax(dim=1)


def test_where_inputs_do_not_agree_on_the_batch_all_is_nan():
    every = Swallowed(frozenset("ab"), frozenset("ab"), by_sample=frozenset("p"))
    feed = {"a": np.ones((4, 2)), "b": np.array(np.nan), "c": np.ones((3,), dtype=np.int64)}
    cleaned, is_spoiled = without_swallowed(feed, every)
    assert is_spoiled.tolist() == [True]
    assert not cleaned["a"].any()
    assert not cleaned["b"].any()
    assert cleaned["c"].all()
    outputs = {"p": np.ones((4, 2)), "q": np.array(1.0), "r": np.arange(4)}
    spoil_(outputs, is_spoiled, every.by_sample)
    assert np.isnan(outputs["p"]).all()
    assert np.isnan(outputs["q"])
    assert outputs["r"].tolist() == [0, 1, 2, 3]


def test_what_is_not_by_sample_is_nan_throughout_and_labels_stay_labels():
    torch.manual_seed(0)
    quantized = dynamic(Pooled().eval(), normal(70, 8))
    inputs = normal(5, 8)
    inputs[4, 0] = math.nan
    by_sample, for_all, labels = quantized(inputs)
    assert by_sample.isnan().all(dim=1).tolist() == [False, False, False, False, True]
    assert for_all.isnan().all()
    assert labels[:4].tolist() == by_sample[:4].argmax(dim=1).tolist()


class TimeFirst(nn.Module):
    """A network that takes (time, batch, features), as PyTorch's do by default."""

    def __init__(self, kind):
        super().__init__()
        self.body = getattr(nn, kind)(8, 64)
        self.out = nn.Linear(64, 3)

    def forward(self, x):
        return self.out(self.body(x)[0])


class AcrossSamples(nn.Module):
    """Each sample less the batch's mean, beside one that is by itself."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 64)

    def forward(self, x):
        y = self.layer(x)
        return y - y.mean(dim=0), y


@pytest.mark.parametrize("make", [dynamic, static])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_where_time_comes_first_all_is_nan(kind, make):
    torch.manual_seed(0)
    quantized = make(TimeFirst(kind).eval(), normal(64, 5, 8))
    inputs = normal(20, 5, 8)
    assert quantized(inputs).isfinite().all()
    inputs[3, 2, 1] = math.nan
    assert quantized(inputs).isnan().all()


@pytest.mark.parametrize("make", [dynamic, static, blocks])
def test_an_answer_that_compares_samples_is_nan_throughout(make):
    torch.manual_seed(0)
    quantized = make(AcrossSamples().eval(), normal(64, 8))
    inputs = normal(5, 8)
    inputs[4, 0] = math.nan
    compared, alone = quantized(inputs)
    assert compared.isnan().all()
    assert alone.isnan().all(dim=1).tolist() == [False, False, False, False, True]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_large_numbers_are_finite(dtype):
    large = np.full((3, 4), np.finfo(dtype).max, dtype=dtype)
    assert are_finite([large, np.arange(3), np.zeros((0, 2), dtype=dtype)])
    large[2, 3] = np.nan
    assert not are_finite([large])


def test_a_module_stored_before_it_looked_for_nan_does_so_now():
    compressor = ModelCompressor(nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4)))
    compressor.dynamic_quantization()
    old = compressor.model
    del old.__dict__["_swallowed"]
    x = torch.randn(3, 8)
    x[1, 2] = float("nan")
    assert old(x).isnan().any(1).tolist() == [False, True, False]
