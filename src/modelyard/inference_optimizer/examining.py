"""What a model's first input shows of it: whether it repeats itself, whether it spoils inputs."""

from dataclasses import dataclass
from typing import Any

import torch

from modelyard._core.errors import InputError, ModelyardError
from modelyard.inference_optimizer.serving import Serving
from modelyard.torchtools.inputs import Inputs, mapped, tensors_of
from modelyard.torchtools.parity import flat_outputs


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What was seen.

    Attributes:
        writes_inputs: Whether the model writes into its input: it is given copies.
        reason_not_to_cache: Why its answers may not be kept; empty where they may.
        answer: What it answered.
    """

    answer: Any
    writes_inputs: bool
    reason_not_to_cache: str


def examination(serving: Serving, inputs: Inputs) -> Examination | None:
    """Run the model twice on copies of an input, or once where there is no cache.

    Returns:
        None where it does not take the input: nothing was learnt.
    """
    copies = [mapped(inputs, torch.clone) for _ in range(2 if serving.cache.max_size else 1)]
    try:
        answers = [serving.run(copy) for copy in copies]
    except ModelyardError:
        return None
    pairs = zip(tensors_of(copies[0]), tensors_of(inputs), strict=True)
    return Examination(
        answer=answers[0],
        writes_inputs=not all(same_values(a, b) for a, b in pairs),
        reason_not_to_cache=_reason(answers) if serving.cache.max_size else "",
    )


def _reason(answers: list[Any]) -> str:
    try:
        first, second = (flat_outputs(answer) for answer in answers)
    except InputError:
        return f"answers with a {type(answers[0]).__name__}, which cannot be copied"
    is_same = len(first) == len(second) and all(map(same_values, first, second))
    return "" if is_same else "gives two answers to one input"


def same_values(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether all values are equal, NaN being equal to NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(a, b) or bool(((a == b) | (a.isnan() & b.isnan())).all())
