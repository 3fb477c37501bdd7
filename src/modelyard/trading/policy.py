"""The policy in deployment: a plain network from state to logits, without sampling."""

from collections.abc import Sequence

from torch import Tensor, nn

STATE_SIZE = 263
"""256 numbers of market state and 7 account features."""


class PolicyNetwork(nn.Module):
    """PPO's actor as an ordinary module: linear layers with ReLU between; logits out.

    stable-baselines3's own policy draws an action at each call; this one gives the same answer
    to the same state, so it can be exported, compared and compressed. The action is the largest
    logit.

    Args:
        n_inputs: Length of a state.
        hidden_sizes: Width of each hidden layer.
        n_actions: Actions to choose from, `modelyard.trading.TARGET_EXPOSURES`.
    """

    def __init__(
        self,
        *,
        n_inputs: int = STATE_SIZE,
        hidden_sizes: Sequence[int] = (128, 128),
        n_actions: int = 4,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = n_inputs
        for hidden_size in hidden_sizes:
            layers += [nn.Linear(width, hidden_size), nn.ReLU()]
            width = hidden_size
        self.layers = nn.Sequential(*layers, nn.Linear(width, n_actions))

    def forward(self, states: Tensor) -> Tensor:
        """Logits of the actions.

        Args:
            states: Shape (batch, n_inputs), float32.

        Returns:
            Shape (batch, n_actions).
        """
        logits: Tensor = self.layers(states)
        return logits
