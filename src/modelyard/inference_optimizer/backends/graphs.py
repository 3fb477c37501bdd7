"""A module written as an ONNX graph, once for all engines that run it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from modelyard.torchtools.conversion import to_runnable
from modelyard.torchtools.inputs import Inputs, call, tensors_of
from modelyard.torchtools.onnx_module import OnnxModule, in_order
from modelyard.torchtools.parity import restructured


@dataclass(frozen=True, kw_only=True)
class Written:
    """A graph, and how inputs and answers of the module fit it.

    Attributes:
        data: The serialised ONNX model.
        answer: An answer of the module, for its structure.
        names: Arguments in the order of the graph's inputs, for a dict of inputs that the graph
            knows under other positions; None where the order is the same.
    """

    data: bytes
    answer: Any
    names: tuple[str, ...] | None = None

    @property
    def is_single(self) -> bool:
        """Whether the module answers with one tensor."""
        return isinstance(self.answer, torch.Tensor)

    def tensors(self, inputs: Inputs) -> list[torch.Tensor]:
        """The inputs in the graph's order."""
        if isinstance(inputs, torch.Tensor):
            return [inputs]
        if self.names is not None and isinstance(inputs, dict):
            return [inputs[name] for name in self.names]
        return tensors_of(inputs)

    def structured(self, outputs: list[torch.Tensor]) -> Any:
        """The graph's outputs as the module answers."""
        return outputs[0] if self.is_single else restructured(self.answer, outputs)


def written(model: nn.Module, example: Inputs) -> Written:
    """The module as a verified graph; an `OnnxModule`'s own.

    Raises:
        ConversionError: No graph gives its answers.
    """
    data = to_runnable(model, example).data
    answer = call(model, example)
    names = None
    if isinstance(model, OnnxModule) and isinstance(example, dict):
        order = in_order(example, model.session)
        by_tensor = {id(tensor): name for name, tensor in example.items()}
        names = tuple(by_tensor[id(tensor)] for tensor in order)
    return Written(data=data, answer=answer, names=names)
