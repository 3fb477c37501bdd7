"""TS2Vec's training: overlapping random crops, contrasted along time and across the batch.

Section 3 of Yue et al. (2022). Two crops of each window overlap; with different timestamps masked,
their representations of a shared timestamp should agree and differ from other timestamps of the
same window (temporal contrast) and from other windows at that timestamp (instance-wise contrast),
at every scale of a max-pooling pyramid.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from modelyard._core.errors import InputError
from modelyard.trading.ts2vec import TS2Vec


@dataclass(frozen=True, kw_only=True)
class TS2VecTraining:
    """How long and how TS2Vec is trained.

    Attributes:
        n_iterations: Optimiser steps.
        batch_size: Windows per step.
        learning_rate: Of AdamW, the paper's.
        keep_share: Chance that a timestamp is not masked, the paper's.
        crop_grid: Crop borders are multiples of this many bars. The paper draws any length; a
            grid keeps the number of tensor shapes small, which trains two to three times faster.
    """

    n_iterations: int = 200
    batch_size: int = 16
    learning_rate: float = 1e-3
    keep_share: float = 0.5
    crop_grid: int = 32


@dataclass(frozen=True, kw_only=True)
class Crops:
    """Two overlapping intervals of one window; they share [start, stop).

    Attributes:
        outer_start: Where the first crop begins; it ends at `stop`.
        start: Where the second crop begins.
        stop: Where the first crop ends.
        outer_stop: Where the second crop ends.
    """

    outer_start: int
    start: int
    stop: int
    outer_stop: int


def train_ts2vec(
    model: TS2Vec,
    series: list[NDArray[np.float32]],
    *,
    window: int,
    training: TS2VecTraining,
    rng: np.random.Generator,
    progress: Callable[[float], None] | None = None,
) -> NDArray[np.float64]:
    """Train `model` in place; it is left in eval mode with the average of its weights over steps.

    Dropout draws from torch's global generator: seed it for a repeatable result.

    Args:
        model: Untrained or partly trained.
        series: Scaled bars, each of shape (n_bars, n_inputs); shorter ones than `window` are
            left out.
        window: Bars per training window.
        training: How long and how.
        rng: Draws windows, crops and masks.
        progress: Told the share done, 0 to 1, after each step.

    Returns:
        Loss of each step, shape (n_iterations,).

    Raises:
        InputError: No series is as long as `window`.
    """
    usable = [torch.from_numpy(values) for values in series if len(values) >= window]
    if not usable:
        raise InputError(f"No series has {window} bars. Give longer series or a shorter window.")
    model.train()
    # The original averages the weights over all steps too (stochastic weight averaging).
    average = AveragedModel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=training.learning_rate)
    losses = np.empty(training.n_iterations)
    for i in range(training.n_iterations):
        batch = _draw_windows(usable, window, training.batch_size, rng)
        loss = contrastive_step_loss(model, batch, training=training, rng=rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(model)
        losses[i] = loss.item()
        if progress is not None:
            progress((i + 1) / training.n_iterations)
    model.load_state_dict(average.module.state_dict())
    model.eval()
    return losses


def contrastive_step_loss(
    model: TS2Vec, batch: Tensor, *, training: TS2VecTraining, rng: np.random.Generator
) -> Tensor:
    """Loss of one batch of windows, shape (batch, window, n_inputs), for fresh crops and masks."""
    crops = draw_crops(batch.shape[1], grid=training.crop_grid, rng=rng)
    first = batch[:, crops.outer_start : crops.stop]
    second = batch[:, crops.start : crops.outer_stop]
    n_shared = crops.stop - crops.start
    first_codes = model.representations(first, keep=_draw_mask(first, training.keep_share, rng))
    second_codes = model.representations(second, keep=_draw_mask(second, training.keep_share, rng))
    return hierarchical_contrastive_loss(first_codes[:, -n_shared:], second_codes[:, :n_shared])


def draw_crops(window: int, *, grid: int, rng: np.random.Generator) -> Crops:
    """Random overlapping crops of a window of `window` bars, borders on the grid.

    As in the authors' program: the shared part first, then how far each crop reaches beyond it.
    """
    n_cells = window // grid
    n_shared = int(rng.integers(1, n_cells + 1))
    start = int(rng.integers(0, n_cells - n_shared + 1))
    stop = start + n_shared
    outer_start = int(rng.integers(0, start + 1))
    outer_stop = int(rng.integers(stop, n_cells + 1))
    return Crops(
        outer_start=outer_start * grid,
        start=start * grid,
        stop=stop * grid,
        outer_stop=outer_stop * grid,
    )


def hierarchical_contrastive_loss(first: Tensor, second: Tensor) -> Tensor:
    """Mean over time scales of the temporal and the instance-wise contrast, half each.

    Args:
        first: Representations of the shared bars in one crop, shape (batch, time, channels).
        second: Those of the same bars in the other crop, same shape.

    Returns:
        A scalar. At the last scale, one step long, only instances can be contrasted.

    Source:
        Yue et al. (2022), equations 1 to 3 and algorithm 1.
    """
    loss = first.new_zeros(())
    n_scales = 0
    while True:
        loss = loss + 0.5 * contrast(first.transpose(0, 1), second.transpose(0, 1))
        n_scales += 1
        if first.shape[1] == 1:
            return loss / n_scales
        loss = loss + 0.5 * contrast(first, second)
        first, second = _halve_time(first), _halve_time(second)


def contrast(first: Tensor, second: Tensor) -> Tensor:
    """Each item must recognise its partner among all others of its group.

    Args:
        first: Shape (groups, items, channels).
        second: The partners, same shape.

    Returns:
        Mean cross-entropy of softmaxed dot products, a scalar; 0 for groups of one.
    """
    both = torch.cat([first, second], dim=1)
    n_both = both.shape[1]
    similarity = both @ both.transpose(1, 2)
    itself = torch.eye(n_both, dtype=torch.bool)
    similarity = similarity.masked_fill(itself, float("-inf"))
    partner = (torch.arange(n_both) + n_both // 2) % n_both
    return functional.cross_entropy(similarity.flatten(0, 1), partner.repeat(both.shape[0]))


def _halve_time(codes: Tensor) -> Tensor:
    return functional.max_pool1d(codes.transpose(1, 2), kernel_size=2).transpose(1, 2)


def _draw_windows(
    series: list[Tensor], window: int, batch_size: int, rng: np.random.Generator
) -> Tensor:
    n_starts = np.array([len(values) - window + 1 for values in series])
    # Every window of every series is as likely as any other.
    places = rng.integers(0, n_starts.sum(), size=batch_size)
    which = np.searchsorted(np.cumsum(n_starts), places, side="right")
    starts = places - (np.cumsum(n_starts) - n_starts)[which]
    pairs = zip(which, starts, strict=True)
    return torch.stack([series[i][start : start + window] for i, start in pairs])


def _draw_mask(batch: Tensor, keep_share: float, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.random(batch.shape[:2]) < keep_share)
