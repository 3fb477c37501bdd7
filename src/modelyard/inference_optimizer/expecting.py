"""What a model takes, in words, for whoever gave it something else."""

from typing import Any

from torch import nn

from modelyard._core.errors import ExampleInputRequiredError
from modelyard.torchtools.inputs import resolve_example, tensors_of
from modelyard.torchtools.signature import noted_signature


def expectation(model: nn.Module, form: tuple[Any, ...] | None) -> str:
    """What the model is known to take, as the end of a message; empty if nothing is known.

    Args:
        model: The module.
        form: Names, and dtype, dimensions and shape without the batch of each tensor it was
            optimised for; or None.
    """
    if noted_signature(model) is not None:
        return ""  # inputs were compared with it before
    if form is not None:
        names, *tensors = form
        told = [(tuple(shape), dtype) for dtype, _, shape in tensors]
        return f" It was optimised for {_listed(names, told)}."
    try:
        example = resolve_example(model)
    except ExampleInputRequiredError:
        return ""
    told = [(tuple(tensor.shape[1:]), tensor.dtype) for tensor in tensors_of(example)]
    return f" By its first layer it takes {_listed((), told)}."


def _listed(names: tuple[str, ...], told: list[tuple[tuple[int, ...], Any]]) -> str:
    shapes = [f"({', '.join(['any', *map(str, shape)])}) {dtype}" for shape, dtype in told]
    if names:
        shapes = [f"{name} {shape}" for name, shape in zip(names, shapes, strict=True)]
    return ", ".join(shapes)
