"""What is made small: the distance from the teacher's answers, and from the targets.

Every loss is a mean over the samples of a batch. Half-precision answers are compared in float32.
"""

import copy
import dataclasses
from collections.abc import Callable, MutableMapping
from typing import Any

import torch
from torch.nn import functional

from modelyard._core.errors import InputError
from modelyard.compression.training import policies
from modelyard.torchtools.parity import map_tensors, outputs_by_path

LossFn = Callable[[Any, Any], torch.Tensor]

# Labels that torch's cross entropy leaves out.
_IGNORED = -100

# A variance below it is none.
_LEAST = 1e-12


def resolved_task(answer: Any, targets: Any, task: str) -> str:
    """The task that "auto" means for this answer and these targets; any other task is itself."""
    if task != "auto":
        return task
    if policies.has_distribution(answer):
        return "policy"
    if not isinstance(targets, torch.Tensor) or targets.is_floating_point():
        return "regression"
    first = first_output(answer)
    return "classification" if _squeezed(targets, first).ndim == first.ndim - 1 else "regression"


def first_output(answer: Any) -> torch.Tensor:
    """The first floating tensor of an answer, in float32 where it was shorter.

    Raises:
        InputError: There is none.
    """
    return next(iter(_floating(answer).values()))


def full_precision(answer: Any) -> Any:
    """The same answer, of the same class, with its bfloat16 and float16 tensors in float32."""
    if isinstance(answer, MutableMapping):  # perhaps one that gives its items as attributes too
        changed = copy.copy(answer)
        changed.update({key: full_precision(item) for key, item in answer.items()})
        return changed
    if dataclasses.is_dataclass(answer) and not isinstance(answer, type):
        fields = {field.name: getattr(answer, field.name) for field in dataclasses.fields(answer)}
        return dataclasses.replace(answer, **{k: full_precision(v) for k, v in fields.items()})
    return map_tensors(answer, _full)


# ── distillation ────────────────────────────────────────────────────────────────────────────


def distillation_loss(answer: Any, wanted: Any, *, task: str, temperature: float) -> torch.Tensor:
    """How far the student's answer is from the teacher's, over all their floating tensors.

    Args:
        answer: The student's: a tensor, or tuple or dict of them; for a policy see `policies`.
        wanted: The teacher's, of the same shapes.
        task: Of the first tensor "classification": divergence of the softened classes;
            "embedding": angle and mean squared error; "regression": mean squared error; "policy":
            divergence of the distributions. Of each further tensor the mean squared error in
            units of the teacher's variance (for "embedding" and its angle), as a value in the
            thousands beside logits would leave them no weight.
        temperature: Softens classes; above 0.

    Raises:
        InputError: Answers that do not fit each other.
    """
    if task == "policy":
        return _policy_loss(answer, wanted)
    head, *rest = _pairs(answer, wanted)
    if task == "classification":
        losses = [softened_divergence(*head, temperature), *(_in_units(*pair) for pair in rest)]
    elif task == "embedding":
        losses = [_squared(*head) + _angle(*head)]
        losses += [_in_units(*pair) + _angle(*pair) for pair in rest]
    else:
        losses = [_squared(*head), *(_in_units(*pair) for pair in rest)]
    return torch.stack(losses).sum()


def softened_divergence(
    answer: torch.Tensor, wanted: torch.Tensor, temperature: float
) -> torch.Tensor:
    """KL(wanted || answer) of the softened classes, times the temperature squared.

    The factor keeps the size of the gradient when the temperature changes.

    Args:
        answer: Logits, shape (..., classes).
        wanted: Logits of the same shape.
        temperature: Divides the logits; above 0.

    Source:
        Hinton, Vinyals and Dean (2015), Distilling the Knowledge in a Neural Network, section 2.
    """
    divergence = functional.kl_div(
        functional.log_softmax(answer / temperature, dim=-1),
        functional.log_softmax(wanted / temperature, dim=-1),
        reduction="none",
        log_target=True,
    )
    return divergence.sum(dim=-1).mean() * temperature**2


def _policy_loss(answer: Any, wanted: Any) -> torch.Tensor:
    student, teacher = policies.policy_of(answer), policies.policy_of(wanted)
    loss = policies.divergence(teacher, student)
    rest = _same_shapes(student.others, teacher.others)
    return torch.stack([loss, *(_in_units(*pair) for pair in rest)]).sum()


def _angle(answer: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    if answer.ndim < 2 or answer.shape[-1] == 1:  # noqa: PLR2004 - a number has no angle
        return answer.new_zeros(())
    return 1.0 - functional.cosine_similarity(answer, wanted, dim=-1).mean()


def _squared(answer: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return functional.mse_loss(answer, wanted.to(answer.dtype))


def _in_units(answer: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The mean squared error over the variance of `wanted` about its mean over the batch.

    That has no unit, so outputs of any scale weigh alike. Where there is no variance (one sample,
    a constant) the mean square takes its place, and where that is nothing either, 1: an error
    over next to nothing would swamp all else.
    """
    # About the first sample first: exactly 0 for constants of any size.
    shifted = wanted - wanted[:1] if wanted.ndim else wanted - wanted
    variance = (shifted - shifted.mean(dim=0)).square().mean()
    size = wanted.square().mean()
    unit = torch.where(variance > _LEAST, variance, torch.where(size > _LEAST, size, 1.0))
    return _squared(answer, wanted) / unit.to(answer.dtype)


def _pairs(answer: Any, wanted: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return _same_shapes(_floating(answer), _floating(wanted))


def _same_shapes(
    answers: dict[Any, torch.Tensor], wanted: dict[Any, torch.Tensor]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Tensors that belong together: by where they are in the answer, else by their order."""
    if len(answers) != len(wanted):
        raise InputError(
            f"The student answers with {len(answers)} floating tensors, the teacher with "
            f"{len(wanted)}; they must be as many. Wrap the one that gives more."
        )
    if answers.keys() == wanted.keys():
        pairs = [(tensor, wanted[path]) for path, tensor in answers.items()]
    else:
        pairs = list(zip(answers.values(), wanted.values(), strict=True))
    for mine, other in pairs:
        if mine.shape != other.shape:
            raise InputError(
                f"The student answers with shape {tuple(mine.shape)}, the teacher with "
                f"{tuple(other.shape)}; they must be equal."
            )
    return pairs


# ── task ────────────────────────────────────────────────────────────────────────────────────


def task_loss(answer: Any, targets: Any, *, task: str, loss_fn: LossFn | None) -> torch.Tensor:
    """How far the answer is from the targets.

    Args:
        answer: The model's. Without `loss_fn` its first floating tensor counts, or for a policy
            its distribution.
        targets: Class labels (or probabilities of classes), values, or actions.
        task: Cross entropy for "classification", negative log-likelihood for "policy", else mean
            squared error.
        loss_fn: `loss_fn(answer, targets)` instead, a tensor with one element.

    Raises:
        InputError: Targets that do not fit; a loss function that gives no scalar.
    """
    if loss_fn is not None:
        loss = loss_fn(answer, targets)
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            shown = tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__
            raise InputError(
                f"loss_fn must return a tensor with one element, got {shown}. "
                "Take the mean over the batch."
            )
        return loss.reshape(())
    if not isinstance(targets, torch.Tensor):
        raise InputError(f"Targets that are a {type(targets).__name__} need loss_fn=.")
    if task == "policy":
        return policies.negative_log_likelihood(policies.policy_of(answer), targets)
    first = first_output(answer)
    if task == "classification":
        return _cross_entropy(first, targets)
    return functional.mse_loss(first, _values_like(targets, first))


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    n_classes = logits.shape[-1]
    if n_classes == 1:
        raise InputError(
            f"Answers of shape {tuple(logits.shape)} have one class, about which there is nothing "
            "to learn. Answer with two, or pass loss_fn=, such as "
            "binary_cross_entropy_with_logits."
        )
    if targets.is_floating_point() and targets.shape == logits.shape:
        return functional.cross_entropy(
            logits.reshape(-1, n_classes), targets.reshape(-1, n_classes).to(logits.dtype)
        )
    labels = _squeezed(targets, logits)
    if targets.is_floating_point() or labels.shape != logits.shape[:-1]:
        raise InputError(
            f"Targets have shape {tuple(targets.shape)} and type {targets.dtype}; answers of "
            f"shape {tuple(logits.shape)}, classes last, need whole numbers of shape "
            f"{tuple(logits.shape[:-1])}."
        )
    labels = labels.reshape(-1).long()
    _check_labels(labels, n_classes)
    return functional.cross_entropy(logits.reshape(-1, n_classes), labels)


def _check_labels(labels: torch.Tensor, n_classes: int) -> None:
    # On a GPU torch would end the process's use of the device over it.
    is_wrong = ((labels < 0) & (labels != _IGNORED)) | (labels >= n_classes)
    if bool(is_wrong.any()):
        raise InputError(
            f"Class label {int(labels[is_wrong][0])} is not in 0 to {n_classes - 1}: the model "
            f"answers with {n_classes} classes."
        )


def _values_like(targets: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
    """Targets of the answer's shape; a last dimension of 1 may be missing or too many."""
    shapes = {(*answer.shape, 1), answer.shape}
    if answer.shape[-1:] == (1,):
        shapes.add(answer.shape[:-1])
    if targets.shape not in shapes:
        raise InputError(
            f"Targets have shape {tuple(targets.shape)}, answers {tuple(answer.shape)}. For class "
            "labels pass task='classification' and whole numbers."
        )
    return targets.reshape(answer.shape).to(answer.dtype)


def _squeezed(targets: torch.Tensor, answer: torch.Tensor) -> torch.Tensor:
    """Labels without a trailing dimension of 1 where the answer has more than one class."""
    is_column = targets.ndim == answer.ndim and targets.shape[-1:] == (1,)
    return targets.squeeze(-1) if is_column and answer.shape[-1] > 1 else targets


def _floating(answer: Any) -> dict[Any, torch.Tensor]:
    found = {
        path: _full(tensor)
        for path, tensor in outputs_by_path(answer).items()
        if tensor.is_floating_point()
    }
    if not found:
        raise InputError(
            f"The model answered with a {type(answer).__name__} that holds no floating tensor."
        )
    return found


def _full(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
