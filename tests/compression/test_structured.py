"""Channels that go: the same in every head, none of an output's; errors name a way out."""

import logging
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everybody does
from torch import nn

from modelyard import ModelCompressor
from modelyard._core.errors import ConfigError, InputError
from modelyard.compression.structured import without_channels
from modelyard.torchtools.layers import n_parameters


class Encoder(nn.Module):
    """Attention without norms, whose answers depend on nothing but live channels."""

    def __init__(self, heads, width=24, **attention):
        super().__init__()
        self.embed = nn.Linear(6, width)
        self.layers = nn.ModuleList(
            nn.MultiheadAttention(width, n, batch_first=True, **attention) for n in heads
        )
        self.memory = nn.ModuleDict(
            {name: nn.Linear(6, attention[name]) for name in ("kdim", "vdim") if name in attention}
        )
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        h = self.embed(x)
        key, value = (self.memory[n](x) if n in self.memory else None for n in ("kdim", "vdim"))
        for layer in self.layers:
            k, v = (h if one is None else one for one in (key, value))
            h = h + layer(h, k, v, need_weights=False)[0]
        return self.head(h)


def encoder_with_dead(dead, heads, width=24):
    """An encoder whose channels in `dead` are zero wherever they occur."""
    torch.manual_seed(0)
    model = Encoder(heads, width).eval()
    three = [i + part * width for i in dead for part in range(3)]
    with torch.no_grad():
        model.embed.weight[dead], model.embed.bias[dead] = 0.0, 0.0
        for layer in model.layers:
            layer.in_proj_weight *= 4  # sharp enough for the temperature to show
            layer.in_proj_weight[three], layer.in_proj_bias[three] = 0.0, 0.0
            layer.in_proj_weight[:, dead] = 0.0
            layer.out_proj.weight[dead], layer.out_proj.bias[dead] = 0.0, 0.0
            layer.out_proj.weight[:, dead] = 0.0
        model.head.weight[:, dead] = 0.0
    return model


@pytest.mark.parametrize(
    ("heads", "dead"),
    [
        ((4,), [5, 11, 17, 23]),  # the last place of each head of 6
        ((4,), [1, 4, 7, 10, 13, 16, 19, 22]),  # two places of each
        ((2, 4), [1, 4, 7, 10, 13, 16, 19, 22]),
        ((3, 4), list(range(0, 24, 2))),  # heads of 8 and of 6 agree on every other channel
    ],
)
def test_dead_channels_of_every_head_go_and_the_answers_stay(heads, dead):
    model = encoder_with_dead(dead, heads)
    x = torch.randn(2, 7, 6)
    expected = n_parameters(Encoder(heads, 24 - len(dead)))
    amount = 1 - expected / n_parameters(model)
    smaller = without_channels(model, x, amount=amount)
    assert n_parameters(smaller) == expected
    torch.testing.assert_close(smaller(x), model(x), atol=1e-5, rtol=1e-5)


def test_each_head_keeps_its_own_rows():
    # All weak channels lie in head 0; the same places have to go in the others.
    model = encoder_with_dead(list(range(6)), (4,))
    x = torch.randn(2, 7, 6)
    smaller = without_channels(model, x, amount=0.4)
    before, after = model.layers[0], smaller.layers[0]
    new_dim = after.embed_dim // 4
    assert 0 < new_dim < 6
    # A bias tells which row it was; head 0 of the dead encoder has none.
    value, kept = before.in_proj_bias[48:].view(4, 6), after.in_proj_bias[-4 * new_dim :]
    for head, biases in enumerate(kept.view(4, new_dim)):
        assert set(biases.tolist()) <= set(value[head].tolist())
    old, new = before.in_proj_weight[:24].norm(dim=1), after.in_proj_weight[: 4 * new_dim]
    assert new.norm(dim=1).max() <= old.max() * math.sqrt(new_dim / 6) + 1e-6


@pytest.mark.parametrize("widths", [{"kdim": 8}, {"vdim": 10}, {"kdim": 8, "vdim": 10}])
def test_attention_of_other_widths_keeps_them(widths):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 6), Encoder((4,), **widths))
    compressor = ModelCompressor(model, example_input=torch.randn(2, 7, 6))
    assert compressor.prune_model(0.05, "structured")["actual_sparsity"] > 0
    assert compressor.model[3].layers[0].embed_dim == 24
    assert compressor.model(torch.randn(3, 5, 6)).shape == (3, 5, 3)


def test_attention_named_in_layers_to_keep_keeps_its_width():
    model = nn.Sequential(Encoder((4,)), nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 3))
    smaller = without_channels(
        model, torch.randn(2, 7, 6), amount=0.05, keep=["0.layers.0.in_proj"]
    )
    assert smaller[0].layers[0].embed_dim == 24


class OwnAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.num_heads = 4
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 4)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k, v = (t.view(*x.shape[:2], 4, -1).transpose(1, 2) for t in (q, k, v))
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_attention_of_ones_own_is_named_where_it_loses_channels(caplog):
    model = nn.Sequential(nn.Linear(8, 16), OwnAttention())
    compressor = ModelCompressor(model, example_input=torch.randn(2, 5, 8))
    with caplog.at_level(logging.WARNING, "modelyard"):
        compressor.prune_model(0.2, "structured")
    assert "Channels went from 1, which cuts them into heads by itself" in caplog.text


class Actor(nn.Module):
    """A mean and a log-std that is a parameter."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.mean = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 2)
        self.log_std = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        mean = self.mean(self.b(self.a(x).relu()).relu())
        return mean, self.log_std.expand_as(mean)


class ActorCritic(nn.Module):
    """The tower of the value runs after the action's last layer."""

    def __init__(self):
        super().__init__()
        self.pi, self.action = nn.Linear(8, 32), nn.Linear(32, 2)
        self.v, self.value = nn.Linear(8, 32), nn.Linear(32, 1)

    def forward(self, x):
        return self.action(self.pi(x).relu()).tanh(), self.value(self.v(x).relu())


@pytest.mark.parametrize(
    ("model", "narrowed"), [(Actor(), {"a", "b"}), (ActorCritic(), {"pi", "v"})]
)
def test_every_layer_but_those_that_make_an_output_is_narrowed(model, narrowed):
    compressor = ModelCompressor(model.requires_grad_(False), example_input=torch.randn(2, 8))
    compressor.prune_model(0.5, "structured")
    for name in narrowed:
        layer = compressor.model.get_submodule(name)
        assert layer.out_features < 32
        assert not layer.weight.requires_grad


class Argmax(nn.Sequential):
    def forward(self, x):
        return super().forward(x).argmax(-1)


def test_a_model_whose_every_answer_is_without_a_gradient_is_refused():
    model = Argmax(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 5))
    with pytest.raises(InputError):  # what depends on what cannot be followed
        ModelCompressor(model, example_input=torch.randn(2, 8)).prune_model(0.3, "structured")


def test_the_nearest_share_is_taken_and_told():
    model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 4), nn.Linear(4, 200))
    stats = ModelCompressor(model).prune_model(0.9, "structured")
    assert 0.4 < stats["actual_sparsity"] < 0.9


def test_a_model_without_a_channel_to_spare_is_refused():
    with pytest.raises(InputError, match=r"No channel can be removed.*l1_unstructured"):
        ModelCompressor(nn.Linear(8, 4)).prune_model(0.3, "structured")


class Glu(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 32), nn.Linear(16, 4)

    def forward(self, x):
        return self.b(F.glu(self.a(x)))


def test_what_the_pruner_stumbles_over_names_the_way_out():
    with pytest.raises(InputError, match=r"layers_to_keep.*l1_unstructured|l1_unstructured"):
        ModelCompressor(Glu(), example_input=torch.randn(2, 8)).prune_model(0.3, "structured")


class Scaled(nn.Sequential):
    def __init__(self, shape):
        super().__init__(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
        self.scale = nn.Parameter(torch.full(shape, 2.0))

    def forward(self, x):
        for layer in (self[0], self[1]):
            x = layer(x)
        return self[2](x * self.scale)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_parameter_of_one_number_has_no_channels(shape):
    compressor = ModelCompressor(Scaled(shape), example_input=torch.randn(2, 8))
    assert compressor.prune_model(0.3, "structured")["actual_sparsity"] == pytest.approx(
        0.3, abs=0.05
    )


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.e, self.f = nn.Embedding(10, 16), nn.Linear(16, 16)
        self.h = nn.Linear(16, 10, bias=False)
        self.h.weight = self.e.weight

    def forward(self, x):
        h = self.e(x)
        return self.h(h + self.f(h).relu())


def test_a_shared_weight_stays_shared():
    compressor = ModelCompressor(Tied(), example_input=torch.randint(0, 10, (2, 5)))
    stats = compressor.prune_model(0.3, "structured")
    assert compressor.model.h.weight is compressor.model.e.weight
    assert compressor.model.h.weight.shape[1] < 16
    assert stats["actual_sparsity"] == pytest.approx(0.3, abs=0.1)


def test_layers_that_would_part_are_both_named():
    first, second = nn.Linear(16, 16), nn.Linear(16, 16)
    second.weight = first.weight
    model = nn.Sequential(
        nn.Linear(8, 16), first, nn.ReLU(), nn.Linear(16, 16), second, nn.Linear(16, 4)
    )
    with pytest.raises(ConfigError, match=r"1\.weight and 4\.weight are one weight"):
        ModelCompressor(model).prune_model(0.3, "structured")
