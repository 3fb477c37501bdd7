"""Answers and inputs put together and taken apart."""

import itertools
from typing import Any

import numpy as np
import torch

from modelyard._core.errors import InputError
from modelyard.torchtools.inputs import Inputs, mapped, tensors_of
from modelyard.torchtools.parity import flat_outputs, map_tensors


def n_samples(inputs: Inputs) -> int:
    """Samples in an input; 1 for a tensor of one dimension."""
    first = inputs if type(inputs) is torch.Tensor else tensors_of(inputs)[0]
    return int(first.shape[0]) if first.ndim > 1 else 1


def given_back(answer: Any, inputs: Inputs, *, as_arrays: bool) -> Any:
    """The answer as the caller gave the input: arrays, or tensors on the input's device."""
    if as_arrays:
        return map_tensors(answer, to_array)
    if _is_plain(answer) and _is_plain(inputs):
        return answer.clone()  # a model may answer with its input or a weight
    home = tensors_of(inputs)[0].device
    return map_tensors(answer, lambda tensor: tensor.to(home).detach().clone())


def _is_plain(value: Any) -> bool:
    return type(value) is torch.Tensor and value.is_cpu and not value.requires_grad


def to_array(value: torch.Tensor) -> np.ndarray[Any, Any]:
    """The tensor as an array of its own: a model may answer with its input or a weight.

    bfloat16, which NumPy does not have, becomes float32.
    """
    plain = value.detach().cpu()
    plain = plain.float() if plain.dtype is torch.bfloat16 else plain
    array: np.ndarray[Any, Any] = plain.numpy().copy()
    return array


def sample_of(inputs: Inputs, index: int) -> Inputs:
    """One sample of a batch, as a batch of one."""
    return mapped(inputs, lambda tensor: tensor[index].unsqueeze(0))


def concatenated(inputs: list[Inputs]) -> Inputs:
    """Inputs of the same form joined along the batch."""
    columns = zip(*map(tensors_of, inputs), strict=True)
    joined = iter([torch.cat(column) for column in columns])
    return mapped(inputs[0], lambda _: next(joined))


def split(answer: Any, sizes: list[int]) -> list[Any]:
    """The parts of a joined answer that belong to each input.

    Raises:
        RuntimeError: The answer's first dimension is not the batch.
    """
    starts = np.cumsum([0, *sizes])
    if any(tensor.shape[:1] != (starts[-1],) for tensor in flat_outputs(answer)):
        raise RuntimeError("the first dimension of the answer is not the batch")
    return [
        map_tensors(answer, lambda tensor, a=a, b=b: tensor[a:b].clone())  # type: ignore[misc]  # defaults bind now
        for a, b in itertools.pairwise(starts)
    ]


def joined(answers: list[Any], sizes: list[int]) -> Any:
    """Answers to consecutive parts of a batch as one answer.

    Raises:
        InputError: The first dimension of an answer is not the batch.
    """
    if len(answers) == 1:
        return answers[0]
    for answer, size in zip(answers, sizes, strict=True):
        shapes = [tuple(tensor.shape) for tensor in flat_outputs(answer)]
        if any(shape[:1] != (size,) for shape in shapes):
            raise InputError(
                f"The answer to {size} samples has the shapes {shapes}: its first dimension is "
                "not the batch, so parts cannot be joined. Call predict on the whole batch."
            )
    columns = zip(*(flat_outputs(answer) for answer in answers), strict=True)
    joined = iter([torch.cat(column) for column in columns])
    return map_tensors(answers[0], lambda _: next(joined))
