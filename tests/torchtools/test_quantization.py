"""Recipes on graphs: what they store, what they cost, which layers they leave alone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import numpy_helper
from torch import nn

from modelyard._core.errors import ConfigError, QuantizationError
from modelyard.torchtools import quantization
from modelyard.torchtools.conversion import to_runnable
from modelyard.torchtools.quantization import Calibration, DynamicInt8, Source, StaticInt8
from modelyard.torchtools.quantization.calibration import with_wider_bins
from modelyard.torchtools.quantization.weights import with_int8_weights
from modelyard.torchtools.samples import reference_for

answers = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=6),
    elements=st.floats(-100, 100).map(lambda value: round(value, 3)),
)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def source_of(model, example):
    return Source(to_runnable(model.eval(), example).data)


def reference_of(model, data, **options):
    return reference_for(model, list(data.split(32)), **options)


# ── the error ───────────────────────────────────────────────────────────────────────────────


@given(answers)
def test_equal_answers_have_no_error(array):
    assert quantization.relative_error(torch.tensor(array), torch.tensor(array)) == 0.0


def test_error_is_the_share_of_the_variation_that_is_not_explained():
    want, got = normal(200, 3) * 2 + 50, normal(200, 3) * 2 + 50 + 0.1 * normal(200, 3, seed=1)
    w, g = want.double().numpy(), got.double().numpy()
    r2 = 1 - ((w - g) ** 2).sum(axis=0) / ((w - w.mean(axis=0)) ** 2).sum(axis=0)
    worst = np.sqrt(1 - r2).max()
    assert quantization.relative_error(want, got) == pytest.approx(worst, rel=1e-9)


@given(answers, st.floats(-10, 10), st.floats(0.01, 100))
def test_error_does_not_depend_on_offset_or_unit(array, offset, unit):
    want = torch.tensor(array)
    got = want + 0.01 * torch.tensor(array[::-1].copy())
    by_channel = want.reshape(-1, want.shape[-1])
    about_mean = (by_channel - by_channel.mean(dim=0)).norm(dim=0)
    if bool((about_mean < 1e-2 * by_channel.norm(dim=0) + 1e-2).any()):
        return  # hardly any variation: relative to the size instead
    if float((want * unit + offset).abs().max()) >= 1e3:
        return  # from there on a value may be a fill, which has to be met exactly
    once = quantization.relative_error(want, got)
    moved = quantization.relative_error(want * unit + offset, got * unit + offset)
    assert moved == pytest.approx(once, rel=1e-6, abs=1e-9)


def test_an_error_small_beside_a_large_offset_is_not_small():
    want = 1000 + normal(64, 1)
    got = torch.full_like(want, 1000)  # all there was to know is gone
    assert quantization.relative_error(want, got) > 0.9
    assert quantization.relative_error(want, got, is_real=False) > 0.09


def test_a_small_channel_is_not_hidden_by_a_large_one():
    want = torch.stack([1000 * normal(64), normal(64, seed=1)], dim=1)
    got = want.clone()
    got[:, 1] = 0.0
    assert quantization.relative_error(want, got) == pytest.approx(1.0, abs=0.1)


def test_of_many_channels_a_few_that_hardly_vary_do_not_decide():
    want = normal(64, 100)
    want[:, :3] = 1 + want[:, :3] * 1e-4
    got = want + 1e-3 * normal(64, 100, seed=1)
    assert quantization.relative_error(want, got) < 0.01
    assert quantization.relative_error(want[:, :10], got[:, :10]) > 1


@pytest.mark.parametrize("n_channels", [10, 100, 1000])
def test_of_many_channels_a_few_in_a_small_unit_count_like_the_others(n_channels):
    want = normal(64, n_channels)
    want[:, :3] *= 1e-5
    got = want + 1e-4 * normal(64, n_channels, seed=1)
    assert quantization.relative_error(want, got) > 1


@pytest.mark.parametrize("shape", [(64, 2, 20), (64, 20, 2), (64, 2, 5, 6), (64, 5, 6, 2)])
def test_channels_lie_along_the_second_axis_or_the_last(shape):
    want = normal(*shape)
    channel = want.select(shape.index(2), 1)
    channel *= 1e-3
    got = want.clone()
    got.select(shape.index(2), 1).zero_()
    assert quantization.relative_error(want, got) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("n_outliers", [1, 10])
@pytest.mark.parametrize("shape", [(1000, 1), (1000, 4), (1000, 3, 5)])
def test_a_few_samples_far_out_do_not_hide_the_others(n_outliers, shape):
    want = normal(*shape)
    want[100 : 100 + n_outliers] *= 1e5
    got = want.clone()
    got[: 1000 - n_outliers] = torch.where(want.abs() > 100, want, 0.5)[: 1000 - n_outliers]
    assert quantization.relative_error(want, got) > 0.9
    got = want + 0.01 * normal(*shape, seed=1)
    assert quantization.relative_error(want, got) == pytest.approx(0.01, rel=0.2)


def test_what_is_rare_may_be_all_that_a_channel_says():
    want = torch.zeros(1000, 3)
    want[:, 0] = normal(1000)
    want[5, 1:] = 3.0  # of this channel nothing is left without the rare sample
    assert quantization.relative_error(want, want + 1e-3) < 0.1


@pytest.mark.parametrize("fill", [-1e9, -1e4, float("-inf"), torch.finfo(torch.float32).min])
def test_fills_for_what_is_not_allowed_must_be_met_and_hide_nothing(fill):
    want = normal(64, 4)
    is_masked = normal(64, 4, seed=1) > 0.5
    got = (want + 0.5 * normal(64, 4, seed=2)).masked_fill(is_masked, fill)
    want = want.masked_fill(is_masked, fill)
    assert 0.3 < quantization.relative_error(want, got) < 0.9
    assert quantization.relative_error(want, want.clone()) == 0.0
    got[is_masked] = 0.0
    assert quantization.relative_error(want, got) == float("inf")


@pytest.mark.parametrize(
    ("want", "got", "error"),
    [
        (torch.ones(4, 2), torch.ones(4, 2) * 1.1, 0.1),  # no variation: relative to the size
        (torch.zeros(4, 2), torch.ones(4, 2), 2.0),  # nothing to be relative to
        (torch.ones(4, 2), torch.ones(4, 3), float("inf")),
        (torch.ones(4, 2), torch.full((4, 2), float("nan")), float("inf")),
        (torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 0, 0]), 0.5),  # labels
        (torch.tensor([float("nan"), 1.0]), torch.tensor([float("nan"), 1.0]), 0.0),
        (torch.tensor([[0.0, 1.0], [0.0, 2.0]]), torch.tensor([[0.1, 1.0], [0.0, 2.0]]), 0.2),
    ],
)
def test_error_of_odd_answers(want, got, error):
    assert quantization.relative_error(want, got) == pytest.approx(error, rel=1e-6)


def test_made_up_inputs_are_judged_by_size():
    model = nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 2)).eval()
    with torch.no_grad():
        model[1].bias += 10.0
    data = normal(64, 4)
    source = source_of(model, data[:2])
    graph = DynamicInt8()(source, frozenset())
    real = quantization.error_of(graph, reference_of(model, data))
    made_up = quantization.error_of(graph, reference_of(model, data, is_real=False))
    assert made_up < real / 5


# ── weights alone ───────────────────────────────────────────────────────────────────────────


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.body = getattr(nn, kind)(8, 32, batch_first=True, bidirectional=True)

    def forward(self, x):
        return self.body(x)[0]


WEIGHTED = {
    "linear": lambda: (nn.Sequential(nn.Linear(16, 32)), normal(4, 16)),
    "conv": lambda: (nn.Conv1d(4, 32, 5, groups=2), normal(4, 4, 20)),
    "transposed conv": lambda: (nn.ConvTranspose1d(8, 12, 4), normal(4, 8, 20)),
    "lstm": lambda: (Recurrent("LSTM"), normal(4, 6, 8)),
    "gru": lambda: (Recurrent("GRU"), normal(4, 6, 8)),
    "embedding": lambda: (nn.Embedding(40, 16), torch.arange(12).reshape(4, 3)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_in_8_bits_are_off_by_half_a_step_at_most(name):
    torch.manual_seed(0)
    model, example = WEIGHTED[name]()
    graph = source_of(model, example).prepared
    stored = with_int8_weights(graph, keep=frozenset())
    before = {v.name: numpy_helper.to_array(v) for v in initializers(graph)}
    after = {v.name: numpy_helper.to_array(v) for v in initializers(stored)}
    narrowed = [name.removesuffix("_int8") for name in after if name.endswith("_int8")]
    assert narrowed
    for weight in narrowed:
        scale = after[f"{weight}_scale"]
        wide = after[f"{weight}_int8"].astype(np.float32) * scale
        assert np.all(np.abs(wide - before[weight]) <= scale / 2 * (1 + 1e-4))
        assert scale.size >= 4  # a scale a channel, not one for all


@pytest.mark.parametrize("name", WEIGHTED)
def test_a_runtime_widens_the_weights_once_when_it_loads_them(name, tmp_path):
    model, example = WEIGHTED[name]()
    source = source_of(model, example)
    narrow = quantization.WEIGHT_ONLY_INT8(source, frozenset())
    assert kinds_after_loading(narrow, tmp_path) == kinds_after_loading(source.graph, tmp_path)


def initializers(graph):
    return list(onnx.load_from_string(graph).graph.initializer)


def kinds_after_loading(graph, folder):
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(folder / "loaded.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return sorted(node.op_type for node in onnx.load(folder / "loaded.onnx").graph.node)


def test_weights_used_twice_or_not_finite_or_small_stay_as_they_are():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(normal(16, 16))
            self.small = nn.Linear(16, 2)
            self.bad = nn.Linear(16, 32)

        def forward(self, x):
            y = x @ self.weight + self.weight.sum()
            return self.small(y), self.bad(x)

    model = Twice()
    with torch.no_grad():
        model.bad.weight[0, 0] = float("inf")
    graph = torch_graph(model, normal(2, 16))
    stored = with_int8_weights(graph, keep=frozenset())
    assert stored == onnx.load_from_string(graph).SerializeToString()


def torch_graph(model, example):
    """Not through the checked conversion, which infinity would not pass."""
    import io
    import warnings

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), (example,), buffer, dynamo=False, opset_version=14)
    return buffer.getvalue()


@pytest.mark.parametrize("recipe", ["WEIGHT_ONLY_INT8", "BLOCK_INT8", "BLOCK_INT4"])
def test_blocks_and_channels_keep_their_size_and_error(recipe):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 64))
    data = normal(64, 256)
    source = source_of(model, data[:2])
    result = quantization.quantized_within(
        source, [getattr(quantization, recipe)], reference_of(model, data), max_error=0.3
    )
    n_bits = 4 if recipe == "BLOCK_INT4" else 8
    n_weights = 256 * 512 + 512 * 64
    assert len(result.data) < n_weights * (n_bits / 8 + 4 / 128) + 6000
    assert result.error < {8: 0.03, 4: 0.3}[n_bits]
    assert result.is_portable == (recipe == "WEIGHT_ONLY_INT8")


# ── calibration ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", quantization.METHODS)
def test_ranges_by_every_method_lie_within_what_was_seen(method):
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    data = normal(70, 8)  # the last batch is smaller
    source = source_of(model, data[:2])
    taken = Calibration(list(data.split(32)), method).ranges(source.prepared, ("Gemm", "MatMul"))
    low, high = (float(np.ravel(end)[0]) for end in taken["input"].range_value)
    assert float(data.min()) - 1e-3 <= low < 0 < high <= float(data.max()) + 1e-3
    if method == "minmax":
        assert high == pytest.approx(float(data.max()))


def test_an_outlier_costs_less_by_percentile_than_by_minmax():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
    with torch.no_grad():
        model[0].weight[:, 0] = 0.0  # the outlier widens the range of the input alone
    data = normal(4096, 8)
    data[0, 0] = 1000.0
    source, clean = source_of(model, data[:2]), reference_of(model, normal(256, 8, seed=5))
    batches = list(data.split(32))
    errors = {
        method: quantization.error_of(
            StaticInt8(Calibration(batches, method))(source, frozenset()), clean
        )
        for method in ("minmax", "percentile")
    }
    assert errors["percentile"] < errors["minmax"] / 5
    result = quantization.quantized_within(
        source,
        [StaticInt8(Calibration(batches, method)) for method in quantization.METHODS],
        clean,
        max_error=0.2,
    )
    assert result.recipe == "static_int8_percentile"
    assert [attempt.recipe for attempt in result.attempts] == [
        "static_int8",
        "static_int8_percentile",
    ]


@pytest.mark.parametrize("size", [1e3, 1e7])
@pytest.mark.parametrize("method", ["percentile", pytest.param("entropy", marks=pytest.mark.slow)])
def test_an_outlier_costs_neither_memory_nor_time(method, size):
    """It took gigabytes, or five minutes."""
    model = nn.Linear(16, 32)
    data = normal(200, 16)
    data[150] *= size
    source = source_of(model, data[:2])
    taken = Calibration(list(data.split(32)), method).ranges(source.prepared, ("Gemm", "MatMul"))
    low, high = (float(np.ravel(end)[0]) for end in taken["input"].range_value)
    assert float(data.min()) * 1.001 <= low < 0 < high <= float(data.max()) * 1.001


@given(st.integers(1, 40), st.integers(0, 10))
def test_wider_bins_count_the_same_around_the_same_middle(half, seed):
    counts = np.random.default_rng(seed).integers(0, 9, 2 * half)
    wide, end = with_wider_bins(counts, 1.0)
    assert wide.sum() == counts.sum()
    assert wide[: len(wide) // 2].sum() == counts[:half].sum()
    assert 2 * end / len(wide) == pytest.approx(2 * (2 * 1.0 / len(counts)))


def test_a_method_that_fails_is_an_attempt_that_failed(monkeypatch):
    model, data = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4)), normal(64, 8)
    source, reference = source_of(model, data[:2]), reference_of(model, data)
    minmax, entropy = (StaticInt8(Calibration([data], name)) for name in ("minmax", "entropy"))

    def failing(*_args):
        raise ValueError("too many bins")

    monkeypatch.setattr(entropy.calibration, "ranges", failing)
    result = quantization.quantized_within(source, [entropy, minmax], reference, max_error=0.1)
    assert [attempt.error is None for attempt in result.attempts] == [True, False]
    assert "too many bins. Try another method." in result.attempts[0].outcome
    with pytest.raises(QuantizationError, match=r"too many bins\. Try another method"):
        quantization.quantized_within(source, [entropy], reference, max_error=0.1)
    with pytest.raises(quantization.OverLimitError, match=r"static_int8 changes") as caught:
        quantization.quantized_within(source, [entropy, minmax], reference, max_error=1e-6)
    assert len(caught.value.attempts) == 2


def test_data_of_another_length_is_told_so():
    model = nn.Conv1d(4, 8, 3)
    source = source_of(model, normal(2, 4, 20))
    reference = reference_for(model, [normal(16, 4, 20), normal(16, 4, 30)])
    with pytest.raises(QuantizationError, match=r"All but the batch are fixed: pass data of one"):
        quantization.quantized_within(source, [DynamicInt8()], reference, max_error=0.1)
    static = StaticInt8(Calibration([normal(16, 4, 30)]))
    with pytest.raises(QuantizationError, match=r"All but the batch are fixed: pass data of one"):
        quantization.quantized_within(source, [static], reference.first(1), max_error=0.1)


def test_ranges_are_taken_once_a_graph(monkeypatch):
    model = nn.Sequential(nn.Linear(8, 32))
    source = source_of(model, normal(2, 8))
    calibration = Calibration([normal(32, 8)])
    first = calibration.ranges(source.prepared, ("Gemm",))
    assert calibration.ranges(source.prepared, ("Gemm",)) is first


def test_unknown_method_is_named():
    with pytest.raises(ConfigError, match="'magic' is not one of minmax, percentile, entropy"):
        Calibration([], "magic")


@pytest.mark.parametrize("name", ["dynamic", "static"])
def test_an_odd_row_of_an_embedding_takes_no_precision_from_the_others(name):
    torch.manual_seed(0)
    table = nn.Embedding(200, 32)
    with torch.no_grad():
        table.weight[7] *= 1500
    model, ids = nn.Sequential(table, nn.Linear(32, 4)).eval(), torch.arange(200).reshape(40, 5)
    source = source_of(model, ids[:2])
    static = StaticInt8(Calibration([ids], "minmax"))
    recipe = {"dynamic": DynamicInt8(), "static": static}[name]
    graph = recipe(source, source.named(["1"]))
    assert len(graph) < 200 * 32 * 2  # the table is stored in 8 bits
    usual = [ids[2:]]
    reference = reference_for(model, usual)
    assert quantization.error_of(graph, reference) < 0.02


# ── layers left in float ────────────────────────────────────────────────────────────────────


def with_outliers(*layers):
    """Six layers; what goes into those named has one value far larger than the rest."""
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(6)))
    with torch.no_grad():
        for i in layers:
            model[i - 1].weight[0] *= 300.0
            model[i].weight[:, 0] /= 300.0
    return model


def test_only_the_layers_that_break_the_limit_stay_in_float():
    model, data = with_outliers(2, 4), normal(256, 32)
    source = source_of(model, data[:2])
    reference = reference_of(model, data)
    free = quantization.error_of(DynamicInt8()(source, frozenset()), reference)
    limit = 0.7 * free
    result = quantization.quantized_within(source, [DynamicInt8()], reference, max_error=limit)
    assert result.error <= limit
    assert 1 <= len(result.layers_kept_float) <= 3
    kept = {d.layer for d in result.decisions if d.reason == "breaks the limit"}
    worst = sorted(result.decisions, key=lambda d: d.error_alone, reverse=True)
    assert kept == {decision.layer for decision in worst[: len(kept)]}
    # One layer fewer would not have done.
    fewer = source.named(sorted(kept - {worst[len(kept) - 1].layer}))
    assert quantization.error_of(DynamicInt8()(source, fewer), reference) > limit
    # What is kept was measured, not promised.
    assert quantization.error_of(result.data, reference) == pytest.approx(result.error)


def test_a_single_layer_over_the_limit_is_refused_not_returned_in_float():
    model, data = nn.Sequential(nn.Linear(32, 8)), normal(64, 32)
    with pytest.raises(quantization.OverLimitError, match=r"at the least.*limit is 0\.001 %"):
        quantization.quantized_within(
            source_of(model, data[:2]), [DynamicInt8()], reference_of(model, data), max_error=1e-5
        )


def test_when_all_recipes_fail_the_closest_is_named():
    model, data = nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 8)), normal(64, 32)
    source, reference = source_of(model, data[:2]), reference_of(model, data)
    choices = [[DynamicInt8()], [quantization.WEIGHT_ONLY_INT8], [quantization.BLOCK_INT4]]
    with pytest.raises(QuantizationError) as caught:
        quantization.first_within(source, choices, reference, max_error=1e-5)
    said = str(caught.value)
    assert "weight_only_int8 came closest" in said
    assert all(name in said for name in ("dynamic_int8: ", "block_int4: ", "Nothing was changed"))
    assert caught.value.closest < 0.01


def test_layers_may_be_named_by_their_beginning():
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), nn.Linear(8, 8))
    source = source_of(model, normal(2, 8))
    assert len(source.named(["0"])) == 2
    assert len(source.named(["0.1", "1"])) == 2
    with pytest.raises(ConfigError, match=r"No layer 'head'.*Layers there are: 0\.0, 0\.1, 1"):
        source.named(["head"])


def test_a_quantizer_that_fails_is_told_with_the_recipe(monkeypatch):
    def failing(*_args, **_options):
        raise ValueError("no such luck\n" + "x" * 10_000)

    monkeypatch.setattr(quantization.recipes.ort_quantization, "quantize_dynamic", failing)
    model, data = nn.Sequential(nn.Linear(8, 8)), normal(32, 8)
    with pytest.raises(QuantizationError, match=r"by dynamic_int8: no such luck\. Try") as caught:
        quantization.quantized_within(
            source_of(model, data[:2]), [DynamicInt8()], reference_of(model, data), max_error=0.1
        )
    assert len(str(caught.value)) < 500


def test_nothing_is_printed(capfd):
    model, data = nn.Sequential(nn.Linear(8, 8)), normal(64, 8)
    source = source_of(model, data[:2])
    for method in quantization.METHODS:
        StaticInt8(Calibration([data], method))(source, frozenset())
    quantization.BLOCK_INT8(source, frozenset())
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""
    assert not list(Path.cwd().glob("augmented*"))


@pytest.mark.slow
def test_the_root_logger_stays_as_it_was():
    """A module of ONNX Runtime's sets it up on import."""
    code = """
import logging, torch
from torch import nn
from modelyard import ModelCompressor
ModelCompressor(nn.Linear(256, 64)).weight_only_quantization("int8_blocks")
assert logging.getLogger().handlers == [] and logging.getLogger().level == logging.WARNING
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
