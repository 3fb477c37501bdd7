"""TS2Vec: a representation of each bar, and of a window of bars, learnt without labels.

Yue, Wang, Duan, Yang, Huang, Tong and Xu (2022), "TS2Vec: Towards Universal Representation of
Time Series", AAAI 36(8), 8980-8987. Training is in `ts2vec_training`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class TS2Vec(nn.Module):
    """Input projection, timestamp masking, dilated convolutions with residual blocks.

    `forward` is for deployment: one vector per window, the maximum of the representations over
    time. It neither masks nor branches on data, so it can be traced and exported.

    Args:
        n_inputs: Values per bar.
        hidden_size: Channels of the inner blocks.
        output_size: Length of a representation.
        depth: Inner blocks; block i has dilation 2**i, the last one (to `output_size`) 2**depth.
        kernel_size: Taps of each convolution, odd.
        dropout: Share of representation values zeroed in training.
    """

    def __init__(
        self,
        *,
        n_inputs: int = 4,
        hidden_size: int = 32,
        output_size: int = 128,
        depth: int = 5,
        kernel_size: int = 3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.projection = nn.Linear(n_inputs, hidden_size)
        sizes = [hidden_size] * (depth + 1) + [output_size]
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(
                    sizes[i],
                    sizes[i + 1],
                    kernel_size=kernel_size,
                    dilation=2**i,
                    projects=i == depth,
                )
                for i in range(depth + 1)
            )
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, bars: Tensor) -> Tensor:
        """One vector per window.

        Args:
            bars: Scaled bars, shape (batch, time, n_inputs), float32, no NaN.

        Returns:
            Shape (batch, output_size).
        """
        return self.representations(bars).amax(dim=1)

    def representations(self, bars: Tensor, *, keep: Tensor | None = None) -> Tensor:
        """One vector per bar.

        Args:
            bars: Scaled bars, shape (batch, time, n_inputs), float32, no NaN.
            keep: False where a timestamp's projected input is masked, shape (batch, time).

        Returns:
            Shape (batch, time, output_size).
        """
        hidden = self.projection(bars)
        if keep is not None:
            hidden = torch.where(keep.unsqueeze(-1), hidden, torch.zeros_like(hidden))
        encoded: Tensor = self.blocks(hidden.transpose(1, 2)).transpose(1, 2)
        dropped: Tensor = self.dropout(encoded)
        return dropped


class ResidualBlock(nn.Module):
    """Two dilated convolutions of unchanged length, each after a GELU, and a shortcut.

    Args:
        n_in: Channels in.
        n_out: Channels out.
        kernel_size: Taps, odd.
        dilation: Distance between taps.
        projects: The shortcut is a 1x1 convolution; always so where the channels differ.
    """

    def __init__(
        self, n_in: int, n_out: int, *, kernel_size: int, dilation: int, projects: bool
    ) -> None:
        super().__init__()
        padding = dilation * (kernel_size - 1) // 2
        self.first = nn.Conv1d(n_in, n_out, kernel_size, padding=padding, dilation=dilation)
        self.second = nn.Conv1d(n_out, n_out, kernel_size, padding=padding, dilation=dilation)
        needs_projection = projects or n_in != n_out
        self.shortcut = nn.Conv1d(n_in, n_out, 1) if needs_projection else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Shape (batch, n_in, time) to (batch, n_out, time)."""
        hidden = self.first(functional.gelu(x))
        result: Tensor = self.second(functional.gelu(hidden)) + self.shortcut(x)
        return result
