"""TorchScript: legacy in PyTorch, still the fastest for some small modules."""

import warnings
from typing import Any

import torch
from torch import nn

from modelyard.inference_optimizer.backends.base import Backend, on_device
from modelyard.torchtools.inputs import Inputs, call, tensors_of


def make_torchscript(model: nn.Module, example: Inputs, device: torch.device) -> Backend:
    """The module traced and frozen."""
    traced_on = tuple(tensors_of(on_device(example, device)))
    names = list(example) if isinstance(example, dict) else None
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # its deprecation is known; what it computes is checked
        if names is not None:
            kwargs = dict(zip(names, traced_on, strict=True))
            traced = torch.jit.trace(model, example_kwarg_inputs=kwargs, check_trace=False)
        else:
            traced = torch.jit.trace(model, traced_on, check_trace=False)
        frozen = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
        for _ in range(2):
            # The first calls profile and compile; later ones only run.
            call(frozen, on_device(example, device))

    def run(inputs: Inputs) -> Any:
        return call(frozen, on_device(inputs, device))

    return Backend(name="torchscript", run=run)
