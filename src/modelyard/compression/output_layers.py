"""Which layers make the outputs: their channels are the outputs', and none may go.

Found by walking back from each output through what autograd has recorded, to the nearest layers.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from modelyard.torchtools.inputs import Inputs, answer_of, copied_for
from modelyard.torchtools.parity import flat_outputs

_LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Bilinear,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RNNCellBase,
)
# Products that no layer has made, such as by a parameter: beyond them channels are others.
_PRODUCTS = ("AddmmBackward", "MmBackward", "MvBackward", "LinearBackward", "ConvolutionBackward")


def output_layers(model: nn.Module, example: Inputs) -> list[str]:
    """Names of the layers whose channels become those of an output.

    An output without a gradient, such as an argmax, is taken to come from the layer that runs
    last.

    Args:
        model: Any module; not changed.
        example: An input it runs on.
    """
    traced = with_gradients(copy.deepcopy(model).eval())
    made_by: dict[Any, str] = {}  # the graph's nodes, kept alive: their identity counts
    order: list[str] = []

    def note(name: str, output: Any) -> None:
        order.append(name)
        for tensor in flat_outputs(output):
            if tensor.grad_fn is not None:
                made_by.setdefault(tensor.grad_fn, name)

    for name, module in traced.named_modules():
        if isinstance(module, _LAYERS):
            module.register_forward_hook(lambda _, __, output, name=name: note(name, output))
    outputs = answer_with_gradients(traced, example)
    found = [name for tensor in outputs for name in _makers(tensor, made_by)]
    if any(tensor.grad_fn is None for tensor in outputs):
        found += order[-1:]
    return list(dict.fromkeys(found))


def last_layer(model: nn.Module) -> list[str]:
    """The last layer in the order of the modules: the best guess where nothing can be run."""
    return [name for name, module in model.named_modules() if isinstance(module, _LAYERS)][-1:]


def _makers(output: torch.Tensor, made_by: dict[Any, str]) -> Iterator[str]:
    ahead: list[Any] = [output.grad_fn]
    seen: set[Any] = set()
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node in made_by:
            yield made_by[node]
        elif not node.name().startswith(_PRODUCTS):
            ahead += [before for before, _ in node.next_functions]


def with_gradients(model: nn.Module) -> nn.Module:
    """The same module, in which every parameter takes gradients: autograd then sees all of it."""
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
    return model


def answer_with_gradients(model: nn.Module, example: Inputs) -> list[torch.Tensor]:
    """The tensors of the model's answer, with the graph that autograd has recorded."""

    @torch.enable_grad()
    def run(*args: Any, **kwargs: Any) -> Any:
        return model(*args, **kwargs)

    return flat_outputs(answer_of(run, copied_for(model, example)))
