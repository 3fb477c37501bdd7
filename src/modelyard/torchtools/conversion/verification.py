"""Whether what was written answers as the module does, over many inputs and sizes."""

import copy
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from modelyard._core.errors import ConversionError
from modelyard.torchtools.conversion.interface import Interface
from modelyard.torchtools.conversion.samples import Sample
from modelyard.torchtools.inputs import answer_of
from modelyard.torchtools.parity import Difference, difference, flat_outputs

# Right conversions stay below 1.3e-6 absolute on outputs of size 1; frozen branches and batches
# are off by the size of the output.
RTOL = 1e-4
ATOL = 1e-5
# Two computations that round independently differ by a few times what one is off.
_NOISE = 8.0
_SHIFT = 1e-6

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
    """How little the module's own answers can be relied on, for each output.

    The distance from those of a copy in double precision; and from those to an input that differs
    by a millionth, where ties are broken in another way.
    """
    copies: list[nn.Module | None] = []

    def errors(sample: Sample) -> list[float]:
        if not copies:
            try:
                copies.append(copy.deepcopy(model).double())
            except Exception:  # noqa: BLE001 - whatever a class's own copying raises
                copies.append(None)
        exact = _own_errors(copies[0], interface, sample)
        nearby = _own_errors(model, interface, sample, shift=_SHIFT)
        return [max(pair) for pair in zip(exact, nearby, strict=True)]

    return errors


def _own_errors(
    exact: nn.Module | None, interface: Interface, sample: Sample, *, shift: float = 0.0
) -> list[float]:
    """Distance from the answers of `exact`, in double or, with a shift, in the module's own."""
    none = [0.0] * len(sample.expected)
    if exact is None:
        return none
    generator = torch.Generator().manual_seed(9)
    inputs = [tensor.clone() for tensor in sample.inputs]
    for index, tensor in enumerate(inputs):
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator).to(tensor)
            inputs[index] = tensor + shift * noise if shift else tensor.double()
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
