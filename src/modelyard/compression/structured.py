"""Structured pruning: channels removed for good, so that size and time really shrink.

torch-pruning follows which tensors must shrink together; here its ratio of channels is chosen so
that the wanted share of parameters goes, and the result is proved by a forward pass.
"""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch_pruning
from torch import nn

from modelyard._core.errors import ConfigError, InputError
from modelyard.compression.pruning import find_targets, sparsity
from modelyard.compression.records import PruningStats
from modelyard.torchtools.inputs import Inputs, call
from modelyard.torchtools.layers import evaluating, n_parameters
from modelyard.torchtools.parity import flat_outputs

_STEPS = 12
_LARGEST_RATIO = 0.98


def pruned(
    model: nn.Module,
    example: Inputs,
    *,
    amount: float,
    wanted: Sequence[str] | None,
    keep: Sequence[str],
) -> tuple[nn.Module, PruningStats]:
    """A copy of `model` with fewer channels, and what was done.

    Args:
        model: Any module without recurrent layers; not changed.
        example: An input it runs on.
        amount: Share of the parameters to remove.
        wanted: Layers that may shrink, by name or pattern; None for all.
        keep: Layers whose outputs keep their width, besides the last.

    Raises:
        ConfigError, InputError: As `without_channels`; a name that no layer has.
    """
    kept = [target.layer for target in find_targets(model, keep)] if keep else []
    widths = _weights_by_layer(model)
    if wanted is not None:
        chosen = {target.layer for target in find_targets(model, wanted)}
        kept += [name for name in widths if name not in chosen]
    before = n_parameters(model)
    smaller = without_channels(model, example, amount=amount, keep=kept)
    removed = before - n_parameters(smaller)
    now = _weights_by_layer(smaller)
    return smaller, {
        "method": "structured",
        "actual_sparsity": removed / before,
        "model_sparsity": sparsity(smaller),
        "pruned_params": removed,
        "targeted_params": before,
        "total_params": before,
        "per_layer": {name: 1 - now[name] / size for name, size in widths.items()},
    }


def _weights_by_layer(model: nn.Module) -> dict[str, int]:
    return {target.layer: target.weight.numel() for target in find_targets(model, None)}


def without_channels(
    model: nn.Module, example: Inputs, *, amount: float, keep: list[str] | None = None
) -> nn.Module:
    """A copy of `model` with about `amount` of its parameters removed as whole channels.

    The outputs keep their shape. Attention keeps its number of heads. Weights are not retrained:
    fine-tune or distil afterwards.

    Args:
        model: Any module without recurrent layers; not changed.
        example: An input it runs on.
        amount: Share of parameters to remove, 0 to 1. What comes out differs by at most the size
            of one group of channels.
        keep: Names of layers whose outputs must keep their width, besides the last.

    Raises:
        ConfigError: `amount` outside (0, 1), or recurrent layers, which cannot shrink.
        InputError: The model's own code fixes widths, so that it does not run when pruned.
    """
    if not 0.0 < amount < 1.0:
        raise ConfigError(f"amount must be in (0, 1), got {amount}. 0.3 means 30 %.")
    _refuse_recurrent(model)
    shapes = _output_shapes(model, example)
    ignored = {*(keep or []), *_output_layers(model, example)}
    before = n_parameters(model)

    def removed(ratio: float) -> tuple[nn.Module, float]:
        pruned = _pruned(model, example, ratio=ratio, ignored=ignored)
        return pruned, 1.0 - n_parameters(pruned) / before

    smaller = _closest(removed, amount)
    try:
        found = _output_shapes(smaller, example)
    except Exception as error:
        raise InputError(
            f"{type(model).__name__} does not run with fewer channels: {error}. A width is "
            "written into its forward; use method='l1_unstructured', or distil a smaller model."
        ) from error
    if found != shapes:
        raise InputError(
            f"Removing channels changes the output of {type(model).__name__} from {shapes} to "
            f"{found}. Name the layers that make the output in layers_to_keep."
        )
    return smaller


def _closest(removed: Callable[[float], tuple[nn.Module, float]], amount: float) -> nn.Module:
    """Bisect the ratio of channels; the module whose share of removed parameters is nearest."""
    low, high = 0.0, _LARGEST_RATIO
    best, distance = None, float("inf")
    for _ in range(_STEPS):
        ratio = (low + high) / 2
        pruned, share = removed(ratio)
        if abs(share - amount) < distance:
            best, distance = pruned, abs(share - amount)
        low, high = (ratio, high) if share < amount else (low, ratio)
    if best is None or distance > amount / 2:
        raise InputError(
            f"No choice of channels removes {amount:.0%} of the parameters: the layers that may "
            "shrink hold too few of them."
        )
    return best


def _pruned(model: nn.Module, example: Inputs, *, ratio: float, ignored: set[str]) -> nn.Module:
    shrunk = copy.deepcopy(model).eval()
    layers = [module for name, module in shrunk.named_modules() if name in ignored]
    n_heads = [m.num_heads for m in shrunk.modules() if isinstance(m, nn.MultiheadAttention)]
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # torch-pruning reports parameters it treats by itself
        pruner = torch_pruning.pruner.BasePruner(
            shrunk,
            _example_for(example),
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio,
            ignored_layers=layers,
            unwrapped_parameters=_free_parameters(shrunk),
            # Widths stay divisible by the heads. (Its num_heads= leaves attention widths alone.)
            round_to=math.lcm(*n_heads) if n_heads else None,
        )
        pruner.step()
    return shrunk


def _free_parameters(model: nn.Module) -> list[tuple[nn.Parameter, int]]:
    """Parameters of the user's own modules, such as positions, with the axis of their channels.

    The last axis: torch-pruning's own guess takes the first that is not 1, which for positions
    of shape (1, length, width) is the length, and then leaves the whole width alone.
    """
    return [
        (parameter, parameter.ndim - 1)
        for module in model.modules()
        if not type(module).__module__.startswith("torch.nn.")
        for parameter in module._parameters.values()  # noqa: SLF001 - parameters() would include those of layers inside
        if parameter is not None
    ]


def _example_for(example: Inputs) -> Any:
    return example if isinstance(example, torch.Tensor | dict) else tuple(example)


def _refuse_recurrent(model: nn.Module) -> None:
    names = [name for name, module in model.named_modules() if isinstance(module, nn.RNNBase)]
    if names:
        raise ConfigError(
            f"Channels of recurrent layers cannot be removed: {', '.join(names)}. Use "
            "method='l1_unstructured', or distil into a smaller model."
        )


def _output_shapes(model: nn.Module, example: Inputs) -> list[tuple[int, ...]]:
    with evaluating(model):
        return [tuple(tensor.shape) for tensor in flat_outputs(call(model, example))]


def _output_layers(model: nn.Module, example: Inputs) -> list[str]:
    """The layers that run last, one an output: their width is the output's."""
    order: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: order.append(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
    ]
    try:
        _output_shapes(model, example)
    finally:
        for handle in handles:
            handle.remove()
    n_outputs = len(_output_shapes(model, example))
    return order[-n_outputs:]
