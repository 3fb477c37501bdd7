"""What a step of training makes small: the parts of the loss, weighted."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from modelyard._core.errors import ConfigError
from modelyard.compression.training import losses
from modelyard.compression.training.batches import Batch
from modelyard.compression.training.features import FeatureMatch
from modelyard.compression.training.losses import LossFn
from modelyard.compression.training.plan import (
    DEFAULT_TEMPERATURE,
    DistillationPlan,
    TrainingPlan,
)
from modelyard.compression.training.policies import has_distribution, is_gaussian_pair
from modelyard.torchtools.inputs import Inputs, device_of, mapped
from modelyard.torchtools.layers import evaluating
from modelyard.torchtools.parity import map_tensors

_logger = logging.getLogger("modelyard")


@dataclass(frozen=True, kw_only=True)
class Losses:
    """The parts of the loss of one batch, scalars; None where there is no such part.

    Attributes:
        total: What is made small.
        distillation: Distance from the teacher's answers.
        task: Distance from the targets.
        feature: Distance from the teacher's features.
    """

    total: torch.Tensor
    distillation: torch.Tensor | None = None
    task: torch.Tensor | None = None
    feature: torch.Tensor | None = None


class Objective(Protocol):
    """Gives the loss of a batch."""

    features: FeatureMatch
    are_targets_needed: bool
    is_dropout_wanted: bool

    def ready(self) -> AbstractContextManager[None]:
        """What must hold while there is training."""
        ...

    def losses(self, student: nn.Module, batch: Batch, *, is_training: bool) -> Losses:
        """The loss of the student on a batch; `is_training`: with features, in half precision."""
        ...


class Doubts:
    """Says once, at the first batch of a training, what the caller may have meant otherwise.

    Args:
        plan: What the caller said.
    """

    def __init__(self, plan: TrainingPlan) -> None:
        self._plan = plan
        self._is_told = False

    def tell(self, answer: Any, task: str) -> None:
        """Log a warning where an option has no effect, or a task is probably another."""
        if self._is_told:
            return
        self._is_told = True
        if task == "regression" and self._plan.task == "auto" and is_gaussian_pair(answer):
            _logger.warning(
                "The model answers with two tensors of one shape, which task='auto' takes for "
                "values, each by its squared error. If they are (mean, log_std) of a policy, pass "
                "task='policy'; else task='regression'."
            )
        temperature = getattr(self._plan, "temperature", DEFAULT_TEMPERATURE)
        if task != "classification" and temperature != DEFAULT_TEMPERATURE:
            _logger.warning(
                "temperature=%s has no effect: the task is %s%s, and only classes are softened. "
                "If the answers are logits, pass task='classification'.",
                temperature,
                task,
                " (found by task='auto')" if self._plan.task == "auto" else "",
            )


class TaskObjective:
    """The distance from the targets alone, for fine-tuning.

    Args:
        model: Is going to be trained.
        plan: Says which task.
        loss_fn: Instead of the task's own loss.
    """

    are_targets_needed = True
    is_dropout_wanted = True

    def __init__(self, model: nn.Module, plan: TrainingPlan, loss_fn: LossFn | None) -> None:
        self.features = FeatureMatch(model, model, {})
        self._plan = plan
        self._doubts = Doubts(plan)
        self._loss_fn = loss_fn

    def ready(self) -> AbstractContextManager[None]:
        """Nothing is needed."""
        return nullcontext()

    def losses(self, student: nn.Module, batch: Batch, *, is_training: bool) -> Losses:
        """The task loss of a batch."""
        answer = answer_in(student, batch.inputs, self._plan, is_training=is_training)
        task = losses.resolved_task(answer, batch.targets, self._plan.task)
        if self._loss_fn is None:
            self._doubts.tell(answer, task)
        loss = losses.task_loss(answer, batch.targets, task=task, loss_fn=self._loss_fn)
        return Losses(total=loss, task=loss)


class DistillationObjective:
    """The distances from a teacher's answers, its features, and the targets.

    Args:
        student: Is going to be trained.
        teacher: Stays where it is, in eval mode while `ready`.
        plan: Weights and task.
        loss_fn: Instead of the task's own loss.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        plan: DistillationPlan,
        loss_fn: LossFn | None,
    ) -> None:
        self.features = FeatureMatch(teacher, student, plan.features)
        self.are_targets_needed = plan.alpha < 1.0
        # A teacher's answers carry no noise to be robust against: where they are all there is to
        # learn, dropout would only blur what is to be matched.
        self.is_dropout_wanted = plan.alpha < 1.0
        self._teacher = teacher
        self._plan = plan
        self._doubts = Doubts(plan)
        self._loss_fn = loss_fn

    @contextmanager
    def ready(self) -> Iterator[None]:
        """The teacher in eval mode, hooks on the layers whose features are matched."""
        with evaluating(self._teacher), self.features.watching():
            yield

    def losses(self, student: nn.Module, batch: Batch, *, is_training: bool) -> Losses:
        """All parts of the loss of a batch; features only in training."""
        plan = self._plan
        wanted = self._wanted(batch.inputs, device_of(student), is_training=is_training)
        answer = answer_in(student, batch.inputs, plan, is_training=is_training)
        task = losses.resolved_task(answer, batch.targets, plan.task)
        self._doubts.tell(answer, task)
        distillation = losses.distillation_loss(
            answer, wanted, task=task, temperature=plan.temperature
        )
        total, task_part, feature = plan.alpha * distillation, None, None
        if self.are_targets_needed:
            task_part = losses.task_loss(answer, batch.targets, task=task, loss_fn=self._loss_fn)
            total = total + (1.0 - plan.alpha) * task_part
        if plan.features and is_training:
            feature = self.features.loss()
            total = total + plan.feature_weight * feature
        self.features.forget()
        return Losses(total=total, distillation=distillation, task=task_part, feature=feature)

    def _wanted(self, inputs: Inputs, device: torch.device, *, is_training: bool) -> Any:
        """The teacher's answer, computed on its device and moved to the student's."""
        its_device = device_of(self._teacher)
        given = mapped(inputs, lambda tensor: tensor.to(its_device))
        with torch.no_grad():
            answer = answer_in(self._teacher, given, self._plan, is_training=is_training)
        if its_device == device:
            return answer
        if has_distribution(answer):
            raise ConfigError(
                f"The teacher is on {its_device}, the student on {device}, and the teacher's "
                "answer is a Distribution, which cannot be moved: move the teacher."
            )
        return map_tensors(answer, lambda tensor: tensor.to(device))


def answer_in(model: nn.Module, inputs: Inputs, plan: TrainingPlan, *, is_training: bool) -> Any:
    """The model's answer; in training, its layers run in bfloat16 where the plan says so."""
    device = device_of(model)
    if not (is_training and is_half_wanted(plan, device)):
        return _called(model, inputs)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        answer = _called(model, inputs)
    return losses.full_precision(answer)


def is_half_wanted(plan: TrainingPlan, device: torch.device) -> bool:
    """Whether `plan.amp` means bfloat16 on this device.

    "auto" means no on a CPU, where it slows small models down to a third of their speed.
    """
    if isinstance(plan.amp, bool):
        return plan.amp
    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def _called(model: nn.Module, inputs: Inputs) -> Any:
    if isinstance(inputs, torch.Tensor):
        return model(inputs)
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs)
