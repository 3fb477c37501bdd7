"""Inputs on which engines are known to answer otherwise than PyTorch.

NaN through a clamp, infinities, an index outside its table, whole numbers beyond 32 bits: rare in
the example, not in what a model is asked over the years.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from modelyard.inference_optimizer.backends import LARGEST
from modelyard.torchtools.inputs import Inputs, mapped, synthetic_like, tensors_of, with_batch

# What ends below `LARGEST`, float16, gets what it can hold.
_LARGE_HALF = 1e4
# Beyond 32 bits, and zero in none of the ways to cut it to them.
_WIDE = 2**33 + 12_345
# Large for an index or a count, small for memory.
_MODEST = 2**16


@dataclass(frozen=True, kw_only=True)
class HardInput:
    """An input that engines differ on.

    Attributes:
        inputs: The input.
        is_beyond_half: Whether its values are more than float16 can hold.
    """

    inputs: Inputs
    is_beyond_half: bool = False


def nan_input(example: Inputs, n: int) -> list[HardInput]:
    """The example with NaN once in the first row and all over the second; none without floats."""
    found = _with_first(example, n, _is_inexact, float("nan"))
    for one in found:
        for tensor in filter(_is_inexact, tensors_of(one.inputs)):
            tensor[1:2] = float("nan")
    return found


def extreme_inputs(example: Inputs, n: int, *, seed: int) -> list[HardInput]:
    """Infinities, zeros and large values in place of the example's floats; none without floats.

    Args:
        example: An input; what is no float in it stays.
        n: Batch size.
        seed: Of the large values.
    """
    if not any(map(_is_inexact, tensors_of(example))):
        return []
    own = with_batch(example, n)

    def changed(change: Callable[[torch.Tensor], torch.Tensor]) -> Inputs:
        return mapped(own, lambda tensor: change(tensor) if _is_inexact(tensor) else tensor)

    normal = iter(tensors_of(synthetic_like(own, n, seed=seed)))
    large = mapped(own, lambda tensor: _enlarged(next(normal), tensor))
    return [
        *_with_first(example, n, _is_inexact, float("inf")),
        *_with_first(example, n, _is_inexact, float("-inf")),
        HardInput(inputs=changed(torch.zeros_like)),
        HardInput(inputs=large, is_beyond_half=True),
    ]


def integer_inputs(example: Inputs, n: int, run: Callable[[Inputs], Any]) -> list[HardInput]:
    """A whole number below the example's and below 0, and one beyond 32 bits; none without any.

    The second is left out where the module's memory grows with its values: it would take all.

    Args:
        example: An input; what is no whole number in it stays.
        n: Batch size.
        run: The module, on the CPU: on a GPU an index outside its table ends all that runs there.
    """
    integers = [tensor for tensor in tensors_of(example) if _is_integer(tensor)]
    if not integers or any(tensor.numel() == 0 for tensor in integers):
        return []
    lowest = min(int(tensor.min()) for tensor in integers)
    low = _with_first(example, n, _is_integer, min(lowest, 0) - 1)
    modest, own = _with_first(example, n, _is_integer, _MODEST), with_batch(example, n)
    if any(_largest(run, one.inputs) > _largest(run, own) for one in modest):
        return [*low, *modest]
    return [*low, *_with_first(example, n, _is_integer, _WIDE)]


def _with_first(
    example: Inputs, n: int, is_meant: Callable[[torch.Tensor], bool], value: float
) -> list[HardInput]:
    """The example with the first value of the tensors meant changed; none where there are none."""
    if not any(is_meant(tensor) and tensor.numel() for tensor in tensors_of(example)):
        return []

    def changed(tensor: torch.Tensor) -> torch.Tensor:
        if is_meant(tensor) and tensor.numel():
            tensor[(0,) * tensor.ndim] = _held(value, tensor.dtype)
        return tensor

    return [HardInput(inputs=mapped(with_batch(example, n), changed))]


def _held(value: float, dtype: torch.dtype) -> float:
    """The value, or the nearest that `dtype` holds."""
    if dtype.is_floating_point or dtype.is_complex:
        return value
    limits = torch.iinfo(dtype)
    return max(limits.min, min(limits.max, int(value)))


def _enlarged(normal: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    if not _is_inexact(own):
        return own
    size = _LARGE_HALF if own.dtype == torch.float16 else LARGEST
    return normal.clamp(-1.0, 1.0) * size


def _is_inexact(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _is_integer(tensor: torch.Tensor) -> bool:
    return not _is_inexact(tensor) and tensor.dtype != torch.bool


def _largest(run: Callable[[Inputs], Any], inputs: Inputs) -> int:
    """Elements of the largest tensor of a call, whether or not it ends well."""
    with _Largest() as largest, suppress(Exception):  # what it held until then counts
        run(inputs)
    n_elements: int = largest.n_elements
    return n_elements


class _Largest(TorchDispatchMode):
    """Notes the size of the largest tensor an operator gives."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as PyTorch has it
        self.n_elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        answer = func(*args, **(kwargs or {}))
        sizes = [tensor.numel() for tensor in tensors_of(answer)]
        self.n_elements = max([self.n_elements, *sizes])
        return answer
