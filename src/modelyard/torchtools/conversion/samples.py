"""Inputs of many kinds and sizes, with the module's answers to them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from modelyard._core.errors import InputError
from modelyard.torchtools.conversion.interface import BATCH, Interface, Sizes
from modelyard.torchtools.inputs import Inputs, answer_of, mapped, tensors_of
from modelyard.torchtools.layers import MB, size_bytes
from modelyard.torchtools.parity import flat_outputs

BATCHES = (1, 2, 3, 8)
_LARGE_BATCHES = (33, 130)
_LARGEST_SIZE = 4096
# A model of this size and more is spared what takes longest.
_HEAVY_BYTES = 20 * MB
_LARGE = 10.0


@dataclass(frozen=True, kw_only=True)
class Sample:
    """An input and what the module answers to it.

    Attributes:
        kind: "example", "normal", "large", "negative", "zero", "missing" (NaN among the numbers;
            only where the module answers with numbers all the same), "repeated" (whole numbers
            all equal), "extreme" (whole numbers far apart) or "given".
        sizes: The sizes that vary, by name.
        inputs: The input's tensors, in order.
        expected: The answer's tensors, in order.
    """

    kind: str
    sizes: Sizes
    inputs: list[torch.Tensor]
    expected: list[torch.Tensor]

    @property
    def is_made_up(self) -> bool:
        """Whether the input may be one that the model was never meant for."""
        return self.kind not in {"example", "given"}

    def __str__(self) -> str:
        sizes = ", ".join(
            f"{'batch' if name == BATCH else name} {size}" for name, size in self.sizes.items()
        )
        return f"{self.kind} input" + (f" at {sizes}" if sizes else "")


def samples_of(
    model: nn.Module,
    interface: Interface,
    given: Sequence[Inputs] = (),
    *,
    sees_to_missing: bool = False,
) -> list[Sample]:
    """Inputs of every kind and size with the module's answers, in the mode it is in.

    Made-up inputs that the module itself refuses are left out.

    Args:
        model: The module.
        interface: Its inputs.
        given: The user's own inputs, each of any size that may vary.
        sees_to_missing: Whether missing values are among what it is meant for.

    Raises:
        InputError: One of `given` does not fit.
    """
    is_heavy = size_bytes(model) > _HEAVY_BYTES
    samples = [
        sample
        for kind, sizes, inputs in _inputs(interface, is_heavy=is_heavy)
        if kind != "missing" or sees_to_missing
        if (sample := _answered(model, kind, sizes, inputs, interface)) is not None
    ]
    for index, one in enumerate(given):
        inputs = _in_order(one, interface.example)
        sizes = _sizes_of(inputs, interface, index)
        sample = _answered(model, "given", sizes, inputs, interface)
        if sample is None:
            raise InputError(f"{type(model).__name__} does not run on sample {index} given.")
        samples.append(sample)
    return samples


def _inputs(interface: Interface, *, is_heavy: bool) -> Iterator[tuple[str, Sizes, Inputs]]:
    for sizes in _batch_sizes(interface):
        resized = interface.resized(sizes)
        yield "example", sizes, resized
        yield "normal", sizes, _imitated(resized, seed=1)
        yield "large", sizes, _imitated(resized, seed=2, scale=_LARGE)
        yield "negative", sizes, mapped(_imitated(resized, seed=3), _negative)
        yield "zero", sizes, mapped(resized, torch.zeros_like)
        yield "missing", sizes, mapped(_imitated(resized, seed=6), _missing)
        if any(_is_whole(tensor) for tensor in tensors_of(resized)):
            yield "repeated", sizes, mapped(_imitated(resized, seed=5), _repeated)
            if all(tensor.device.type == "cpu" for tensor in tensors_of(resized)):
                # Elsewhere an index out of range ends the process's use of the device.
                yield "extreme", sizes, mapped(_imitated(resized, seed=7), _extreme)
    for sizes in _other_sizes(interface, is_heavy=is_heavy):
        yield "normal", sizes, _imitated(interface.resized(sizes), seed=4)


def _batch_sizes(interface: Interface) -> list[Sizes]:
    if interface.batch is None:
        return [interface.sizes]
    return [{**interface.sizes, interface.batch: n} for n in BATCHES]


def _other_sizes(interface: Interface, *, is_heavy: bool) -> Iterator[Sizes]:
    """Sizes far from the example's: a loop or a branch over a size shows there, if anywhere."""
    for name, size in interface.sizes.items():
        if name == interface.batch:
            others: tuple[int, ...] = _LARGE_BATCHES[:1] if is_heavy else _LARGE_BATCHES
        else:
            others = (1, size // 2, size - 1, size + 1, 2 * size + 1)
            others += (5 * size + 3,) if size <= _LARGEST_SIZE // 5 and not is_heavy else ()
        for other in dict.fromkeys(others):
            if 0 < other != size:
                yield {**interface.sizes, name: other}


def _imitated(inputs: Inputs, *, seed: int, scale: float = 1.0) -> Inputs:
    """Made-up values in the shapes of `inputs`: floats normal, integers drawn from its own."""
    generator = torch.Generator().manual_seed(seed)

    def imitate(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype == torch.bool:
            made = torch.randint(0, 2, tensor.shape, generator=generator, dtype=torch.bool)
        elif tensor.is_floating_point():
            made = (torch.randn(tensor.shape, generator=generator) * scale).to(tensor.dtype)
        else:
            values = tensor.reshape(-1).cpu()
            made = values[torch.randint(0, values.numel(), tensor.shape, generator=generator)]
        return made.to(tensor.device)

    return mapped(inputs, imitate)


def _missing(tensor: torch.Tensor) -> torch.Tensor:
    """Every third number missing."""
    if not tensor.is_floating_point():
        return tensor
    holes = (torch.arange(tensor.numel(), device=tensor.device) % 3 == 0).reshape(tensor.shape)
    return tensor.masked_fill(holes, math.nan)


def _is_whole(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() and tensor.dtype != torch.bool


def _repeated(tensor: torch.Tensor) -> torch.Tensor:
    """One whole number everywhere: places written to twice, rows looked up twice."""
    return torch.full_like(tensor, int(tensor.reshape(-1)[0])) if _is_whole(tensor) else tensor


def _negative(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_floating_point():
        return -tensor.abs()
    return -1 - tensor if _is_whole(tensor) and tensor.dtype != torch.uint8 else tensor


def _extreme(tensor: torch.Tensor) -> torch.Tensor:
    """Whole numbers from a quarter of what their type holds, 2^40 at the most, of both signs."""
    if not _is_whole(tensor):
        return tensor
    limits = torch.iinfo(tensor.dtype)
    high = min(limits.max // 4, 2**40)
    low = max(limits.min // 4, -high)
    generator = torch.Generator().manual_seed(8)
    return torch.randint(low, high, tensor.shape, generator=generator, dtype=tensor.dtype)


def _answered(
    model: nn.Module, kind: str, sizes: Sizes, inputs: Inputs, interface: Interface
) -> Sample | None:
    tensors = tensors_of(inputs)
    try:
        # A copy: forward may write into its input.
        answer = answer_of(model, mapped(inputs, torch.Tensor.clone))
        expected = [tensor.cpu() for tensor in flat_outputs(answer)]
    except Exception as error:
        if kind == "example" and (interface.batch == BATCH or sizes == interface.sizes):
            told = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise InputError(
                f"{type(model).__name__} itself does not run on the example at {told}: "
                f"{type(error).__name__}: {error}. dynamic_axes={{}} fixes every size."
            ) from error
        return None
    if kind == "missing" and not all(_is_finite(tensor) for tensor in expected):
        return None  # what NaN gives is up to each runtime, unless the module sees to it
    return Sample(kind=kind, sizes=sizes, inputs=tensors, expected=expected)


def _is_finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _in_order(inputs: Inputs, example: Inputs) -> Inputs:
    """A dict in the order of the example's names."""
    if isinstance(inputs, dict) and isinstance(example, dict) and inputs.keys() == example.keys():
        return {name: inputs[name] for name in example}
    return inputs


def _sizes_of(inputs: Inputs, interface: Interface, index: int) -> dict[str, int]:
    tensors = tensors_of(inputs)
    example = tensors_of(interface.example)
    if len(tensors) != len(example):
        raise InputError(f"Sample {index} has {len(tensors)} tensors; {len(example)} are needed.")
    sizes: dict[str, int] = {}
    for name, like, tensor, by_axis in zip(
        interface.inputs, example, tensors, interface.axes_of_inputs(), strict=True
    ):
        fits = tensor.ndim == like.ndim and all(
            axis in by_axis or tensor.shape[axis] == like.shape[axis] for axis in range(like.ndim)
        )
        if not fits or tensor.dtype != like.dtype:
            raise InputError(
                f"Sample {index} has {name} of {tuple(tensor.shape)} {tensor.dtype}; the example "
                f"has {tuple(like.shape)} {like.dtype}."
            )
        sizes |= {symbol: int(tensor.shape[axis]) for axis, symbol in by_axis.items()}
    return sizes
