"""Whether what was written answers as the module does, over many inputs and sizes."""

import copy
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from modelyard._core.errors import ConversionError, InputError
from modelyard.torchtools.conversion.interface import BATCH, Interface, Sizes
from modelyard.torchtools.inputs import Inputs, answer_of, mapped, tensors_of
from modelyard.torchtools.layers import MB, size_bytes
from modelyard.torchtools.parity import Difference, difference, flat_outputs

# Right conversions stay below 1.3e-6 absolute on outputs of size 1; frozen branches and batches
# are off by the size of the output.
RTOL = 1e-4
ATOL = 1e-5
BATCHES = (1, 2, 3, 8)
_LARGE_BATCHES = (33, 130)
_LARGEST_SIZE = 4096
# A model of this size and more is spared what takes longest.
_HEAVY_BYTES = 20 * MB
_LARGE = 10.0
# Two computations that round independently differ by a few times what one is off.
_NOISE = 8.0

Run = Callable[[list[torch.Tensor]], list[torch.Tensor]]


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """How far an output may be off.

    Attributes:
        rtol: Part of the output's largest value.
        atol: Besides that.
    """

    rtol: float
    atol: float


# A few units of the last place of each type, carried through some dozens of layers.
_BOUNDS = {
    torch.float64: Bounds(rtol=1e-9, atol=1e-10),
    torch.float32: Bounds(rtol=RTOL, atol=ATOL),
    torch.float16: Bounds(rtol=1e-2, atol=1e-3),
    torch.bfloat16: Bounds(rtol=5e-2, atol=5e-3),
}
EXACT = Bounds(rtol=0.0, atol=0.0)
ANY = Bounds(rtol=0.0, atol=sys.float_info.max)


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


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was compared.

    Attributes:
        n_samples: Inputs that both answered.
        kinds: Kinds of input among them.
        sizes: Sizes seen, by name of what varies.
        max_abs_diff: Largest difference of an output.
    """

    n_samples: int
    kinds: tuple[str, ...]
    sizes: dict[str, tuple[int, ...]]
    max_abs_diff: float


class MismatchError(ConversionError):
    """The answers differ.

    Attributes:
        is_size: Whether a size was frozen, rather than values being off.
    """

    def __init__(self, message: str, *, is_size: bool) -> None:
        super().__init__(message)
        self.is_size = is_size


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


def compared(
    run: Run,
    samples: Sequence[Sample],
    interface: Interface,
    *,
    lowest: torch.dtype | None,
    own_errors: Callable[[Sample], list[float]] | None = None,
) -> Verification:
    """Every sample through `run`; the differences found.

    Args:
        run: What was written: tensors in a row to tensors in a row.
        samples: What the module answered.
        interface: Names of the outputs.
        lowest: The least precise floating dtype that either computes in. None: only shapes count.
        own_errors: How far each of the module's outputs on a sample is from the exact one. On
            made-up inputs a difference of that size is no fault of the graph's.

    Raises:
        MismatchError: A sample it fails on, or differs on by more than the bounds; the worst.
    """
    worst: tuple[float, str, bool] | None = None
    largest = 0.0
    for sample in samples:
        actual = _ran(run, sample, is_other_size=dict(sample.sizes) != dict(interface.sizes))
        if len(actual) != len(sample.expected):
            raise MismatchError(
                f"it answers with {len(actual)} tensors instead of {len(sample.expected)}",
                is_size=False,
            )
        pairs = zip(interface.outputs, sample.expected, actual, strict=True)
        for index, (name, want, got) in enumerate(pairs):
            gap = _gap(want, got, kind=sample.kind)
            bounds = bounds_for(want.dtype, lowest) if lowest else ANY
            excess = gap.max_abs / (bounds.atol + bounds.rtol * gap.scale or 1e-300)
            if excess <= 1.0:
                largest = max(largest, gap.max_abs)
            elif (worst is None or excess > worst[0]) and not _is_noise(
                gap, sample, index, own_errors
            ):
                worst = (excess, _told(name, sample, want, got, gap), want.shape != got.shape)
    if worst is not None:
        raise MismatchError(worst[1], is_size=worst[2])
    return Verification(
        n_samples=len(samples),
        kinds=tuple(dict.fromkeys(sample.kind for sample in samples)),
        sizes={
            name: tuple(sorted({sample.sizes[name] for sample in samples}))
            for name in interface.sizes
        },
        max_abs_diff=largest,
    )


def bounds_for(dtype: torch.dtype, lowest: torch.dtype) -> Bounds:
    """Bounds for an output of `dtype` that was computed in `lowest` at some place."""
    if not dtype.is_floating_point:
        return EXACT
    return max(
        (_BOUNDS.get(kind, _BOUNDS[torch.float32]) for kind in (dtype, lowest)),
        key=lambda bounds: bounds.rtol,
    )


def lowest_dtype(model: nn.Module, samples: Sequence[Sample]) -> torch.dtype:
    """The least precise floating dtype of the module's tensors, inputs and outputs."""
    tensors = [*model.parameters(), *model.buffers()]
    for sample in samples[:1]:
        tensors += [*sample.inputs, *sample.expected]
    kinds = {tensor.dtype for tensor in tensors if tensor.dtype in _BOUNDS}
    return max(kinds, key=lambda kind: _BOUNDS[kind].rtol, default=torch.float32)


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


def _ran(run: Run, sample: Sample, *, is_other_size: bool) -> list[torch.Tensor]:
    try:
        return run([tensor.clone() for tensor in sample.inputs])
    except Exception as error:
        raise MismatchError(
            f"what was written fails on {sample}: {type(error).__name__}: {error}",
            is_size=is_other_size,
        ) from error


def _is_noise(
    gap: Difference,
    sample: Sample,
    index: int,
    own_errors: Callable[[Sample], list[float]] | None,
) -> bool:
    """Whether the module's own rounding explains the gap: where it divides by almost nothing."""
    if not sample.is_made_up or own_errors is None or math.isinf(gap.max_abs):
        return False
    return gap.max_abs <= _NOISE * own_errors(sample)[index]


def own_errors_of(model: nn.Module, interface: Interface) -> Callable[[Sample], list[float]]:
    """Distance of the module's answers from those of a copy in double precision."""
    copies: list[nn.Module | None] = []

    def errors(sample: Sample) -> list[float]:
        if not copies:
            try:
                copies.append(copy.deepcopy(model).double())
            except Exception:  # noqa: BLE001 - whatever a class's own copying raises
                copies.append(None)
        return _own_errors(copies[0], interface, sample)

    return errors


def _own_errors(exact: nn.Module | None, interface: Interface, sample: Sample) -> list[float]:
    none = [0.0] * len(sample.expected)
    if exact is None:
        return none
    inputs = [t.double() if t.is_floating_point() else t.clone() for t in sample.inputs]
    try:
        answers = flat_outputs(answer_of(exact, interface.nested(inputs)))
    except Exception:  # noqa: BLE001 - a user's forward may insist on its dtype
        return none
    if len(answers) != len(none):
        return none
    return [
        _gap(want, got.to(want.dtype), kind=sample.kind).max_abs
        for want, got in zip(sample.expected, answers, strict=True)
    ]


def _gap(want: torch.Tensor, got: torch.Tensor, *, kind: str) -> Difference:
    if want.shape == got.shape and kind not in {"example", "given"}:
        if want.is_floating_point():
            # Where the module itself has no answer, on an input nobody gave, none has to match.
            defined = ~want.isnan()
            want, got = want[defined], got.cpu()[defined]
        elif kind in {"zero", "missing"} and want.dtype != torch.bool:
            got = want  # ranks among equals, or of NaN: any order is right
    return difference(want, got)


def _told(
    name: str, sample: Sample, want: torch.Tensor, got: torch.Tensor, gap: Difference
) -> str:
    if want.shape != got.shape:
        what = f"has shape {tuple(got.shape)} instead of {tuple(want.shape)}"
    else:
        what = f"differs by up to {gap.max_abs:.3g} (size of the output: {gap.scale:.3g})"
    return f"output {name!r} {what} on {sample}"


def runs_on_flat(module: Callable[..., Any]) -> Run:
    """A module that takes tensors in a row, as something to compare."""

    def run(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        with torch.inference_mode():
            return flat_outputs(module(*tensors))

    return run
