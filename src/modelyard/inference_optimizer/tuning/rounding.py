"""How far eager's own rounding takes it from the answer in float64."""

import copy
from typing import Any

import torch
from torch import nn

from modelyard.inference_optimizer.tuning.checking import Sample
from modelyard.torchtools.inputs import Inputs, answer_of, mapped
from modelyard.torchtools.parity import differences


class Rounding:
    """Tells eager's own errors. Makes a copy of the module in float64 when first asked.

    Args:
        model: The module whose answers samples hold.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._exact: nn.Module | None = None

    def __call__(self, sample: Sample) -> list[float]:
        """Largest error of each output; none where it cannot be told."""
        try:
            return [gap.max_abs for gap in differences(self._answer(sample.inputs), sample.want)]
        except Exception:  # noqa: BLE001 - a user's forward can raise anything in float64
            return []

    def _answer(self, inputs: Inputs) -> Any:
        if self._exact is None:
            self._exact = copy.deepcopy(self._model).double()
        return answer_of(self._exact, mapped(inputs, _doubled))


def _doubled(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor.clone()
