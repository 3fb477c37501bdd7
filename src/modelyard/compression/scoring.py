"""A metric where the user names none: from targets, or from the original's own answers."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from modelyard._core.errors import InputError
from modelyard.torchtools.inputs import answer_of, copied_for
from modelyard.torchtools.parity import flat_outputs
from modelyard.torchtools.quantization import relative_error

_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Score:
    """How a model is judged.

    Attributes:
        name: "accuracy", "mean squared error" or "agreement".
        of: The score of a model.
        is_maximized: Whether more is better.
    """

    name: str
    of: Callable[[nn.Module], float]
    is_maximized: bool


def score_of(
    original: nn.Module, inputs: torch.Tensor, targets: torch.Tensor | None = None
) -> Score:
    """The metric that the data suggests, of a model's first output.

    Whole numbers as targets and one more dimension in the answers: the share of right classes.
    Other targets: the mean squared error. None: one minus the relative error against the
    original's answers.

    Args:
        original: The model before compressing.
        inputs: Held-out samples, shape (n, ...).
        targets: Shape (n, ...), or None.

    Raises:
        InputError: Targets whose shape fits the answers in neither way, or no samples.
    """
    if not len(inputs):
        raise InputError("There are no samples to judge by.")
    wanted = _answers(original, inputs)
    if targets is None:
        return Score(
            name="agreement",
            of=lambda model: 1.0 - relative_error(wanted, _answers(model, inputs)),
            is_maximized=True,
        )
    if not targets.is_floating_point() and wanted.ndim == targets.ndim + 1:
        return Score(
            name="accuracy",
            of=lambda model: float(
                (_answers(model, inputs).argmax(dim=-1) == targets).double().mean()
            ),
            is_maximized=True,
        )
    if targets.numel() != wanted.numel():
        raise InputError(
            f"Targets of shape {tuple(targets.shape)} do not fit answers of shape "
            f"{tuple(wanted.shape)}; classes must be whole numbers, one a sample."
        )
    values = targets.reshape(wanted.shape).double()
    return Score(
        name="mean squared error",
        of=lambda model: float((_answers(model, inputs).double() - values).square().mean()),
        is_maximized=False,
    )


def _answers(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    parts = [
        flat_outputs(answer_of(model, copied_for(model, part)))[0].cpu()
        for part in inputs.split(_BATCH)
    ]
    return torch.cat(parts)
