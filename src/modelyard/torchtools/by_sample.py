"""Which of a module's answers are about one sample each: tried, and noted in its graph.

The first dimension is the batch by agreement alone. Of a module that takes time first, or compares
the samples of a batch, a row of an answer depends on other rows of the input too.
"""

import json
import math

import onnx
import torch
from torch import nn

from modelyard._core.errors import InputError
from modelyard.torchtools.inputs import Inputs, answer_of, copied_for, mapped, with_batch
from modelyard.torchtools.parity import flat_outputs

_KEY = "modelyard.by_sample"
_N_SAMPLES = 3
_CHANGED, _OTHERS = 1, [0, 2]
_RTOL = 1e-4
# A little, for what goes by all values; far, for what goes by the largest or the smallest; and
# what is to stay with its sample.
_CHANGES = (0.1, 100.0, -100.0, math.nan)


def outputs_by_sample(model: nn.Module, example: Inputs) -> list[bool]:
    """For each output whether its rows depend on the same rows of the floats it is given alone.

    Args:
        model: In eval mode; one that cannot be tried is taken to give nothing by sample.
        example: An input it runs on.
    """
    try:
        inputs = copied_for(model, with_batch(example, _N_SAMPLES))
        before = flat_outputs(answer_of(model, copied_for(model, inputs)))
        others = [flat_outputs(answer_of(model, _with_one_changed(inputs, by))) for by in _CHANGES]
    except (InputError, RuntimeError, ValueError, IndexError):
        return []
    if any(len(after) != len(before) for after in others):
        return [False] * len(before)
    return [all(_is_alike(x, after[i]) for after in others) for i, x in enumerate(before)]


def noting_by_sample(graph: bytes, by_sample: list[bool]) -> bytes:
    """The graph with a note of which outputs, in order, are about one sample each."""
    model = onnx.load_from_string(graph)
    names = [output.name for output in model.graph.output]
    noted = [name for name, is_one in zip(names, by_sample, strict=False) if is_one]
    # More than there are, or fewer: it cannot be told which is which.
    model.metadata_props.add(
        key=_KEY, value=json.dumps(noted if len(names) == len(by_sample) else [])
    )
    data: bytes = model.SerializeToString()
    return data


def noted_by_sample(model: onnx.ModelProto) -> frozenset[str]:
    """Names of the outputs that are noted to be about one sample each; none without a note."""
    found = [entry.value for entry in model.metadata_props if entry.key == _KEY]
    return frozenset(map(str, json.loads(found[-1]))) if found else frozenset()


def _with_one_changed(inputs: Inputs, by: float) -> Inputs:
    """The input with the floats of one sample changed, each by a part of its own."""
    generator = torch.Generator().manual_seed(0)

    def changed(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.is_floating_point() or not tensor.ndim:
            return tensor
        parts = torch.rand(tensor.shape[1:], generator=generator).to(tensor)
        copy = tensor.clone()
        copy[_CHANGED] += by * (1 + copy[_CHANGED].abs()) * parts
        return copy

    return mapped(inputs, changed)


def _is_alike(before: torch.Tensor, after: torch.Tensor) -> bool:
    """Whether two answers differ in the row of the changed sample alone."""
    if before.shape != after.shape or before.shape[:1] != (_N_SAMPLES,):
        return False
    x, y = before[_OTHERS].double(), after[_OTHERS].double()
    # What is not finite tells nothing, and is not alike.
    return (
        bool((x - y).abs().le(_RTOL * before.double().abs().amax()).all()) if x.numel() else True
    )
