"""Structured pruning: channels removed for good, so that size and time really shrink.

torch-pruning follows which tensors must shrink together; here its ratio of channels is chosen so
that the wanted share of parameters goes, and the result is proved by a forward pass.
"""

import copy
import math
import warnings
from collections.abc import Callable, Sequence

import torch
import torch_pruning
from torch import nn

from modelyard._core.errors import ConfigError, InputError
from modelyard.compression import heads
from modelyard.compression.output_layers import (
    answer_with_gradients,
    output_layers,
    with_gradients,
)
from modelyard.compression.pruning import check_amount, find_targets, sparsity
from modelyard.compression.records import PruningStats
from modelyard.torchtools.inputs import Inputs, answer_of, copied_for
from modelyard.torchtools.layers import evaluating, n_parameters
from modelyard.torchtools.parity import flat_outputs
from modelyard.torchtools.silence import settings

_STEPS = 12
_LARGEST_RATIO = 0.98
_WAYS_OUT = (
    "Name the layers there in layers_to_keep, use method='l1_unstructured', or distil a smaller "
    "model."
)
# Modules whose parameters torch-pruning knows how to narrow.
_KNOWN = (
    nn.Linear,
    nn.modules.conv._ConvNd,  # noqa: SLF001 - the one base of every convolution
    nn.modules.batchnorm._NormBase,  # noqa: SLF001 - likewise, of batch and instance norms
    nn.LayerNorm,
    nn.GroupNorm,
    nn.Embedding,
    nn.PReLU,
    nn.MultiheadAttention,
    nn.RNNBase,
)


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
        keep: Layers whose outputs keep their width, besides those that make the outputs.

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
    heads.warn_of_unknown_heads(model, smaller)
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

    The outputs keep their shape. Attention keeps its number of heads, each of which loses the
    same positions; attention with a kdim or vdim of its own keeps its widths. Weights are not
    retrained: fine-tune or distil afterwards.

    Args:
        model: Any module without recurrent layers; not changed.
        example: An input it runs on.
        amount: Share of parameters to remove, 0 to 1. What comes out is the nearest share that
            whole groups of channels can make.
        keep: Names of layers whose outputs must keep their width, besides those that make the
            outputs.

    Raises:
        ConfigError: `amount` outside (0, 1), recurrent layers, which cannot shrink, or layers
            that share a weight and would lose different channels of it.
        InputError: The model's own code fixes widths, so that it does not run when pruned, or no
            channel can go at all.
    """
    check_amount(amount)
    if amount == 0.0:
        raise ConfigError("amount must be in (0, 1), got 0. 0.3 means 30 %.")
    _refuse_recurrent(model)
    shapes = _output_shapes(model, example)
    ignored = {*_modules_of(model, keep or []), *output_layers(model, example)}
    before = n_parameters(model)

    def removed(ratio: float) -> tuple[nn.Module, float]:
        pruned = _pruned(model, example, ratio=ratio, ignored=ignored)
        return pruned, 1.0 - n_parameters(pruned) / before

    smaller = _closest(removed, float(amount))
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


def _modules_of(model: nn.Module, targets: Sequence[str]) -> set[str]:
    """Names of the modules that targets belong to: of projections, the attention around them."""
    attentions = heads.attentions(model)
    around = {name: name.rpartition(".")[0] for name in targets}
    return {inside if inside in attentions else name for name, inside in around.items()}


def _closest(removed: Callable[[float], tuple[nn.Module, float]], amount: float) -> nn.Module:
    """Bisect the ratio of channels; the module whose share of removed parameters is nearest."""
    low, high = 0.0, _LARGEST_RATIO
    best, distance = None, float("inf")
    for _ in range(_STEPS):
        ratio = (low + high) / 2
        pruned, share = removed(ratio)
        if share > 0.0 and abs(share - amount) < distance:
            best, distance = pruned, abs(share - amount)
        low, high = (ratio, high) if share < amount else (low, ratio)
    if best is None:
        raise InputError(
            "No channel can be removed: every layer makes an output, is kept, or is tied to one "
            "that is. Name fewer layers_to_keep, use method='l1_unstructured', or distil a "
            "smaller model."
        )
    return best


def _pruned(model: nn.Module, example: Inputs, *, ratio: float, ignored: set[str]) -> nn.Module:
    shrunk = copy.deepcopy(model).eval()
    trained = {name: p.requires_grad for name, p in shrunk.named_parameters()}
    shared = _shared_parameters(shrunk)
    head_dims = heads.head_dims(shrunk)
    try:
        _remove_channels(with_gradients(shrunk), example, ratio=ratio, ignored=ignored)
    except Exception as error:  # torch-pruning lets through whatever it stumbles over
        raise InputError(
            f"Which channels of {type(model).__name__} depend on each other cannot be followed "
            f"({type(error).__name__}: {error}). {_WAYS_OUT}"
        ) from error
    heads.keep_temperature_(shrunk, head_dims)
    _tie_again(shrunk, shared)
    for name, parameter in shrunk.named_parameters():
        parameter.requires_grad_(trained[name])
    return shrunk


def _remove_channels(
    model: nn.Module, example: Inputs, *, ratio: float, ignored: set[str]
) -> None:
    layers = [module for name, module in model.named_modules() if name in ignored]
    attentions = heads.attentions(model).values()
    layers += [attention for attention in attentions if heads.has_own_widths(attention)]
    n_heads = heads.head_counts(model)
    with settings.lock, warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")  # torch-pruning reports parameters it treats by itself
        pruner = torch_pruning.pruner.BasePruner(
            model,
            example,
            forward_fn=answer_with_gradients,
            # What has no gradient, such as an argmax, cannot be followed.
            output_transform=lambda outputs: [t for t in outputs if t.grad_fn is not None],
            importance=heads.EvenHeads(p=2),
            pruning_ratio=ratio,
            ignored_layers=layers,
            unwrapped_parameters=_free_parameters(model),
            # Widths stay divisible by the heads. (Its num_heads= leaves attention widths alone.)
            round_to=math.lcm(*n_heads) if n_heads else None,
            # Its own defaults are shared by every pruner there is.
            in_channel_groups={},
            out_channel_groups={},
        )
        for group in pruner.step(interactive=True):
            if heads.keeps_heads_even(group):
                group.prune()


def _free_parameters(model: nn.Module) -> list[tuple[nn.Parameter, int]]:
    """Parameters of the user's own modules, such as positions, with the axis of their channels.

    The last axis: torch-pruning's own guess takes the first that is not 1, which for positions
    of shape (1, length, width) is the length, and then leaves the whole width alone.
    """
    return [
        (parameter, parameter.ndim - 1)
        for module in model.modules()
        if not type(module).__module__.startswith("torch.nn.") and not isinstance(module, _KNOWN)
        for parameter in module._parameters.values()  # noqa: SLF001 - parameters() would include those of layers inside
        # A single number has no channels.
        if parameter is not None and parameter.ndim > 0 and parameter.numel() > 1
    ]


def _shared_parameters(model: nn.Module) -> list[list[str]]:
    """Names of the parameters that are one and the same, where modules share it."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [same for same in names.values() if len(same) > 1]


def _tie_again(model: nn.Module, shared: list[list[str]]) -> None:
    """Make parameters one again, each of which has lost its channels by itself.

    Raises:
        ConfigError: They have lost different ones.
    """
    for first, *others in shared:
        kept = model.get_parameter(first)
        for name in others:
            parameter = model.get_parameter(name)
            if parameter is not kept and not torch.equal(parameter, kept):
                raise ConfigError(
                    f"{first} and {name} are one weight, which would lose different channels in "
                    "each place. Use method='l1_unstructured', untie them, or distil a smaller "
                    "model."
                )
            module, _, own_name = name.rpartition(".")
            setattr(model.get_submodule(module), own_name, kept)


def _refuse_recurrent(model: nn.Module) -> None:
    recurrent = nn.RNNBase | nn.RNNCellBase
    names = [name for name, module in model.named_modules() if isinstance(module, recurrent)]
    if names:
        raise ConfigError(
            f"Channels of recurrent layers cannot be removed: {', '.join(names)}. Use "
            "method='l1_unstructured', or distil into a smaller model."
        )


def _output_shapes(model: nn.Module, example: Inputs) -> list[tuple[int, ...]]:
    with evaluating(model):
        return [
            tuple(tensor.shape)
            for tensor in flat_outputs(answer_of(model, copied_for(model, example)))
        ]
