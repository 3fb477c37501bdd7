"""Kinds of models for the export matrix: what people have, and what exporters miss."""

# Small modules whose names say what they do need no more words.
# ruff: noqa: ANN001, ANN202, ANN204

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
import torch.nn.functional as f
from stable_baselines3 import DQN, PPO, SAC
from torch import nn
from torch.nn.utils import parametrizations, prune

from modelyard.compression import ModelCompressor
from modelyard.trading import build_models, presets


@dataclass(frozen=True)
class Kind:
    """A model and an input of two samples.

    Attributes:
        name: What it is.
        make: Makes it, the same each time after the same seed.
        args: Gives what `forward` takes; None for an algorithm, whose spaces tell.
        has_graph: Whether a graph can equal it at all.
    """

    name: str
    make: Callable[[], Any]
    args: Callable[[], Any]
    has_graph: bool = True


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def whole(high: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(0))


def document(name: str) -> Callable[[], nn.Module]:
    return lambda: getattr(build_models(presets.quick().architecture, seed=0), name)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.first(x)
        return self.head(f.relu(x + self.second(x)).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x, is_padding):
        return self.attention(x, x, x, key_padding_mask=is_padding, need_weights=False)[0]


class Seq2Seq(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)

    def forward(self, source, target):
        return self.net(source, target, tgt_is_causal=False)


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)

    def forward(self, source, target):
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.net(source, target, tgt_mask=mask)


class Causal(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(50, 8)
        self.project = nn.Linear(8, 24)

    def forward(self, ids):
        q, k, v = self.project(self.tokens(ids)).unflatten(-1, (3, 2, 4)).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        return f.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.bag = nn.EmbeddingBag(20, 6, mode="mean")

    def forward(self, ids):
        return self.bag(ids)


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.policy, self.value = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 1)

    def forward(self, x):
        h = torch.tanh(self.body(x))
        return {"softmax": torch.softmax(self.policy(h), -1), "value": self.value(h)}


class Nested(nn.Module):
    def forward(self, batch, weights, bias=None):
        x = batch["prices"] * weights[0] + batch["volumes"] * weights[1]
        return x if bias is None else x + bias


class Optional(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x, mask=None, temperature=2.0, *, is_scaled=True):
        y = self.layer(x if mask is None else x * mask)
        return y / temperature if is_scaled else y


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = nn.Sequential(
            nn.Conv1d(4, 8, 3), nn.GroupNorm(2, 8), nn.GELU(), nn.InstanceNorm1d(8), nn.SiLU()
        )
        self.last = nn.LayerNorm(8)

    def forward(self, x):
        return self.last(f.hardswish(self.parts(x)).transpose(1, 2))


class Einsum(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(normal(4, 5, 3))

    def forward(self, x):
        return torch.einsum("bti,ijk->btjk", x, self.weight)


@torch.jit.script_if_tracing
def _by_sign(x):
    return x * 2.0 if bool(x.sum() > 0) else -x


class PartlyScripted(nn.Module):
    def forward(self, x):
        return _by_sign(x) + 1.0


class Branching(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x * 2.0
        return -x


class RareBranch(nn.Module):
    """The branch that no ordinary input takes: only the source shows it."""

    def forward(self, x):
        return x * 0.0 if bool((x > 1e6).any()) else x * 2.0


class Select(nn.Module):
    def forward(self, x):
        return torch.where(x.sum(1, keepdim=True) > 0, 2.0 * x, -x)


class Ranks(nn.Module):
    def forward(self, x):
        values, indices = torch.topk(x, 3, dim=1)
        return values, indices, torch.cumsum(x, 1), torch.sort(x, 1).values


class Gather(nn.Module):
    def forward(self, x, index):
        return x.gather(1, index), torch.zeros_like(x).scatter_add(1, index, x[:, :2])


class Upsample(nn.Module):
    def forward(self, x):
        return f.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.ConvTranspose1d(4, 2, 4, stride=2, padding=1)

    def forward(self, x):
        return self.layer(x)


class Spectrum(nn.Module):
    def forward(self, x):
        return torch.fft.rfft(x).abs()


class MatrixTranspose(nn.Module):
    def forward(self, x):
        return x.mT @ x


class InPlace(nn.Module):
    def forward(self, x):
        y = x.clone()
        y[:, 0] = 0.0
        y[:, 1:3] += 1.0
        return y


class StepByStep(nn.Module):
    """A loop over a fixed number of steps, which a trace unrolls."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(4, 6)

    def forward(self, x):
        h = x.new_zeros(x.shape[0], 6)
        for step in range(5):
            h = self.cell(x[:, step], h)
        return h


class FixesBatch(nn.Module):
    def forward(self, x):
        n = int(x.shape[0])
        return x.reshape(n, -1) + torch.arange(n).reshape(-1, 1)


class Sampling(nn.Module):
    def forward(self, x):
        return torch.distributions.Normal(x, 1.0).sample()


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.n_calls = 0

    def forward(self, x):
        self.n_calls += 1
        return x + self.n_calls


class Aliases(nn.Module):
    """Gives its input back, and one tensor twice."""

    def forward(self, x):
        y = x + 1
        return x, y, y


class Both(nn.Module):
    def forward(self, x):
        return x.double().mean(1), x.half(), (x > 0), x.long()


def pruned() -> nn.Module:
    net = mlp()
    prune.l1_unstructured(net[0], "weight", 0.5)
    return net


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 3))


def quantized() -> nn.Module:
    compressor = ModelCompressor(nn.Sequential(nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 3)))
    compressor.dynamic_quantization()
    return compressor.model


class _World(gymnasium.Env):
    def __init__(self, action_space):
        self.observation_space = gymnasium.spaces.Box(-3, 3, (5,), np.float32)
        self.action_space = action_space

    def reset(self, *, seed=None, options=None):
        del seed, options
        return np.zeros(5, np.float32), {}

    def step(self, action):
        del action
        return np.zeros(5, np.float32), 0.0, True, False, {}


def agent(algorithm: Any, space: Any) -> Callable[[], Any]:
    return lambda: algorithm("MlpPolicy", _World(space), device="cpu", seed=0)


_box = gymnasium.spaces.Box(-2, 2, (2,), np.float32)
_discrete = gymnasium.spaces.Discrete(4)

KINDS = [
    Kind("MLP with batch norm", mlp, lambda: normal(2, 6)),
    Kind("TS2Vec (document)", document("ts2vec"), lambda: normal(2, 256, 4)),
    Kind("Transformer (document)", document("transformer"), lambda: normal(2, 64, 155)),
    Kind("PPO network (document)", document("policy"), lambda: normal(2, 263)),
    Kind("PPO (stable-baselines3), discrete", agent(PPO, _discrete), lambda: None),
    Kind("PPO, continuous", agent(PPO, _box), lambda: None),
    Kind("SAC, squashed", agent(SAC, _box), lambda: None),
    Kind("DQN", agent(DQN, _discrete), lambda: None),
    Kind(
        "PPO's raw policy (samples)",
        lambda: agent(PPO, _discrete)().policy,
        lambda: normal(2, 5),
        has_graph=False,
    ),
    Kind("residual CNN, grouped", Residual, lambda: normal(2, 3, 8, 8)),
    Kind("transposed convolution", Transposed, lambda: normal(2, 4, 9)),
    Kind("upsampling", Upsample, lambda: normal(2, 3, 4, 5)),
    Kind("group, instance, layer norm", Norms, lambda: normal(2, 4, 9)),
    Kind("LSTM", lambda: nn.LSTM(4, 3, batch_first=True), lambda: normal(2, 5, 4)),
    Kind(
        "GRU, two layers, both ways",
        lambda: nn.GRU(4, 3, 2, batch_first=True, bidirectional=True),
        lambda: normal(2, 5, 4),
    ),
    Kind("GRU cell in a loop", StepByStep, lambda: normal(2, 5, 4)),
    Kind(
        "nn.TransformerEncoder",
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2),
        lambda: normal(2, 5, 8),
    ),
    Kind(
        "attention with a padding mask",
        Attention,
        lambda: (normal(2, 5, 8), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])),
    ),
    Kind("encoder-decoder", Seq2Seq, lambda: (normal(2, 5, 8), normal(2, 4, 8))),
    Kind("decoder, mask made in forward", Decoder, lambda: (normal(2, 5, 8), normal(2, 4, 8))),
    Kind("causal attention over tokens", Causal, lambda: whole(50, 2, 7)),
    Kind("embedding bag", Bag, lambda: whole(20, 2, 4)),
    Kind("dict of outputs, one named softmax", TwoHeads, lambda: normal(2, 6)),
    Kind(
        "nested inputs, one None",
        Nested,
        lambda: (
            {"prices": normal(2, 4), "volumes": normal(2, 4)},
            [normal(2, 4), normal(2, 1)],
            None,
        ),
    ),
    Kind("optional arguments, by keyword", Optional, lambda: {"x": normal(2, 6), "mask": None}),
    Kind("einsum", Einsum, lambda: normal(2, 3, 4)),
    Kind("scripted branch", PartlyScripted, lambda: normal(2, 4)),
    Kind(
        "scripted module",
        lambda: torch.jit.script(nn.Sequential(nn.Linear(6, 3), nn.ReLU())),
        lambda: normal(2, 6),
    ),
    Kind("pruned, masks in place", pruned, lambda: normal(2, 6)),
    Kind(
        "weight and spectral norm",
        lambda: nn.Sequential(
            parametrizations.weight_norm(nn.Linear(6, 8)),
            parametrizations.spectral_norm(nn.Linear(8, 3)),
        ),
        lambda: normal(2, 6),
    ),
    Kind("compiled", lambda: torch.compile(mlp()), lambda: normal(2, 6)),
    Kind("int8 (ModelCompressor)", quantized, lambda: normal(2, 6)),
    Kind("float64", lambda: mlp().double(), lambda: normal(2, 6).double()),
    Kind(
        "float16",
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).half(),
        lambda: normal(2, 6).half(),
    ),
    Kind("outputs of four dtypes", Both, lambda: normal(2, 6)),
    Kind("input given back, output twice", Aliases, lambda: normal(2, 6)),
    Kind("top-k, sort, cumulative sum", Ranks, lambda: normal(2, 6)),
    Kind("gather and scatter", Gather, lambda: (normal(2, 6), whole(6, 2, 2))),
    Kind("torch.where", Select, lambda: normal(2, 4)),
    Kind("writes in place", InPlace, lambda: normal(2, 6)),
    Kind("matrix transpose", MatrixTranspose, lambda: normal(2, 3, 3)),
    Kind("Fourier transform", Spectrum, lambda: normal(2, 16)),
    Kind("batch as a Python number", FixesBatch, lambda: normal(2, 3)),
    Kind("branch on the data", Branching, lambda: normal(2, 4), has_graph=False),
    Kind("branch no ordinary input takes", RareBranch, lambda: normal(2, 4), has_graph=False),
    Kind("samples", Sampling, lambda: normal(2, 4), has_graph=False),
    Kind("counts its calls", Counting, lambda: normal(2, 4), has_graph=False),
]
