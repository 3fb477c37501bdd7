"""The Transformer's training: forecast returns and volatility from the market state.

Objective: mean squared error of three scaled forecasts (next day's return, next five days'
return, next five days' realised volatility) read off the state by a linear head. Returns are
close to unforecastable, volatility is not: the state mostly learns how calm the market is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from modelyard._core.errors import InputError
from modelyard.trading.rows import MarketRows, in_batches, stack_sequences

_JUDGED_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class TransformerTraining:
    """How long and how the Transformer is trained.

    Attributes:
        n_iterations: Optimiser steps. Chosen on 2005 and 2006 after training until 2004: with
            more, the forecasts of those two years became worse.
        batch_size: Sequences per step.
        learning_rate: Highest rate of AdamW's one-cycle schedule.
        weight_decay: Of AdamW.
    """

    n_iterations: int = 150
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 0.01


def train_transformer(
    model: nn.Module,
    head: nn.Module,
    rows: Sequence[MarketRows],
    ends: Sequence[NDArray[np.intp]],
    *,
    training: TransformerTraining,
    rng: np.random.Generator,
    progress: Callable[[float], None] | None = None,
) -> NDArray[np.float64]:
    """Train `model` and `head` in place; both are left in eval mode.

    Dropout draws from torch's global generator: seed it for a repeatable result.

    Args:
        model: (batch, 64, 155) to (batch, 256).
        head: (batch, 256) to (batch, 3).
        rows: Scaled rows of each stock.
        ends: Days of each stock to train on (`rows.training_rows`).
        training: How long and how.
        rng: Draws the days of each step.
        progress: Told the share done, 0 to 1, after each step.

    Returns:
        Loss of each step, shape (n_iterations,).

    Raises:
        InputError: There is no day to train on.
    """
    both = nn.ModuleList([model, head]).train()
    optimizer = torch.optim.AdamW(both.parameters(), weight_decay=training.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.learning_rate, total_steps=training.n_iterations + 1
    )
    losses = np.empty(training.n_iterations)
    try:
        for i in range(training.n_iterations):
            sequences, targets = _draw_days(rows, ends, training.batch_size, rng)
            loss = forecast_loss(head(model(sequences)), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses[i] = loss.item()
            if progress is not None:
                progress((i + 1) / training.n_iterations)
    finally:
        both.eval()  # also after a day that cannot be drawn, or Ctrl-C
    return losses


def forecast_loss(forecasts: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error over all forecasts, both of shape (batch, 3); a scalar."""
    return functional.mse_loss(forecasts, targets)


def transformer_task_error(
    model: nn.Module, head: nn.Module, sequences: Tensor, targets: Tensor
) -> float:
    """Mean squared error of the scaled forecasts: the task metric of a (compressed) Transformer.

    About 1 for a forecast that is always the training mean, on days like those of training.

    Args:
        model: Gives (batch, 256) for (batch, 64, 155); a plain, pruned or quantized one.
        head: The head trained with the original.
        sequences: Shape (n, 64, 155).
        targets: Shape (n, 3), scaled, finite.
    """
    n_batches = -(-len(sequences) // _JUDGED_AT_ONCE)
    states = in_batches(model, torch.split(sequences, _JUDGED_AT_ONCE), n_batches=n_batches)
    with torch.inference_mode():
        forecasts = head(torch.from_numpy(states.astype(np.float32)))
        return forecast_loss(forecasts, targets).item()


def _draw_days(
    rows: Sequence[MarketRows],
    ends: Sequence[NDArray[np.intp]],
    n_days: int,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    counts = [len(days) for days in ends]
    if sum(counts) == 0:
        raise InputError("No day to train on: give stocks with at least 325 bars of training.")
    # Every day of every stock is as likely as any other.
    drawn = rng.multinomial(n_days, np.array(counts) / sum(counts))
    chosen = [rng.choice(days, size=n) for days, n in zip(ends, drawn, strict=True) if n]
    tables = [table for table, n in zip(rows, drawn, strict=True) if n]
    return stack_sequences(tables, chosen)
