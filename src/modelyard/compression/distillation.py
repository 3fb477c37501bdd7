"""Knowledge distillation: a student trained on a teacher's answers.

The loss is `alpha` times the distillation loss plus `1 - alpha` times the task loss.
For classes, the distillation loss is the Kullback-Leibler divergence of the softened
distributions, scaled by the temperature squared so that its gradient keeps its size
(Hinton, Vinyals and Dean, 2015); for values it is the mean squared error.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from modelyard._core.errors import ConfigError, InputError
from modelyard.compression.records import DistillationEpoch
from modelyard.torchtools.inputs import Inputs, as_inputs, call, mapped
from modelyard.torchtools.layers import evaluating
from modelyard.torchtools.parity import flat_outputs

TASKS = ("auto", "classification", "regression", "embedding")

Progress = Callable[[DistillationEpoch], None]


@dataclass(frozen=True, kw_only=True)
class DistillationPlan:
    """How a student is trained.

    Attributes:
        temperature: Softens the distributions of classes; above 0.
        alpha: Weight of the distillation loss, 0 to 1.
        epochs: Passes over the data, 1 or more.
        task: "classification" (logits), "regression" (values), "embedding" (vectors, also by
            their angle), or "auto": classification where the targets are whole numbers.
        learning_rate: Of Adam.
        max_grad_norm: Gradients are scaled down to this norm.
        seed: Of the order of the data and of dropout.
    """

    temperature: float
    alpha: float
    epochs: int
    task: str
    learning_rate: float
    max_grad_norm: float
    seed: int

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"temperature must be above 0, got {self.temperature}.")
        if not 0.0 <= self.alpha <= 1.0:
            raise ConfigError(f"alpha must be in [0, 1], got {self.alpha}.")
        if self.epochs < 1:
            raise ConfigError(f"epochs must be 1 or more, got {self.epochs}.")
        if self.task not in TASKS:
            raise ConfigError(f"task {self.task!r} is not one of {', '.join(TASKS)}.")


def distil_(
    student: nn.Module,
    teacher: nn.Module,
    loader: Iterable[Any],
    plan: DistillationPlan,
    *,
    progress: Progress | None = None,
    after_step: Callable[[], None] | None = None,
) -> list[DistillationEpoch]:
    """Train `student` in place; it is in eval mode afterwards. The history, one entry an epoch.

    Args:
        student: Learns; its outputs have the teacher's shape.
        teacher: Not changed.
        loader: Yields batches `inputs` or `(inputs, targets)`.
        plan: How.
        progress: Called after every epoch.
        after_step: Called after every change of the weights (to keep pruned ones at zero).

    Raises:
        InputError: No data, targets missing although `alpha < 1`, outputs that do not fit, or a
            loss that is not finite.
        ConfigError: The student has nothing to train.
    """
    parameters = [p for p in student.parameters() if p.requires_grad]
    if not parameters:
        raise ConfigError(f"{type(student).__name__} has no parameters to train.")
    optimizer = torch.optim.Adam(parameters, lr=plan.learning_rate)
    history = []
    with evaluating(teacher), torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        for epoch in range(1, plan.epochs + 1):
            _train_mode_(student, plan)
            record = _epoch(student, teacher, loader, plan, optimizer, epoch, after_step)
            history.append(record)
            if progress is not None:
                progress(record)
    student.eval()
    return history


def _epoch(
    student: nn.Module,
    teacher: nn.Module,
    loader: Iterable[Any],
    plan: DistillationPlan,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    after_step: Callable[[], None] | None,
) -> DistillationEpoch:
    device = next(student.parameters()).device
    sums = {"loss": 0.0, "distillation": 0.0, "task": 0.0}
    n_batches = 0
    for batch in loader:
        inputs, targets = _split(batch, plan)
        inputs = mapped(inputs, lambda tensor: tensor.to(device))
        wanted = call(teacher, inputs)
        answer = _answer(student, inputs)
        losses = _losses(answer, flat_outputs(wanted)[0].clone(), targets, plan)
        loss = _weighted(losses, plan)
        if not bool(loss.isfinite()):
            raise InputError(f"The loss is {float(loss)} in epoch {epoch}: lower learning_rate.")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), plan.max_grad_norm)
        optimizer.step()
        if after_step is not None:
            after_step()
        n_batches += 1
        sums["loss"] += float(loss.detach())
        sums["distillation"] += float(losses[0].detach())
        sums["task"] += 0.0 if losses[1] is None else float(losses[1].detach())
    if n_batches == 0:
        raise InputError("train_loader yields no batch; a generator can be read only once.")
    return {
        "epoch": epoch,
        "loss": sums["loss"] / n_batches,
        "distillation_loss": sums["distillation"] / n_batches,
        "task_loss": None if plan.alpha == 1.0 else sums["task"] / n_batches,
    }


def _train_mode_(student: nn.Module, plan: DistillationPlan) -> None:
    """Training mode; without dropout where the teacher's answers are all there is to learn.

    They carry no noise to be robust against; dropout would only blur what is to be matched.
    """
    student.train()
    if plan.alpha == 1.0:
        for module in student.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd | nn.MultiheadAttention):  # noqa: SLF001 - the base of all dropouts
                module.eval()


def _split(batch: Any, plan: DistillationPlan) -> tuple[Inputs, torch.Tensor | None]:
    """Inputs and targets of a batch; a lone tensor or dict has no targets."""
    if isinstance(batch, tuple | list):
        if len(batch) == 1:
            batch = batch[0]
        else:
            *inputs, targets = batch
            return as_inputs(inputs[0] if len(inputs) == 1 else inputs), torch.as_tensor(targets)
    if plan.alpha < 1.0:
        raise InputError(
            f"train_loader yields inputs without targets, which only alpha=1.0 can use "
            f"(alpha is {plan.alpha}). Yield (inputs, targets), or set alpha=1.0."
        )
    return as_inputs(batch), None


def _answer(student: nn.Module, inputs: Inputs) -> torch.Tensor:
    if isinstance(inputs, torch.Tensor):
        output = student(inputs)
    elif isinstance(inputs, dict):
        output = student(**inputs)
    else:
        output = student(*inputs)
    return flat_outputs(output)[0]


def _losses(
    answer: torch.Tensor,
    wanted: torch.Tensor,
    targets: torch.Tensor | None,
    plan: DistillationPlan,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Distillation loss and, with targets, task loss."""
    if answer.shape != wanted.shape:
        raise InputError(
            f"The student answers with shape {tuple(answer.shape)}, the teacher with "
            f"{tuple(wanted.shape)}; they must be equal."
        )
    task = _task_of(answer, targets, plan.task)
    if task == "classification":
        distillation = _softened_divergence(answer, wanted, plan.temperature)
    elif task == "embedding":
        angle = 1.0 - functional.cosine_similarity(answer, wanted, dim=-1).mean()
        distillation = functional.mse_loss(answer, wanted) + angle
    else:
        distillation = functional.mse_loss(answer, wanted)
    if targets is None or plan.alpha == 1.0:
        return distillation, None
    return distillation, _task_loss(answer, targets.to(answer.device), task)


def _weighted(
    losses: tuple[torch.Tensor, torch.Tensor | None], plan: DistillationPlan
) -> torch.Tensor:
    distillation, task = losses
    if task is None:
        return distillation
    return plan.alpha * distillation + (1.0 - plan.alpha) * task


def _task_of(answer: torch.Tensor, targets: torch.Tensor | None, task: str) -> str:
    if task != "auto":
        return task
    is_class_labels = (
        targets is not None and not targets.is_floating_point() and answer.ndim == targets.ndim + 1
    )
    return "classification" if is_class_labels else "regression"


def _softened_divergence(
    answer: torch.Tensor, wanted: torch.Tensor, temperature: float
) -> torch.Tensor:
    divergence = functional.kl_div(
        functional.log_softmax(answer / temperature, dim=-1),
        functional.log_softmax(wanted / temperature, dim=-1),
        reduction="none",
        log_target=True,
    )
    return divergence.sum(dim=-1).mean() * temperature**2


def _task_loss(answer: torch.Tensor, targets: torch.Tensor, task: str) -> torch.Tensor:
    if task == "classification":
        return functional.cross_entropy(
            answer.reshape(-1, answer.shape[-1]), targets.reshape(-1).long()
        )
    if targets.shape != answer.shape:
        raise InputError(
            f"Targets have shape {tuple(targets.shape)}, answers {tuple(answer.shape)}. For class "
            "labels pass task='classification' and whole numbers."
        )
    return functional.mse_loss(answer, targets.to(answer.dtype))
