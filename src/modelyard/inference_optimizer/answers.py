"""Answers and inputs put together and taken apart."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from modelyard._core.errors import InputError
from modelyard.inference_optimizer.ordinary import has_array_type, is_ordinary, told
from modelyard.torchtools.inputs import Inputs, mapped, tensors_of
from modelyard.torchtools.parity import flat_outputs, map_tensors


def n_samples(inputs: Inputs) -> int:
    """Samples in an input; 1 for a tensor of one dimension."""
    first = inputs if type(inputs) is torch.Tensor else tensors_of(inputs)[0]
    return int(first.size(0)) if first.ndim > 1 else 1


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

    Types that NumPy does not have, as bfloat16, become float32, or complex64.

    Raises:
        InputError: It is sparse, nested or quantized, for which there is no array.
    """
    plain = value.detach().cpu()
    try:
        # Common enough not to be told by an error, which costs four times as much.
        plain = plain.float() if plain.dtype is torch.bfloat16 else plain
        array: np.ndarray[Any, Any] = plain.numpy()
    except (RuntimeError, TypeError):
        array = _as_numpy_has_it(value).numpy()
    return array.copy()


def _as_numpy_has_it(value: torch.Tensor) -> torch.Tensor:
    if not is_ordinary(value):
        raise InputError(
            f"The answer is {told(value)}, for which there is no array: give a tensor to get it."
        )
    plain = value.detach().cpu().resolve_conj().resolve_neg()
    if has_array_type(plain.dtype):
        return plain
    return plain.to(torch.complex64 if plain.is_complex() else torch.float32)


def parts_of(answer: Any) -> Iterator[Any]:
    """What an answer holds, however nested; None, which stands for nothing, is left out."""
    if isinstance(answer, Mapping):
        items: Iterable[Any] = answer.values()
    elif dataclasses.is_dataclass(answer) and not isinstance(answer, type):
        items = (getattr(answer, field.name) for field in dataclasses.fields(answer))
    elif isinstance(answer, tuple | list):
        items = answer
    else:
        if answer is not None:
            yield answer
        return
    for item in items:
        yield from parts_of(item)


def _can_be_cut(answer: Any) -> bool:
    """Whether it holds only tensors that can be cut, and texts, which are labels of the whole.

    A number or an array may be worked out from the batch, and there is nothing to tell it by.
    """
    return all(
        is_ordinary(part) if isinstance(part, torch.Tensor) else isinstance(part, str | bytes)
        for part in parts_of(answer)
    )


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
    if not _can_be_cut(answer):
        raise RuntimeError("the answer holds something that cannot be cut")
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
    if not _can_be_cut(answers):
        raise InputError(
            "The answers hold more than plain tensors, so parts cannot be joined. Call predict on "
            "the whole batch."
        )
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
