"""How far eager's own rounding takes it from the answer in float64."""

import copy
import functools
from collections.abc import Sequence

import torch
from torch import nn

from modelyard.inference_optimizer.ordinary import is_ordinary
from modelyard.inference_optimizer.tuning.checking import SMALL, Sample
from modelyard.torchtools.inputs import answer_of, mapped
from modelyard.torchtools.parity import differences, outputs_by_path


class Rounding:
    """Tells what eager is off by, over inputs of usual numbers.

    Not of one input alone: the few numbers of a small answer may all happen to be right.

    Args:
        model: The module whose answers the samples hold.
        samples: Inputs and answers.
    """

    def __init__(self, model: nn.Module, samples: Sequence[Sample]) -> None:
        self._model = model
        self._samples = [sample for sample in samples if not sample.is_hard]

    @functools.cached_property
    def errors(self) -> list[float]:
        """Largest error of each output; none where it cannot be told."""
        try:
            exact = copy.deepcopy(self._model).double()
            gaps = [
                differences(answer_of(exact, mapped(one.inputs, _doubled)), one.want)
                for one in self._samples
            ]
            return [max(gap.max_abs for gap in output) for output in zip(*gaps, strict=True)]
        except Exception:  # noqa: BLE001 - a user's forward can raise anything in float64
            return []

    @property
    def errors_of_small(self) -> list[float]:
        """`errors` where an output is so small that they count, now or later; else none."""
        outputs = (out for one in self._samples for out in outputs_by_path(one.want).values())
        return self.errors if any(map(_is_small, outputs)) else []


def _is_small(output: torch.Tensor) -> bool:
    is_number = output.is_floating_point() or output.is_complex()
    if not is_number or not is_ordinary(output) or output.numel() == 0:
        return False
    return bool((output.abs() < SMALL).all())


def _doubled(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor.clone()
