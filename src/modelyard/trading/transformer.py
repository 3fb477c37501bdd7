"""The market Transformer: 64 days of 155 inputs in, one market state of 256 numbers out."""

import torch
from torch import Tensor, nn

SEQUENCE_DAYS = 64

FORECAST_TARGETS = ("return_1d", "return_5d", "volatility_5d")
"""What the training head forecasts: `modelyard.trading.rows.forecast_targets`."""


class MarketTransformer(nn.Module):
    """Encoder over days; the state is read from the last day and lies in (-1, 1).

    Vaswani et al. (2017), "Attention Is All You Need", with layer norm before each sub-layer
    (Xiong et al., 2020) and learnt positions. Training is in `transformer_training`.

    Args:
        n_inputs: Values per day: 128 of TS2Vec and 27 technical features.
        sequence_days: Days per sequence.
        model_size: Width of the encoder.
        n_layers: Encoder layers.
        n_heads: Attention heads; divides `model_size`.
        feedforward_size: Width of the feed-forward part.
        output_size: Length of a market state.
        dropout: Share of values zeroed in training; high, because daily returns are mostly noise.
    """

    def __init__(
        self,
        *,
        n_inputs: int = 155,
        sequence_days: int = SEQUENCE_DAYS,
        model_size: int = 32,
        n_layers: int = 2,
        n_heads: int = 4,
        feedforward_size: int = 64,
        output_size: int = 256,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.projection = nn.Linear(n_inputs, model_size)
        self.positions = nn.Parameter(torch.empty(1, sequence_days, model_size))
        layer = nn.TransformerEncoderLayer(
            model_size,
            n_heads,
            feedforward_size,
            dropout=dropout,
            activation=nn.GELU(),
            batch_first=True,
            norm_first=True,
        )
        self.encoder = nn.TransformerEncoder(
            layer, n_layers, norm=nn.LayerNorm(model_size), enable_nested_tensor=False
        )
        self.output = nn.Linear(model_size, output_size)
        self._initialise()

    def forward(self, sequences: Tensor) -> Tensor:
        """The market state at the end of each sequence.

        Args:
            sequences: Scaled inputs, shape (batch, sequence_days, n_inputs), float32.

        Returns:
            Shape (batch, output_size), between -1 and 1.
        """
        encoded = self.encoder(self.projection(sequences) + self.positions)
        return torch.tanh(self.output(encoded[:, -1]))

    def _initialise(self) -> None:
        nn.init.normal_(self.positions, std=0.02)
        # nn.TransformerEncoder copies one layer: without this all layers start out equal.
        for weights in self.encoder.parameters():
            if weights.dim() > 1:
                nn.init.xavier_uniform_(weights)


class ForecastHead(nn.Module):
    """Reads the forecasts off a market state; used in training and to judge a compressed encoder.

    Args:
        state_size: Length of a market state.
        n_targets: Forecasts, as `FORECAST_TARGETS`.
    """

    def __init__(self, *, state_size: int = 256, n_targets: int = len(FORECAST_TARGETS)) -> None:
        super().__init__()
        self.linear = nn.Linear(state_size, n_targets)

    def forward(self, states: Tensor) -> Tensor:
        """Shape (batch, state_size) to (batch, n_targets)."""
        forecasts: Tensor = self.linear(states)
        return forecasts
