"""torch.compile: minutes of compiling for some models, so only where it is asked for."""

from typing import Any

import torch
from torch import nn

from modelyard.inference_optimizer.backends.base import Backend, on_device
from modelyard.torchtools.inputs import Inputs, call


def make_compiled(model: nn.Module, example: Inputs, device: torch.device) -> Backend:
    """The module compiled, at the example's size; other batch sizes compile at their first call.

    Raises:
        Exception: Whatever the compiler raises, such as a missing C++ compiler.
    """
    # Sizes stay open: otherwise each batch size would compile anew, up to a limit, then run eager.
    compiled = torch.compile(model, dynamic=True)
    call(compiled, on_device(example, device))

    def run(inputs: Inputs) -> Any:
        return call(compiled, on_device(inputs, device))

    return Backend(name="compile", run=run)
