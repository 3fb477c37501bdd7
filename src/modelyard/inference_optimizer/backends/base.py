"""What a backend is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from modelyard.torchtools.inputs import Inputs, mapped
from modelyard.torchtools.parity import map_tensors

Array = np.ndarray[Any, Any]
Settings = Mapping[str, str | int]


@dataclass(frozen=True, kw_only=True)
class Backend:
    """A way to run one module. All its calls are safe from several threads.

    Letting go of it frees what it holds beside the module.

    Attributes:
        name: Its family: "eager", "torchscript", "onnxruntime", ...
        settings: What else it is made with, as `{"graph_level": "all", "threads": 1}`.
        run: From inputs on any device to the module's answer, in the module's structure.
        run_array: The shortest way for one array on the CPU, of the model's own dtype and any
            layout, to one array; None where there is none or the model has several inputs or
            outputs. The answer is the caller's.
        is_usual_only: Whether eager answers in its place where an input holds unusual numbers.
    """

    name: str
    run: Callable[[Inputs], Any]
    settings: Settings = field(default_factory=dict)
    run_array: Callable[[Array], Array] | None = None
    is_usual_only: bool = False


Maker = Callable[[nn.Module, Inputs, torch.device], Backend]


def label_of(name: str, settings: Settings) -> str:
    """A backend's name and settings in words: "onnxruntime (graph_level=all, threads=1)"."""
    told = ", ".join(f"{key}={value}" for key, value in settings.items())
    return f"{name} ({told})" if told else name


def on_device(inputs: Inputs, device: torch.device) -> Inputs:
    """The inputs on `device`; no copy where they are there already."""
    if isinstance(inputs, torch.Tensor):
        # Asking costs less than `to` does when it has nothing to do.
        return inputs if inputs.is_cpu and device.type == "cpu" else inputs.to(device)
    return mapped(inputs, lambda tensor: tensor.to(device))


def lowered(inputs: Inputs, dtype: torch.dtype) -> Inputs:
    """The inputs with floats in `dtype`."""
    return mapped(
        inputs, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor
    )


def like(answer: Any, dtypes: list[torch.dtype]) -> Any:
    """The answer with its tensors, in order, in these dtypes."""
    rest = iter(dtypes)
    return map_tensors(answer, lambda tensor: tensor.to(next(rest)))
