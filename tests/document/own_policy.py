"""A policy of one's own, in a module of its own so that pickle finds it by name."""

from torch import nn


class Policy(nn.Module):
    """From 263 numbers of state to 4 of action."""

    def __init__(self, hidden_dim=32, learning_rate=1e-4):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(263, hidden_dim), nn.Tanh(), nn.Linear(hidden_dim, 4))

    def forward(self, x):
        return self.body(x)
