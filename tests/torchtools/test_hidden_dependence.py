"""What a trace keeps without a word: sizes, values and chance that no ordinary sample shows."""

import collections
import copy
import math
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from modelyard._core.errors import ConversionError
from modelyard.torchtools.conversion import to_onnx

TIME = {"input": {0: "batch_size", 1: "time"}}


def model_of(function):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return function(self, x)

    torch.manual_seed(0)
    return Model().eval()


def last_64(model, x):
    if x.shape[1] > 64:
        x = x[:, -64:]
    return model.layer(x).mean(1)


def top_tenth(_model, x):
    return torch.topk(x, max(1, int(x.shape[1] * 0.1)), dim=1).values


def pooled(_model, x):
    k = x.shape[1] // 4
    return nn.functional.avg_pool1d(x.transpose(1, 2), k, k)


def patches(model, x):
    return torch.stack([model.layer(x[:, i : i + 8]) for i in range(0, x.shape[1] - 7, 4)], 1)


def far_branch(_model, x):
    return x * 2 if x.shape[1] < 500 else x


def alone(_model, x):
    return x - x.mean(1, keepdim=True) if x.shape[1] > 1 else x * 2


@pytest.mark.slow
@pytest.mark.parametrize("function", [last_64, top_tenth, pooled, patches, far_branch, alone])
@pytest.mark.parametrize("opset", [14, pytest.param(18, marks=pytest.mark.slow)])
def test_what_depends_on_a_length_is_not_frozen(function, opset):
    with pytest.raises(ConversionError, match=r"size|shape|translated|works"):
        to_onnx(model_of(function), torch.randn(2, 16, 4), opset=opset, dynamic_axes=TIME)


def micro_batches(model, x):
    return torch.cat([model.layer(x[i : i + 16]) for i in range(0, x.shape[0], 16)])


def crowd(_model, x):
    return x * 2 if x.shape[0] <= 200 else x


def across_batch(model, x):
    y = model.layer(x)
    return (y - y.mean(0)) / (y.std(0) + 1e-5) if y.shape[0] > 1 else y


@pytest.mark.slow
@pytest.mark.parametrize("function", [micro_batches, crowd, across_batch])
@pytest.mark.parametrize("axes", [None, {"input": {0: "n"}}])
def test_what_depends_on_the_batch_is_not_frozen(function, axes):
    with pytest.raises(ConversionError, match=r"size|shape|differs"):
        to_onnx(model_of(function), torch.randn(2, 4), dynamic_axes=axes)


def equal_halves(_model, x):
    return x * 2 if torch.equal(x[:, :2], x[:, 2:]) else x


def close_halves(_model, x):
    return x * 2 if torch.allclose(x[:, :2], x[:, 2:]) else x


def through_numpy(_model, x):
    return x * 2 if x.detach().cpu().numpy().max() > 50 else x


def through_array(_model, x):
    return x * 2 if np.asarray(x).max() > 50 else x


def silenced(_model, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return x * 2 if x.max() > 50 else x


def limit(_model, x):
    return x / torch.tensor(x.max().clamp(min=50.0).item())


def listed(_model, x):
    return x * 2 if max(x[0].tolist()) > 50 else x


@pytest.mark.slow
@pytest.mark.parametrize(
    "function",
    [equal_halves, close_halves, through_numpy, through_array, silenced, limit, listed],
)
def test_values_taken_from_the_data_are_seen(function):
    with pytest.raises(
        ConversionError,
        match=r"hidden_dependence.py:\d+: .*(branches on the data|opset_version=18 works)",
    ):
        to_onnx(model_of(function), torch.randn(2, 4))


def default_mask(model, x):
    mask = torch.ones_like(x[..., 0], dtype=torch.bool)
    return model.layer(x * mask[..., None] if not mask.all() else x)


def checked_outside_onnx(model, x):
    if not torch.onnx.is_in_onnx_export():
        assert bool((x < 1e9).all())
    return model.layer(x)


def probes(_model, x):
    """Picks the largest, writes something there: which of equal ones is up to the runtime."""
    top = torch.topk(x, 2, dim=1, sorted=False).indices
    return x.cumsum(1).scatter(1, top, torch.full(top.shape, 5.0))


@pytest.mark.parametrize("function", [default_mask, checked_outside_onnx, probes])
def test_what_only_looks_like_the_data_is_converted(function):
    assert to_onnx(model_of(function), torch.randn(2, 4)).max_abs_diff < 1e-5


class Grows(nn.Module):
    """A table that grows with the longest sequence seen, as rotary encodings have it."""

    def __init__(self):
        super().__init__()
        self.n = 0
        self.table = None
        self.seen = {}
        self.recent = collections.deque(maxlen=3)
        self.sizes = []

    def forward(self, x):
        n = x.shape[1]
        if n > self.n:
            self.table, self.n = torch.arange(n).float().cos()[:, None], n
        self.seen["x"] = x
        self.recent.append(x)
        self.sizes.append(n)
        return x * self.table[:n]


@pytest.mark.parametrize("opset", [14, pytest.param(18, marks=pytest.mark.slow)])
def test_records_and_tables_that_grow_are_as_before(opset):
    model = Grows()
    graph = to_onnx(model, torch.randn(2, 10, 4), opset=opset, dynamic_axes=TIME)
    assert max(graph.verification.sizes["time"]) == 53
    assert (model.n, model.table, model.seen, model.sizes) == (0, None, {}, [])
    assert len(model.recent) == 0
    copy.deepcopy(model)


def constant_from_weights(model, x):
    return model.layer(x) * float(model.layer.bias.abs().max())


def test_values_taken_from_weights_are_constants():
    assert to_onnx(model_of(constant_from_weights), torch.randn(2, 4)).max_abs_diff < 1e-5


def rare_dropout(_model, x):
    return torch.where(torch.rand(x.shape[0], 1) < 1e-6, x * 0, x * 2)


def rare_python(_model, x):
    return x * 2 if random.random() < 0.999999 else x  # noqa: S311 - what users write


def rare_numpy(_model, x):
    return x * 2 if np.random.rand() < 0.999999 else x  # noqa: NPY002 - what users write


@pytest.mark.parametrize("function", [rare_dropout, rare_python, rare_numpy])
def test_chance_is_seen_however_rare_and_the_numbers_are_put_back(function):
    model = model_of(function)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    with pytest.raises(ConversionError, match="draws random numbers in forward"):
        to_onnx(model, torch.ones(2, 4))
    assert torch.equal(states[0], torch.get_rng_state())
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002


def floors(_model, x):
    return x // 2


def shifts(_model, x):
    return x >> 1


def sums(_model, x):
    return x.int().cumsum(1)


@pytest.mark.slow
@pytest.mark.parametrize("function", [floors, shifts, sums])
def test_whole_numbers_are_tried_below_zero_and_far_apart(function):
    example = torch.arange(8).reshape(2, 4)
    with pytest.raises(ConversionError, match=r"(negative|extreme) input.*opset_version=18 works"):
        to_onnx(model_of(function), example)


class CachesMask(nn.Module):
    """As tutorials do; also reassigns a buffer and counts."""

    def __init__(self):
        super().__init__()
        self.mask = None
        self.n_calls = 0
        self.register_buffer("average", torch.zeros(8))
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x):
        self.n_calls += 1
        if self.mask is None or self.mask.size(0) != x.size(1):
            self.mask = nn.Transformer.generate_square_subsequent_mask(x.size(1))
            self.register_buffer("cos", torch.ones(x.size(1)))
        self.average = self.average * 0.9 + x.mean((0, 1)) * 0.1
        return self.layer(x, src_mask=self.mask)


@pytest.mark.slow
def test_a_model_that_keeps_things_trains_on_as_if_nothing_had_been():
    torch.manual_seed(0)
    model, x = CachesMask().train(), torch.randn(2, 6, 8)
    average = model.average
    to_onnx(model, x)
    assert (model.mask, model.n_calls) == (None, 0)
    assert model.average is average
    assert "cos" not in dict(model.named_buffers())
    model(x).sum().backward()


def test_modules_made_in_inference_mode_are_converted():
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).eval()
    assert to_onnx(model, torch.randn(2, 4)).max_abs_diff < 1e-5


def test_an_answer_may_hold_more_than_tensors():
    def answer(_model, x):
        return {"y": x * 2, "rows": x.shape[0], "kind": "scores", "extra": []}

    assert to_onnx(model_of(answer), torch.randn(2, 4)).max_abs_diff == 0


@pytest.mark.slow
def test_bounds_of_the_module_itself_are_no_fault(monkeypatch):
    positions = nn.Parameter(torch.randn(40, 4))

    def with_positions(_model, x):
        return x + positions[: x.shape[1]]

    graph = to_onnx(model_of(with_positions), torch.randn(2, 16, 4), opset=18, dynamic_axes=TIME)
    assert max(graph.verification.sizes["time"]) == 33


@pytest.mark.slow
def test_math_on_sizes_is_not_frozen():
    def blocks(_model, x):
        return x[:, : math.ceil(x.shape[1] / 8) * 2].sum(1)

    with pytest.raises(ConversionError):
        to_onnx(model_of(blocks), torch.randn(2, 17, 4), dynamic_axes=TIME)
