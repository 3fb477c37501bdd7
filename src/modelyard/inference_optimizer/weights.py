"""Whether a call wrote into a model's weights: some keep running statistics there."""

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from modelyard.inference_optimizer.ordinary import is_ordinary

# Elements of a weight whose values are kept: a state is small, and a copy of all takes memory.
_MOST_KEPT = 1 << 16


class Weights:
    """What a model's weights are now.

    Told later by PyTorch's count of writes, and of small ones by their values: what is written
    through `.data` is not counted.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        # Lazy ones have no values before the first call.
        weights = [weight for weight in model.parameters() if not is_lazy(weight)]
        self._n_writes = [(weight, _n_writes(weight)) for weight in weights]
        self._values = [
            (weight, weight.detach().clone()) for weight in weights if _is_kept(weight)
        ]

    def are_written(self) -> bool:
        """Whether one was written into since."""
        if any(_n_writes(weight) != n for weight, n in self._n_writes):
            return True
        return not all(same_values(weight, value) for weight, value in self._values)


def _is_kept(weight: torch.Tensor) -> bool:
    is_plain = weight.is_floating_point() and is_ordinary(weight)
    return is_plain and weight.numel() <= _MOST_KEPT


def _n_writes(weight: torch.Tensor) -> int:
    return 0 if weight.is_inference() else weight._version  # noqa: SLF001 - there is no public way


def same_values(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether all values are equal, NaN being equal to NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a, b) or bool(((a == b) | (a.isnan() & b.isnan())).all())
