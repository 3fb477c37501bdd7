"""How far a quantized graph's answers are from the float model's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from modelyard.torchtools.inputs import Inputs, tensors_of
from modelyard.torchtools.onnx_module import make_session, run_session

# An output that varies by less than this share of its size varies by rounding alone.
_SMALLEST_VARIATION = 1e-6
# Of made-up inputs: how many times the variation the size may count for.
_LARGEST_SIZE = 10.0
_MANY_CHANNELS = 64
_OF_MANY = 0.95
_SMALLEST_FILL = 1e3
_FILL_RATIO = 100.0


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Inputs and what the float model answers to them.

    Attributes:
        inputs: Batches.
        outputs: For each batch, the float model's outputs.
        is_real: Whether the inputs are like those the model is used on. Then errors are relative
            to how much its answers vary (see `relative_error`).
    """

    inputs: Sequence[Inputs]
    outputs: Sequence[Sequence[torch.Tensor]]
    is_real: bool = True

    def first(self, n_batches: int) -> "Reference":
        """The same with fewer batches, for what has to be repeated often."""
        return replace(self, inputs=self.inputs[:n_batches], outputs=self.outputs[:n_batches])


def error_of(graph: bytes, reference: Reference) -> float:
    """Largest `relative_error` of an output of the graph."""
    session = make_session(graph)
    answers = [run_session(session, tensors_of(inputs)) for inputs in reference.inputs]
    return error_between(reference.outputs, answers, is_real=reference.is_real)


def error_between(
    wanted: Sequence[Sequence[torch.Tensor]],
    answers: Sequence[Sequence[torch.Tensor]],
    *,
    is_real: bool = True,
) -> float:
    """Largest `relative_error` over the outputs; both hold the outputs of each batch."""
    pairs = zip(zip(*wanted, strict=True), zip(*answers, strict=True), strict=True)
    return max(relative_error(_joined(want), _joined(got), is_real=is_real) for want, got in pairs)


def relative_error(want: torch.Tensor, got: torch.Tensor, *, is_real: bool = True) -> float:
    """Norm of the difference, relative to how much the wanted answers vary from sample to sample.

    It is taken for each channel (the last axis of an answer of two or more dimensions), and the
    worst counts: a price must not hide a signal that is a thousand times smaller. Of more than 64
    channels the 95th percentile counts, as some of an embedding's hardly ever vary. The variation
    is the norm of a channel about its mean over the samples: an error that is small beside a price
    of 1,000 may be all there is to know about its change of 1. A channel that does not vary is
    compared with its own size.

    To made-up inputs the answers may vary far less than to real ones. There a channel's size is
    taken, but no more than ten times its variation.

    Infinities, and fills such as -1e9 for actions that are not allowed (the largest or smallest
    value, of 1,000 or more and a hundred times all others, again and again), have to be met
    exactly and count for nothing else; so does NaN. Of outputs that are no numbers but labels,
    such as actions: the share that differs.

    Args:
        want: The float model's answers, shape (n, ...).
        got: Answers of the same shape; of another, the error is infinite.
        is_real: Whether the inputs are like those the model is used on.
    """
    if want.shape != got.shape:
        return math.inf
    if not want.is_floating_point():
        return float((want.cpu() != got.cpu()).double().mean()) if want.numel() else 0.0
    if want.numel() == 0:
        return 0.0
    expected, actual = _by_channel(want), _by_channel(got)
    is_fixed = _fills(expected) | ~expected.isfinite()
    is_met = (expected == actual) | (expected.isnan() & actual.isnan())
    gap = torch.where(is_met, torch.zeros_like(expected), expected - actual)
    if not bool(gap.isfinite().all()) or bool((is_fixed & ~is_met).any()):
        return math.inf
    errors = gap.norm(dim=0) / _scales(expected, is_fixed, is_real=is_real)
    if len(errors) > _MANY_CHANNELS:
        return float(errors.quantile(_OF_MANY))
    return float(errors.max())


def _by_channel(values: torch.Tensor) -> torch.Tensor:
    """The values as (samples and positions, channels), in double precision."""
    flat = values.detach().cpu().double()
    return flat.reshape(-1, flat.shape[-1] if flat.ndim > 1 else 1)


def _fills(values: torch.Tensor) -> torch.Tensor:
    """Where a value stands for "not allowed"."""
    finite = values[values.isfinite()]
    found = torch.zeros_like(values, dtype=torch.bool)
    if not finite.numel():
        return found
    for extreme in (finite.min(), finite.max()):
        others = finite[finite != extreme].abs()
        is_far = not others.numel() or bool(extreme.abs() > _FILL_RATIO * others.max())
        n_times = int((finite == extreme).sum())
        if n_times > 1 and others.numel() and is_far and bool(extreme.abs() >= _SMALLEST_FILL):
            found |= values == extreme
    return found


def _scales(values: torch.Tensor, is_fixed: torch.Tensor, *, is_real: bool) -> torch.Tensor:
    """What each channel's error is relative to; never 0."""
    present = torch.where(is_fixed, torch.zeros_like(values), values)
    n_present = (~is_fixed).sum(dim=0).clamp_min(1)
    mean = present.sum(dim=0) / n_present
    about_mean = torch.where(is_fixed, torch.zeros_like(values), values - mean)
    size, variation = present.norm(dim=0), about_mean.norm(dim=0)
    does_vary = variation > _SMALLEST_VARIATION * size
    scale = torch.minimum(size, _LARGEST_SIZE * variation) if not is_real else variation
    scale = torch.where(does_vary, scale, size)
    # A channel that is always 0 has nothing of its own to be compared with.
    whole = float(about_mean.norm()) / max(1, len(scale)) ** 0.5
    return torch.where(scale > 0, scale, torch.full_like(scale, whole or 1.0))


def _joined(parts: Any) -> torch.Tensor:
    tensors = [part.cpu() for part in parts]
    if all(tensor.ndim == 0 for tensor in tensors):
        return torch.stack(tensors)
    shapes = {tensor.shape[1:] for tensor in tensors}
    if len(shapes) == 1:
        return torch.cat(tensors)
    return torch.cat([tensor.reshape(-1) for tensor in tensors])  # lengths that vary by batch
