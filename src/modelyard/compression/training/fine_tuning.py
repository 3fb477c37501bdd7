"""Fine-tuning: a model trained on targets, without a teacher."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modelyard._core.errors import ConfigError
from modelyard.compression.records import DistillationEpoch
from modelyard.compression.training.batches import as_loader
from modelyard.compression.training.checkpoint import place_of
from modelyard.compression.training.loop import train_
from modelyard.compression.training.losses import LossFn
from modelyard.compression.training.objective import TaskObjective
from modelyard.compression.training.plan import TrainingPlan
from modelyard.compression.training.progress import Progress
from modelyard.compression.training.validation import MetricFn, Validation


def fine_tune_(
    model: nn.Module,
    loader: Iterable[Any],
    plan: TrainingPlan,
    *,
    loss_fn: LossFn | None = None,
    validation_loader: Iterable[Any] | None = None,
    metric_fn: MetricFn | None = None,
    checkpoint: str | Path | None = None,
    progress: Progress = None,
    after_step: Callable[[], None] | None = None,
    masks: Mapping[str, torch.Tensor] | None = None,
    deadline: Callable[[], bool] | None = None,
) -> list[DistillationEpoch]:
    """Train `model` in place; it is in eval mode afterwards. The history, one entry an epoch.

    Args:
        model: Only parameters that require gradients change, and buffers.
        loader: Yields batches `(inputs, targets)`.
        plan: How. With task "auto" the loss is cross entropy for targets that are whole numbers,
            else the mean squared error.
        loss_fn: `loss_fn(outputs, targets)`, a scalar, in place of the task's own loss.
        validation_loader: Batches to judge the weights by, before the first epoch and after each;
            the best are kept. Where no epoch is better than the start, the start is.
        metric_fn: `metric_fn(outputs, targets)`, `metric_fn(y_true, y_pred)` (the names tell the
            order) or `metric_fn(model, validation_loader)`, to judge
            by in place of the loss.
        checkpoint: File to write to after each epoch, and to go on from where it exists. It is
            refused where `model` has neither the weights it started from nor those it left.
        progress: None for a bar in a terminal, False for nothing, or called after every epoch.
        after_step: Called after every change of the weights (to keep pruned ones at zero).
        masks: What `after_step` keeps at zero; a checkpoint of a training with others is refused.
        deadline: Asked before each epoch and each batch; training stops when it says True. With
            the first epoch cut short the history has what was done of it, later ones are undone;
            it is empty where not a batch was trained.

    Raises:
        InputError: No data, no targets, outputs that do not fit them, or a loss that is not
            finite.
        ConfigError: Nothing to train, an option that cannot take effect, or a checkpoint of
            another training.
        IntegrityError: The checkpoint is damaged.
    """
    place = place_of(
        checkpoint,
        plan,
        model,
        None,
        masks=masks,
        loss_fn=loss_fn,
        validation_loader=validation_loader,
        metric_fn=metric_fn,
    )
    return train_(
        model,
        TaskObjective(model, plan, loss_fn),
        loader,
        plan,
        judged_by=judged(validation_loader, metric_fn),
        progress=progress,
        after_step=after_step,
        saved_at=place,
        deadline=deadline,
    )


def judged(
    validation_loader: Iterable[Any] | None, metric_fn: MetricFn | None
) -> Validation | None:
    """What finds the best epoch; None without validation data.

    Raises:
        ConfigError: A metric without data.
    """
    if validation_loader is not None:
        return Validation(as_loader(validation_loader, what="validation_loader"), metric_fn)
    if metric_fn is not None:
        raise ConfigError("metric_fn needs validation_loader=: data to compute it on.")
    return None
