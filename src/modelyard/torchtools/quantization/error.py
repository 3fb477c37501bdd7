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
# Of many channels, those hardly vary that vary by less than this, beside the median one and beside
# their own size. Trained embeddings are far from it: of 128 channels the least vary by a fifth.
_HARDLY_OF_OTHERS = 3e-4
_HARDLY_OF_SIZE = 1e-2
_SHARE_OF_OUTLIERS = 0.01
_FEWEST_FOR_OUTLIERS = 20
# Without the outliers a channel is looked at again where less than this of its variation is left.
_LEFT_BY_OUTLIERS = 0.5
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

    It is taken for each channel, and the worst counts: a price must not hide a signal that is a
    thousand times smaller. Channels lie along the second or the last axis, so of answers of three
    and more dimensions it is taken along both. Of more than 64 channels those do not count that
    hardly vary, beside the others and beside their own size, as some of an embedding's. The
    variation is the norm of a channel about its mean over the samples: an error that is small
    beside a price of 1,000 may be all there is to know about its change of 1. A channel that does
    not vary is compared with its own size.

    Nor may a few samples hide the others: where the hundredth of the samples that lie farthest
    out holds most of a channel's variation, its error is taken without them as well.

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
    expected, actual = want.detach().cpu().double(), got.detach().cpu().double()
    is_fixed = _fills(expected) | ~expected.isfinite()
    is_met = (expected == actual) | (expected.isnan() & actual.isnan())
    gap = torch.where(is_met, torch.zeros_like(expected), expected - actual)
    if not bool(gap.isfinite().all()) or bool((is_fixed & ~is_met).any()):
        return math.inf
    present = torch.where(is_fixed, torch.zeros_like(expected), expected)
    usual = _usual_samples(present)
    axes = sorted({1, want.ndim - 1}) if want.ndim > 1 else [0]
    return max(_worst_along(axis, gap, present, is_fixed, usual, is_real=is_real) for axis in axes)


def _worst_along(
    axis: int,
    gap: torch.Tensor,
    values: torch.Tensor,
    is_fixed: torch.Tensor,
    usual: torch.Tensor | None,
    *,
    is_real: bool,
) -> float:
    """The largest error of a channel where the channels lie along `axis`."""
    spread = _Spread.of(_by_channel(values, axis), _by_channel(is_fixed, axis))
    errors = _by_channel(gap, axis).norm(dim=0) / spread.scales(is_real=is_real)
    counts = ~spread.hardly_varies
    worst = float(errors[counts].max())
    if usual is None:
        return worst
    rest = _Spread.of(_by_channel(values[usual], axis), _by_channel(is_fixed[usual], axis))
    counts &= rest.does_vary & (rest.variation < _LEFT_BY_OUTLIERS * spread.variation)
    if not bool(counts.any()):
        return worst
    errors = _by_channel(gap[usual], axis).norm(dim=0) / rest.scales(is_real=is_real)
    return max(worst, float(errors[counts].max()))


def _by_channel(values: torch.Tensor, axis: int) -> torch.Tensor:
    """The values as (samples and positions, channels)."""
    if values.ndim < 2:  # noqa: PLR2004 - a vector has one channel
        return values.reshape(-1, 1)
    return values.movedim(axis, -1).reshape(-1, values.shape[axis])


def _usual_samples(values: torch.Tensor) -> torch.Tensor | None:
    """Places of all samples but the hundredth that lies farthest out; None of few samples."""
    n = len(values)
    if n < _FEWEST_FOR_OUTLIERS:
        return None
    flat = values.reshape(n, -1)
    away = (flat - flat.mean(dim=0)).abs_()
    # Each number in its own unit: a signal's outlier is small beside a price.
    farthest = (away / away.mean(dim=0).clamp_min(torch.finfo(away.dtype).tiny)).amax(dim=1)
    n_usual = n - math.ceil(_SHARE_OF_OUTLIERS * n)
    return farthest.argsort()[:n_usual].sort().values


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


@dataclass(frozen=True)
class _Spread:
    """How large channels are, and how much they vary.

    Attributes:
        size: Norm of each channel.
        variation: Norm of each about its mean.
    """

    size: torch.Tensor
    variation: torch.Tensor

    @classmethod
    def of(cls, values: torch.Tensor, is_fixed: torch.Tensor) -> "_Spread":
        """Of values as `_by_channel` gives them, 0 where they are fixed and count for nothing."""
        mean = values.sum(dim=0) / (~is_fixed).sum(dim=0).clamp_min(1)
        about_mean = torch.where(is_fixed, torch.zeros_like(values), values - mean)
        return cls(size=values.norm(dim=0), variation=about_mean.norm(dim=0))

    @property
    def does_vary(self) -> torch.Tensor:
        """Which channels vary by more than rounding."""
        return self.variation > _SMALLEST_VARIATION * self.size

    @property
    def hardly_varies(self) -> torch.Tensor:
        """Which of many channels hardly vary, beside the others and beside their own size."""
        if len(self.size) <= _MANY_CHANNELS:
            return torch.zeros_like(self.size, dtype=torch.bool)
        is_least = self.variation < _HARDLY_OF_OTHERS * self.variation.median()
        return is_least & (self.variation < _HARDLY_OF_SIZE * self.size)

    def scales(self, *, is_real: bool) -> torch.Tensor:
        """What each channel's error is relative to; never 0."""
        scale = self.variation
        if not is_real:
            scale = torch.minimum(self.size, _LARGEST_SIZE * self.variation)
        scale = torch.where(self.does_vary, scale, self.size)
        # A channel that is always 0 has nothing of its own to be compared with.
        whole = float(self.variation.norm()) / max(1, len(scale)) ** 0.5
        return torch.where(scale > 0, scale, torch.full_like(scale, whole or 1.0))


def _joined(parts: Any) -> torch.Tensor:
    tensors = [part.cpu() for part in parts]
    if all(tensor.ndim == 0 for tensor in tensors):
        return torch.stack(tensors)
    shapes = {tensor.shape[1:] for tensor in tensors}
    if len(shapes) == 1:
        return torch.cat(tensors)
    return torch.cat([tensor.reshape(-1) for tensor in tensors])  # lengths that vary by batch
