"""Knowledge distillation: a student trained on a teacher's answers.

The loss is `alpha` times the distillation loss, plus `1 - alpha` times the task loss, plus
`feature_weight` times the feature loss where layers are matched too.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modelyard._core.errors import ConfigError
from modelyard.compression.records import DistillationEpoch
from modelyard.compression.training.checkpoint import place_of
from modelyard.compression.training.fine_tuning import judged
from modelyard.compression.training.loop import train_
from modelyard.compression.training.losses import LossFn
from modelyard.compression.training.objective import DistillationObjective
from modelyard.compression.training.plan import DistillationPlan
from modelyard.compression.training.progress import Progress
from modelyard.compression.training.validation import MetricFn


def distil_(
    student: nn.Module,
    teacher: nn.Module,
    loader: Iterable[Any],
    plan: DistillationPlan,
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
    """Train `student` in place; it is in eval mode afterwards. The history, one entry an epoch.

    Args:
        student: Learns; its floating outputs have the teacher's shapes. Frozen parameters stay.
        teacher: Not changed and not moved.
        loader: Yields batches `inputs` or `(inputs, targets)`.
        plan: How.
        loss_fn: `loss_fn(outputs, targets)`, a scalar, in place of the task's own loss.
        validation_loader: Batches to judge the weights by, before the first epoch and after each;
            the best are kept. Where no epoch is better than the start, the start is.
        metric_fn: `metric_fn(outputs, targets)`, `metric_fn(y_true, y_pred)` (the names tell the
            order) or `metric_fn(model, validation_loader)`, to judge
            by in place of the loss.
        checkpoint: File to write to after each epoch, and to go on from where it exists. It is
            refused where `student` has neither the weights it started from nor those it left.
        progress: None for a bar in a terminal, False for nothing, or called after every epoch.
        after_step: Called after every change of the weights (to keep pruned ones at zero).
        masks: What `after_step` keeps at zero; a checkpoint of a training with others is refused.
        deadline: Asked before each epoch and each batch; training stops when it says True. With
            the first epoch cut short the history has what was done of it, later ones are undone;
            it is empty where not a batch was trained.

    Raises:
        InputError: No data, targets missing although `alpha < 1`, outputs that do not fit, or a
            loss that is not finite.
        ConfigError: The student has nothing to train or shares parts with the teacher, an option
            that cannot take effect, or a checkpoint of another training.
        IntegrityError: The checkpoint is damaged.
    """
    if student is teacher:
        raise ConfigError(
            "The student is the teacher, which would change while it teaches: pass "
            "copy.deepcopy(teacher) or a smaller model."
        )
    check_apart(student, teacher, "the teacher, which would change while it teaches")
    if loss_fn is not None and plan.alpha == 1.0:
        raise ConfigError("loss_fn has no weight with alpha=1.0: leave it out or lower alpha.")
    place = place_of(
        checkpoint,
        plan,
        student,
        teacher,
        masks=masks,
        loss_fn=loss_fn,
        validation_loader=validation_loader,
        metric_fn=metric_fn,
    )
    return train_(
        student,
        DistillationObjective(student, teacher, plan, loss_fn),
        loader,
        plan,
        judged_by=judged(validation_loader, metric_fn),
        progress=progress,
        after_step=after_step,
        saved_at=place,
        deadline=deadline,
    )


def check_apart(student: nn.Module, other: nn.Module, whose: str) -> None:
    """Refuse a student that shares modules or memory with a model that must not change.

    Args:
        student: Is going to be trained.
        other: Must stay as it is.
        whose: What `other` is and why it matters, for the message.

    Raises:
        ConfigError: It does.
    """
    theirs = {id(module) for module in other.modules()}
    memory = _memory_of(other)
    for name, module in student.named_modules():
        if id(module) in theirs or _memory_of(module, recurse=False) & memory:
            raise ConfigError(
                f"The student's {name or 'own parameters'!r} is shared with {whose}: give the "
                "student a copy (copy.deepcopy)."
            )


def _memory_of(module: nn.Module, *, recurse: bool = True) -> set[int]:
    tensors: list[torch.Tensor] = [
        *module.parameters(recurse=recurse),
        *module.buffers(recurse=recurse),
    ]
    # Lazy and sparse tensors have no storage to ask; meta tensors have one at 0.
    stored = [t for t in tensors if not nn.parameter.is_lazy(t) and t.layout == torch.strided]
    return {tensor.untyped_storage().data_ptr() for tensor in stored} - {0}
