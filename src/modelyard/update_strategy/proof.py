"""Proof that a module answers, before it gets traffic."""

from typing import Any

from torch import nn

from modelyard._core.errors import InputError
from modelyard.torchtools.answers import numbers_in
from modelyard.torchtools.inputs import as_inputs, call, device_of, mapped
from modelyard.torchtools.layers import evaluating


def prove_answers(module: nn.Module, example: Any, version_id: str) -> None:
    """Run a module once on an example input.

    Args:
        module: Stays in the mode it is in.
        example: What its `forward` takes.
        version_id: Named in the error.

    Raises:
        InputError: It does not run on it, or answers with NaN or infinity.
    """
    device = device_of(module)
    inputs = mapped(as_inputs(example), lambda tensor: tensor.to(device))
    try:
        with evaluating(module):
            outputs = numbers_in(call(module, inputs))
    except Exception as error:
        raise InputError(f"{version_id} does not run on its example input: {error}") from error
    if not all(bool(output.isfinite().all()) for output in outputs):
        raise InputError(f"{version_id} answers its example input with NaN or infinity.")
