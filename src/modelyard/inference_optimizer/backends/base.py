"""What a backend is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from modelyard.torchtools.inputs import Inputs


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A way to run one module.

    Attributes:
        name: Its name in results.
        run: From inputs on any device to the module's answer. Safe to call from several threads.
    """

    name: str
    run: Callable[[Inputs], Any]
    run_array: Callable[[Any], Any] | None = None


Maker = Callable[[nn.Module, Inputs, torch.device], Backend]
