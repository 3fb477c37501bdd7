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


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Inputs and what the float model answers to them.

    Attributes:
        inputs: Batches.
        outputs: For each batch, the float model's outputs.
        is_real: Whether the inputs are like those the model is used on. Then errors are relative
            to how much its answers vary; to made-up inputs the answers may hardly vary at all,
            and errors are relative to their size.
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
    return max(
        relative_error(_joined(want), _joined(got), is_centred=is_real) for want, got in pairs
    )


def relative_error(want: torch.Tensor, got: torch.Tensor, *, is_centred: bool = True) -> float:
    """Norm of the difference, relative to how much the wanted answers vary from sample to sample.

    The variation is the norm of the answers about their mean over the samples: an error that is
    small beside a price of 1,000 may be all there is to know about its change of 1. Where the
    answers do not vary, or there is one sample, the norm of the answers themselves is taken.
    Of outputs that are no numbers but labels, such as actions: the share that differs.

    Args:
        want: The float model's answers, shape (n, ...).
        got: Answers of the same shape; of another, the error is infinite.
        is_centred: Whether to take the variation, not the size, as described.
    """
    if want.shape != got.shape:
        return math.inf
    if not want.is_floating_point():
        return float((want.cpu() != got.cpu()).double().mean()) if want.numel() else 0.0
    expected, actual = want.detach().cpu().double(), got.detach().cpu().double()
    # Equal infinities and NaN in both count as equal.
    is_same = (expected == actual) | (expected.isnan() & actual.isnan())
    gap = torch.where(is_same, torch.zeros_like(expected), expected - actual).norm()
    if not bool(gap.isfinite()):
        return math.inf
    finite = torch.where(expected.isfinite(), expected, torch.zeros_like(expected))
    size = float(finite.norm())
    scale = size
    if is_centred and want.ndim:
        variation = float((finite - finite.mean(dim=0, keepdim=True)).norm())
        scale = variation if variation > _SMALLEST_VARIATION * size else size
    return float(gap) / scale if scale else float(gap)


def _joined(parts: Any) -> torch.Tensor:
    tensors = [part.cpu() for part in parts]
    if all(tensor.ndim == 0 for tensor in tensors):
        return torch.stack(tensors)
    shapes = {tensor.shape[1:] for tensor in tensors}
    if len(shapes) == 1:
        return torch.cat(tensors)
    return torch.cat([tensor.reshape(-1) for tensor in tensors])  # lengths that vary by batch
