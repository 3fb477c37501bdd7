"""What a model's first input shows of it: whether it repeats itself, and where it writes."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from modelyard._core.errors import InputError, ModelyardError
from modelyard.inference_optimizer.serving import Serving
from modelyard.inference_optimizer.weights import Weights, same_values
from modelyard.torchtools.apart import apart
from modelyard.torchtools.inputs import Inputs, mapped, tensors_of
from modelyard.torchtools.parity import flat_outputs

_STEP = 1 / 64
_TWO_ANSWERS = "gives two answers to one input"
_UNCOMPARED = "gives tensors that cannot be compared"


@dataclass(frozen=True, kw_only=True)
class Examination:
    """What was seen.

    Attributes:
        answer: What the model answered.
        writes_inputs: Whether it writes into its input: it is given copies.
        writes_weights: Whether it writes into its weights: copies to try things on get their own.
        reason_not_to_cache: Why its answers may not be kept; empty where they may.
    """

    answer: Any
    writes_inputs: bool
    writes_weights: bool
    reason_not_to_cache: str


def examination(serving: Serving, inputs: Inputs) -> Examination | None:
    """Run the model on a copy of an input, and where there is a cache see whether it repeats it.

    That is tried on a copy of the model, after other inputs: a model that keeps a state, a running
    mean say, does not repeat itself then.

    Returns:
        None where it does not take the input: nothing was learnt.
    """
    given = mapped(inputs, torch.clone)
    weights = Weights(serving.model)
    try:
        answer = serving.run(given)
    except ModelyardError:
        return None
    writes_weights = weights.are_written()
    reason = ""
    if serving.cache.max_size:
        with apart(serving.model, has_own_weights=writes_weights) as model:
            reason = _reason(serving.on(model), inputs, answer)
    return Examination(
        answer=answer,
        writes_inputs=not _are_same(tensors_of(given), tensors_of(inputs)),
        writes_weights=writes_weights,
        reason_not_to_cache=reason,
    )


def _reason(trial: Serving, inputs: Inputs, answer: Any) -> str:
    try:
        first = [tensor.clone() for tensor in flat_outputs(answer)]
    except InputError:
        return f"answers with a {type(answer).__name__}, which cannot be copied"
    for other in _others(inputs):
        with contextlib.suppress(ModelyardError):  # it need not take them
            trial.run(other)
    try:
        second = flat_outputs(trial.run(mapped(inputs, torch.clone)))
    except ModelyardError:
        return _TWO_ANSWERS
    is_same = _are_same(first, second)
    if is_same is None:
        return _UNCOMPARED
    return "" if is_same else _TWO_ANSWERS


def _others(inputs: Inputs) -> list[Inputs]:
    """A little more, and a little less: who keeps something of them answers otherwise afterwards.

    Nothing that is no number, or far off: a model that goes on until it has converged need never
    end with that.
    """

    def changed(change: Callable[[torch.Tensor], torch.Tensor]) -> Inputs:
        def one(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.is_floating_point():
                return change(tensor.double()).to(tensor.dtype)
            # Whole numbers stay what they are, and so valid, in another order.
            return tensor.flip([*range(tensor.ndim)])

        return mapped(inputs, one)

    more = changed(lambda t: t + (t.abs() + 1.0) * _STEP)
    return [more, changed(lambda t: t - t.abs() * _STEP)]


def _are_same(some: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> bool | None:
    """Whether all values are the same; None where PyTorch cannot tell of a type or layout."""
    try:
        return len(some) == len(others) and all(map(same_values, some, others))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, AttributeError):
        return None
