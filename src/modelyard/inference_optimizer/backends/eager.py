"""PyTorch as it is, and with reduced precision."""

import copy
from typing import Any

import torch
from torch import nn

from modelyard.inference_optimizer.backends.base import Backend
from modelyard.torchtools.inputs import Inputs, call, mapped
from modelyard.torchtools.parity import map_tensors


def make_eager(model: nn.Module, _: Inputs, device: torch.device) -> Backend:
    """The module itself."""

    def run(inputs: Inputs) -> Any:
        return call(model, on_device(inputs, device))

    return Backend(name="eager", run=run)


def make_bfloat16(model: nn.Module, _: Inputs, device: torch.device) -> Backend:
    """Weights cast to bfloat16 once; inputs and outputs stay as they are."""
    cast = copy.deepcopy(model).to(torch.bfloat16)

    def run(inputs: Inputs) -> Any:
        lowered = mapped(on_device(inputs, device), _to_bfloat16)
        return map_tensors(call(cast, lowered), _to_float32)

    return Backend(name="bfloat16", run=run)


def make_autocast(model: nn.Module, _: Inputs, device: torch.device) -> Backend:
    """Mixed precision on a GPU: float16 where PyTorch deems it safe."""

    def run(inputs: Inputs) -> Any:
        with torch.autocast(device.type, dtype=torch.float16):
            return map_tensors(call(model, on_device(inputs, device)), _to_float32)

    return Backend(name="autocast", run=run)


def on_device(inputs: Inputs, device: torch.device) -> Inputs:
    """The inputs on `device`; no copy where they are there already."""
    return mapped(inputs, lambda tensor: tensor.to(device))


def _to_bfloat16(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.bfloat16) if tensor.is_floating_point() else tensor


def _to_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.dtype in {torch.bfloat16, torch.float16} else tensor
