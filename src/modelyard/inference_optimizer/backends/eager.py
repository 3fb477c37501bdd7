"""PyTorch as it is, and with reduced precision."""

import copy
from typing import Any

import torch
from torch import nn

from modelyard.inference_optimizer.backends.base import Backend, like, lowered, on_device
from modelyard.torchtools.inputs import Inputs, call
from modelyard.torchtools.parity import flat_outputs

_WEIGHTS_NAMES = {torch.bfloat16: "bfloat16", torch.float16: "float16"}


def make_eager(model: nn.Module, _: Inputs, device: torch.device) -> Backend:
    """The module itself."""

    def run(inputs: Inputs) -> Any:
        return call(model, on_device(inputs, device))

    return Backend(name="eager", run=run)


def make_bfloat16(
    model: nn.Module,
    example: Inputs,
    device: torch.device,
    *,
    dtype: torch.dtype = torch.bfloat16,
) -> Backend:
    """Weights cast once to bfloat16 or float16; inputs and outputs stay as they are."""
    dtypes = _answer_dtypes(model, example, device)
    cast = copy.deepcopy(model).to(dtype)

    def run(inputs: Inputs) -> Any:
        return like(call(cast, lowered(on_device(inputs, device), dtype)), dtypes)

    return Backend(name=_WEIGHTS_NAMES[dtype], run=run)


def make_autocast(
    model: nn.Module,
    example: Inputs,
    device: torch.device,
    *,
    dtype: torch.dtype = torch.bfloat16,
) -> Backend:
    """Mixed precision: `dtype` where PyTorch deems it safe."""
    dtypes = _answer_dtypes(model, example, device)

    def run(inputs: Inputs) -> Any:
        with torch.autocast(device.type, dtype=dtype):
            return like(call(model, on_device(inputs, device)), dtypes)

    return Backend(name="autocast", run=run, settings={"dtype": _WEIGHTS_NAMES[dtype]})


def _answer_dtypes(model: nn.Module, example: Inputs, device: torch.device) -> list[torch.dtype]:
    return [tensor.dtype for tensor in flat_outputs(call(model, on_device(example, device)))]
