"""Structured pruning takes the same positions from every head, and outputs keep their width."""

import logging

import pytest
import torch
from torch import nn

from modelyard import ModelCompressor
from modelyard._core.errors import ConfigError

WIDTH, HEADS = 32, 4


class Attending(nn.Module):
    """Attention with a residual and no norm: what is zero everywhere can go without a trace."""

    def __init__(self):
        super().__init__()
        self.into = nn.Linear(8, WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.out = nn.Linear(WIDTH, 4)

    def forward(self, x):
        x = self.into(x)
        return self.out(x + self.attention(x, x, x, need_weights=False)[0])


def kill_(model, channels):
    """Make channels of the residual stream, and the same rows of q, k and v, zero everywhere."""
    with torch.no_grad():
        model.into.weight[channels] = 0
        model.into.bias[channels] = 0
        model.out.weight[:, channels] = 0
        attention = model.attention
        for part in range(3):
            rows = [part * WIDTH + channel for channel in channels]
            attention.in_proj_weight[rows] = 0
            attention.in_proj_bias[rows] = 0
        attention.in_proj_weight[:, channels] = 0
        attention.out_proj.weight[channels] = 0
        attention.out_proj.bias[channels] = 0
        attention.out_proj.weight[:, channels] = 0
    return model


@pytest.fixture
def x():
    return torch.randn(16, 5, 8, generator=torch.Generator().manual_seed(0))


def test_dead_positions_of_every_head_go_without_a_trace(x):
    torch.manual_seed(0)
    head_dim = WIDTH // HEADS
    dead = [head * head_dim + position for head in range(HEADS) for position in (1, 6)]
    model = kill_(Attending(), dead).eval()
    compressor = ModelCompressor(model, example_input=x[:2])
    share = 1 - n_parameters(Attending(), WIDTH - len(dead)) / n_parameters(model)
    compressor.prune_model(share, "structured")
    assert compressor.model.attention.embed_dim == WIDTH - len(dead)
    torch.testing.assert_close(compressor.model(x), model(x), rtol=1e-4, atol=1e-5)


def n_parameters(model, width=WIDTH):
    if width == WIDTH:
        return sum(p.numel() for p in model.parameters())
    return 9 * width + 4 * width * (width + 1) + 4 * (width + 1)


def test_heads_stay_divisible_in_an_encoder_of_layers_with_other_heads(x):
    torch.manual_seed(0)
    layers = [nn.TransformerEncoderLayer(24, n, 48, batch_first=True) for n in (2, 3)]
    model = nn.Sequential(nn.Linear(8, 24), *layers, nn.Linear(24, 4)).eval()
    compressor = ModelCompressor(model, example_input=x[:2])
    stats = compressor.prune_model(0.4, "structured")
    assert stats["actual_sparsity"] == pytest.approx(0.4, abs=0.1)
    assert compressor.model(x).shape == (16, 5, 4)
    for layer in (compressor.model[1], compressor.model[2]):
        assert layer.self_attn.embed_dim % layer.self_attn.num_heads == 0


def test_attention_of_ones_own_is_warned_of(x, caplog):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_heads = 4
            self.q, self.out = nn.Linear(8, 32), nn.Linear(32, 4)

        def forward(self, x):
            return self.out(torch.relu(self.q(x)))

    with caplog.at_level(logging.WARNING, logger="modelyard"):
        ModelCompressor(Own(), example_input=x[:2]).prune_model(0.3, "structured")
    assert "heads" in caplog.text


class ActorCritic(nn.Module):
    """The tower of the values runs after the policy's last layer."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(8, 64)
        self.policy = nn.Linear(64, 3)
        self.tower, self.value = nn.Linear(64, 64), nn.Linear(64, 1)

    def forward(self, x):
        hidden = torch.relu(self.body(x))
        logits = self.policy(hidden)
        return logits, self.value(torch.relu(self.tower(hidden)))


def test_the_layers_that_make_the_outputs_are_found(x):
    compressor = ModelCompressor(ActorCritic(), example_input=x[:2, 0])
    stats = compressor.prune_model(0.5, "structured")
    assert stats["actual_sparsity"] == pytest.approx(0.5, abs=0.05)
    logits, value = compressor.model(x[:, 0])
    assert (logits.shape, value.shape) == ((16, 3), (16, 1))
    assert compressor.model.tower.out_features < 64


def test_options_that_cannot_take_effect_are_refused(x):
    compressor = ModelCompressor(ActorCritic(), example_input=x[:2, 0])
    with pytest.raises(ConfigError, match="scope"):
        compressor.prune_model(0.3, "structured", scope="global")
    with pytest.raises(ConfigError, match="No layer 'nonsense'"):
        compressor.prune_model(0.3, layers_to_keep=["nonsense"])
    kept = compressor.prune_model(0.3, layers_to_keep=["policy"])
    assert "policy" not in kept["per_layer"]
