"""What a graph must keep of its model, and what is refused because no graph could."""

import copy
import itertools

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize, prune

from modelyard._core.errors import ConversionError, InputError
from modelyard.torchtools.conversion import to_onnx
from modelyard.torchtools.conversion.attention import masked_attention, multi_head_attention
from modelyard.torchtools.conversion.failures import Cause, Failure, remedy
from modelyard.torchtools.conversion.verification import bounds_for
from modelyard.torchtools.onnx_module import OnnxModule, make_session, run_session


class Rare(nn.Module):
    """A branch that no ordinary input takes: samples cannot show it."""

    def forward(self, x):
        return x * 0.0 if bool((x > 1e6).any()) else x * 2.0


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.n_calls = 0

    def forward(self, x):
        self.n_calls += 1
        return x + self.n_calls


class CountsInBuffer(nn.Module):
    """A buffer that forward changes, though no answer depends on it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("n_calls", torch.zeros(()))

    def forward(self, x):
        self.n_calls += 1
        return x + 1


class CountsBesideSparse(CountsInBuffer):
    """A graph's neighbours beside the count: sparse tensors cannot be compared."""

    def __init__(self, layout):
        super().__init__()
        eye = torch.eye(3)
        self.register_buffer("neighbours", eye.to_sparse(layout=layout))
        self.register_buffer("n_more", torch.zeros(()))

    def forward(self, x):
        self.n_more += 1
        return super().forward(x)


class WritesIntoInput(nn.Module):
    def forward(self, x):
        x += 1
        return x * 2


class Padded(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x, is_padding):
        return self.attention(x, x, x, key_padding_mask=is_padding, need_weights=False)[0]


class Positive(nn.Module):
    """Refuses inputs that are not positive, as some of those made up are."""

    def forward(self, x):
        if not torch.jit.is_tracing() and not bool((x > 0).all()):
            raise ValueError("prices are positive")
        return x.log()


class Ranks(nn.Module):
    def forward(self, x):
        return torch.topk(x, 2, dim=1).indices


class Normalises(nn.Module):
    """Divides by almost nothing where its input is constant."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv1d(3, 4, 3), nn.InstanceNorm1d(4))

    def forward(self, x):
        return self.net(x)


def mlp():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


@pytest.mark.slow
def test_a_branch_no_sample_takes_is_found_in_the_source():
    with pytest.raises(ConversionError, match=r"faithfulness.py:\d+: return x \* 0.0 if bool"):
        to_onnx(Rare(), torch.randn(2, 3))
    # Without verification nothing is asked of the source either.
    assert to_onnx(Rare(), torch.randn(2, 3), verify=False).verification is None


def test_a_model_with_a_state_is_told_from_one_with_chance():
    with pytest.raises(ConversionError, match=r"without drawing random numbers.*as an input"):
        to_onnx(Counts(), torch.randn(2, 3))


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")  # CSR is said to be in beta
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr], ids=["coo", "csr"])
def test_buffers_are_put_back_beside_sparse_ones(layout):
    model, x = CountsBesideSparse(layout), torch.randn(2, 3)
    to_onnx(model, x)
    assert (float(model.n_calls), float(model.n_more)) == (0.0, 0.0)
    assert torch.equal(model.neighbours.to_dense(), torch.eye(3))


def test_buffers_and_inputs_are_left_as_they_were():
    model, x = CountsInBuffer(), torch.randn(2, 3)
    to_onnx(model, x)
    assert model.n_calls == 0
    before = x.clone()
    assert to_onnx(WritesIntoInput(), x).max_abs_diff == 0
    assert torch.equal(x, before)


@pytest.mark.parametrize("opset", [14, pytest.param(18, marks=pytest.mark.slow)])
def test_a_sequence_that_is_all_padding_gets_torchs_answer(opset):
    torch.manual_seed(0)
    model = Padded().eval()
    x, mask = torch.randn(3, 5, 8), torch.zeros(3, 5, dtype=torch.bool)
    mask[1] = True
    graph = to_onnx(model, (x[:2], mask[:2]), opset=opset)
    want = model(x, mask).detach()  # with gradients: torch's fast path answers NaN here
    (got,) = run_session(make_session(graph.data), [x, mask])
    assert bool(got.isfinite().all())
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    assert functional.scaled_dot_product_attention is not masked_attention


class Decoder(nn.Module):
    """Its mask is made from a length, and looked at by torch to see whether it is causal."""

    def __init__(self):
        super().__init__()
        self.net = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)

    def forward(self, source, target):
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.net(source, target, tgt_mask=mask)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [14, pytest.param(18, marks=pytest.mark.slow)])
def test_lengths_vary_in_encoders_and_causal_decoders(opset):
    torch.manual_seed(0)
    model = Decoder().eval()
    axes = {"source": {0: "n", 1: "past"}, "target": {0: "n", 1: "future"}}
    example = (torch.randn(2, 5, 8), torch.randn(2, 4, 8))
    graph = to_onnx(model, example, opset=opset, dynamic_axes=axes)
    source, target = torch.randn(3, 9, 8), torch.randn(3, 6, 8)
    (got,) = run_session(make_session(graph.data), [source, target])
    torch.testing.assert_close(got, model(source, target).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"need_weights": False},
        {"average_attn_weights": False},
        {"attn_mask": torch.zeros(5, 7).masked_fill(torch.eye(5, 7) > 0, -torch.inf)},
        {"attn_mask": torch.eye(5, 7) > 0, "need_weights": False},
        {"attn_mask": (torch.arange(6 * 35) % 3 == 0).reshape(6, 5, 7), "need_weights": False},
        {"key_padding_mask": torch.eye(3, 7) > 0},
        {"key_padding_mask": torch.eye(3, 7) > 0, "attn_mask": torch.eye(5, 7) > 0},
    ],
)
@pytest.mark.parametrize("widths", [{}, {"kdim": 6, "vdim": 10}])
@pytest.mark.parametrize("extra", [{}, {"add_bias_kv": True}, {"add_zero_attn": True}])
def test_multi_head_attention_spelt_out_is_torchs(options, widths, extra, monkeypatch):
    torch.manual_seed(0)
    model = nn.MultiheadAttention(8, 2, **widths, **extra).eval()
    q = torch.randn(5, 3, 8)
    k, v = torch.randn(7, 3, widths.get("kdim", 8)), torch.randn(7, 3, widths.get("vdim", 8))
    want = model(q, k, v, **options)
    monkeypatch.setattr(functional, "multi_head_attention_forward", multi_head_attention)
    for a, b in zip(want, model(q, k, v, **options), strict=True):
        if a is None:
            assert b is None
        else:
            torch.testing.assert_close(b, a)
    unbatched = model(q[:, 0], k[:, 0], v[:, 0])[0]
    assert unbatched.shape == (5, 8)


@pytest.mark.parametrize("is_bool", [True, False])
def test_attention_spelt_out_is_torchs(is_bool):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 5, 4, generator=generator) for _ in range(3))
    mask = torch.rand(2, 1, 5, 5, generator=generator) > 0.4
    mask[0, 0, 2] = False
    if not is_bool:
        mask = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    want = functional.scaled_dot_product_attention(q, k, v, mask)
    torch.testing.assert_close(masked_attention(q, k, v, mask), want)
    torch.testing.assert_close(
        masked_attention(q, k, v, mask, scale=0.3),
        functional.scaled_dot_product_attention(q, k, v, mask, scale=0.3),
    )
    torch.testing.assert_close(
        masked_attention(q, k, v, is_causal=True),
        functional.scaled_dot_product_attention(q, k, v, is_causal=True),
    )


def test_inputs_the_model_refuses_are_not_held_against_the_graph():
    graph = to_onnx(Positive(), torch.rand(2, 3) + 0.5)
    assert {"example", "negative", "zero"} & {*graph.verification.kinds} == {"example"}
    assert 4 <= graph.verification.n_samples < 22


class FillsIn(nn.Module):
    """Sees to missing values itself."""

    def forward(self, x):
        return torch.nan_to_num(x, nan=0.5) * 2, torch.where(torch.isnan(x), 0.0, 1.0).sum(1)


def test_missing_values_are_tried_where_the_model_sees_to_them():
    assert "missing" in to_onnx(FillsIn(), torch.randn(2, 6)).verification.kinds
    assert "missing" not in to_onnx(mlp(), torch.randn(2, 6)).verification.kinds


def test_what_an_operator_makes_of_missing_values_by_accident_is_no_fault():
    class Sign(nn.Module):
        def forward(self, x):
            return torch.sign(x)

    assert to_onnx(Sign(), torch.randn(2, 6)).max_abs_diff == 0


def test_ranks_among_equals_may_differ():
    assert to_onnx(Ranks(), torch.randn(2, 5)).max_abs_diff == 0


def test_noise_of_the_models_own_is_not_held_against_the_graph():
    torch.manual_seed(1)
    assert to_onnx(Normalises().eval(), torch.randn(2, 3, 9)).verification.n_samples == 22


def test_masks_are_folded_in_a_copy():
    model = mlp()
    prune.l1_unstructured(model[0], "weight", 0.5)
    graph = onnx.load_from_string(to_onnx(model, torch.randn(2, 6)).data)
    assert prune.is_pruned(model)
    assert [node.op_type for node in graph.graph.node] == ["Gemm", "Relu", "Gemm"]
    (weight,) = [v for v in graph.graph.initializer if v.name == "0.weight"]
    assert (onnx.numpy_helper.to_array(weight) == 0).mean() == 0.5


@pytest.mark.parametrize("opset", [14, pytest.param(18, marks=pytest.mark.slow)])
def test_parametrizations_are_folded_in_a_copy_and_the_model_still_trains(opset):
    model = nn.Sequential(
        parametrizations.weight_norm(nn.Linear(6, 8)),
        parametrizations.spectral_norm(nn.Linear(8, 3)),
    )
    twin = copy.deepcopy(model).eval()
    graph = to_onnx(model, torch.randn(2, 6), opset=opset)
    assert parametrize.is_parametrized(model[0], "weight")
    x = torch.randn(5, 6)
    (got,) = run_session(make_session(graph.data), [x])
    torch.testing.assert_close(got, twin(x).detach(), rtol=1e-4, atol=1e-5)
    model(x).sum().backward()
    assert model[0].parametrizations.weight.original1.grad is not None


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_wrapped_parts_and_models_are_converted_as_what_is_in_them():
    inner = mlp()
    host = nn.Sequential(torch.compile(inner), nn.DataParallel(nn.Linear(3, 2))).eval().cpu()
    graph = onnx.load_from_string(to_onnx(host, torch.randn(2, 6)).data)
    assert {v.name for v in graph.graph.initializer} >= {"0.0.weight", "1.weight"}
    assert host[0] is not inner


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_scripted_branch_stays_a_branch():
    @torch.jit.script_if_tracing
    def by_sign(x):
        return x * 2.0 if bool(x.sum() > 0) else -x

    class Partly(nn.Module):
        def forward(self, x):
            return by_sign(x)

    for model in (Partly(), torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))):
        assert to_onnx(model, torch.randn(2, 3)).max_abs_diff < 1e-5


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: torch.ao.quantization.quantize_dynamic(mlp(), {nn.Linear}),
            r"torch's quantized layers.*ModelCompressor",
        ),
        (lambda: nn.Sequential(nn.LazyLinear(3)), "has no shape yet: run the module once"),
        (lambda: nn.Linear(6, 3, device="meta"), "on the meta device"),
        (
            lambda: nn.Sequential(OnnxModule(to_onnx(mlp(), torch.randn(2, 6)).data), nn.ReLU()),
            "runs an ONNX graph.*Compress the whole module",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_no_exporter_takes_is_refused_with_the_way_out(make, message):
    with pytest.raises(ConversionError, match=message):
        to_onnx(make(), torch.randn(2, 6))


def test_a_model_too_large_for_one_file_is_refused_before_anything_is_traced(monkeypatch):
    monkeypatch.setattr("modelyard.torchtools.conversion.converting.LARGEST_FILE_BYTES", 100)
    with pytest.raises(ConversionError, match="one ONNX file holds at most"):
        to_onnx(mlp(), torch.randn(2, 6))


def test_failures_of_the_example_itself_are_told():
    class Fails(nn.Module):
        def forward(self, x):
            if x.shape[0] == 8:
                raise ValueError("eight is too many")
            return x

    with pytest.raises(InputError, match=r"does not run on the example at batch_size 8.*too many"):
        to_onnx(Fails(), torch.randn(2, 3))


@pytest.mark.parametrize(
    ("causes", "opset", "said"),
    [
        ([Cause.NOT_WRITTEN], 14, "Replace the operation"),
        ([Cause.NOT_WRITTEN], 25, "opset_version=23"),
        ([Cause.NOT_WRITTEN, Cause.NOT_WRITTEN], 18, "Replace the operation"),
        ([Cause.NOT_WRITTEN, Cause.BRANCH], 18, "torch.where"),
        ([Cause.SIZE], 14, "without int"),
        ([Cause.NO_KERNEL], 18, "no kernel"),
        ([Cause.NOT_WRITTEN, Cause.DIFFERENT], 18, "translated wrongly"),
        ([Cause.BRANCH, Cause.SIZE], 18, "torch.where"),
    ],
)
def test_there_is_one_remedy_for_what_went_wrong(causes, opset, said):
    failures = [Failure(route="r", cause=cause, message="m") for cause in causes]
    assert said in remedy(failures, opset=opset)


def test_bounds_follow_the_least_precise_type():
    assert bounds_for(torch.int64, torch.float16).atol == 0
    assert bounds_for(torch.float32, torch.float32).rtol == 1e-4
    assert bounds_for(torch.float32, torch.float16) == bounds_for(torch.float16, torch.float32)
    assert bounds_for(torch.float64, torch.float64).rtol < 1e-8


@pytest.mark.slow
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    batch=st.integers(1, 9),
    seed=st.integers(0, 5),
)
def test_any_perceptron_answers_alike_at_any_batch(sizes, batch, seed):
    torch.manual_seed(seed)
    widths = [3, *sizes, 2]
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    model = nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh()))).eval()
    graph = to_onnx(model, torch.randn(1, 3))
    x = torch.randn(batch, 3)
    (got,) = run_session(make_session(graph.data), [x])
    np.testing.assert_allclose(got.numpy(), model(x).detach().numpy(), rtol=1e-4, atol=1e-5)
