"""Unstructured pruning: which weights become zero. Sizes stay; `structured` removes channels."""

import fnmatch
import logging
import numbers
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.utils import prune

from modelyard._core.errors import ConfigError
from modelyard.compression.records import PruningStats
from modelyard.torchtools.layers import n_parameters, named_parts

_logger = logging.getLogger("modelyard")
_WITH_WEIGHT = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
SCOPES = ("layer", "global")
# From this share of zeros on, a layer is as good as gone.
_ALL_BUT_ZERO = 0.99

Mask = torch.Tensor


@dataclass(frozen=True)
class Target:
    """A weight that may be pruned.

    Attributes:
        layer: Name of the layer that holds it, the first where layers share it.
        weight: The parameter.
        is_embedding: Whether nothing but Embeddings holds it.
        aliases: Names of the other layers that share it.
    """

    layer: str
    weight: torch.Tensor
    is_embedding: bool = False
    aliases: tuple[str, ...] = ()

    def is_meant_by(self, pattern: str) -> bool:
        """Whether one of its names fits a name, a pattern, or the name of a module around it."""
        return any(
            fnmatch.fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")
            for name in (self.layer, *self.aliases)
        )


def find_targets(
    model: nn.Module, wanted: Sequence[str] | None, *, keep: Sequence[str] = ()
) -> list[Target]:
    """Weights of Linear, Conv, attention and recurrent layers; of Embeddings where named.

    Attention keeps its query, key and value projections in parameters that are no layers of their
    own, recurrent layers have several: each is a target under the layer's name, as
    `encoder.self_attn.in_proj` and `lstm.weight_ih_l0`. A weight that layers share counts once,
    and goes by each of their names.

    Args:
        model: The module.
        wanted: Layer names or patterns such as `encoder.*`; None for all.
        keep: Names or patterns of layers to leave out.

    Raises:
        ConfigError: A name that no such layer has, or nothing to prune at all.
    """
    known = all_targets(model)
    if not known:
        raise ConfigError(
            f"{type(model).__name__} has no Linear, Conv, attention or recurrent layer."
        )
    if wanted is None:
        chosen = [target for target in known if not target.is_embedding]
    elif not wanted:
        raise ConfigError("layers_to_prune is empty: pass None for every layer, or name some.")
    else:
        chosen = _named(known, wanted)
    kept = {target.layer for target in _named(known, keep)}
    left = [target for target in chosen if target.layer not in kept]
    if chosen and not left:
        raise ConfigError(
            f"layers_to_keep {list(keep)} leaves nothing to prune of "
            f"{', '.join(target.layer for target in chosen)}. Name fewer."
        )
    return left


def _named(known: Sequence[Target], patterns: Sequence[str]) -> list[Target]:
    chosen: dict[str, Target] = {}
    for pattern in patterns:
        matches = {target.layer: target for target in known if target.is_meant_by(pattern)}
        if not matches:
            names = [name for target in known for name in (target.layer, *target.aliases)]
            raise ConfigError(
                f"No layer {pattern!r} that can be pruned. Layers there are: {', '.join(names)}."
            )
        chosen |= matches
    return list(chosen.values())


def layer_names(
    model: nn.Module, layers: Sequence[Any] | None, *, changed: nn.Module | None = None
) -> list[str] | None:
    """Names of `layers`, each a name, a pattern or a module of `model`; None stays None.

    Args:
        model: The module whose layers are meant.
        layers: The layers.
        changed: A changed copy of it, whose modules are taken as well.

    Raises:
        ConfigError: A module that `model` does not contain.
    """
    if layers is None:
        return None
    if isinstance(layers, str | nn.Module):
        layers = [layers]
    models = [model] if changed is None else [changed, model]
    names = {id(module): name for one in models for name, module in named_parts(one)}
    found = []
    for layer in layers:
        if isinstance(layer, nn.Module):
            if id(layer) not in names:
                raise ConfigError(f"{layer} is no layer of the model the compressor was given.")
            found.append(names[id(layer)])
        else:
            found.append(str(layer))
    return found


def prune_(
    model: nn.Module,
    wanted: Sequence[str] | None,
    *,
    method: str,
    amount: float,
    scope: str,
    seed: int,
    keep: Sequence[str] = (),
) -> tuple[dict[str, Mask], PruningStats]:
    """Set weights of `model` to zero, in place; the masks, and what was done.

    Args:
        model: The module.
        wanted: Layer names or patterns; None for all.
        method: As `masks_for` takes it.
        amount: Share of zeros afterwards.
        scope: "layer" or "global".
        seed: Of random pruning.
        keep: Layers to leave out, by name or pattern.

    Raises:
        ConfigError: A value out of range, an unknown method, scope or layer.
    """
    targets = find_targets(model, wanted, keep=keep)
    masks = masks_for(targets, method=method, amount=amount, scope=scope, seed=seed)
    apply_(model, masks)
    zeros = {t.layer: int((t.weight == 0).sum()) for t in targets}
    shares = {t.layer: _share(zeros[t.layer], t.weight.numel()) for t in targets}
    _warn_of_wiped_out(shares)
    if amount > 0.0 and not any(zeros.values()):
        _logger.warning(
            "Pruning %.3g of %s took nothing: that is less than half of one %s in each. Prune "
            "more, or with method='l1_unstructured'.",
            amount,
            ", ".join(shares),
            "channel" if method == "ln_structured" else "weight",
        )
    targeted = sum(t.weight.numel() for t in targets)
    return masks, {
        "method": method,
        "actual_sparsity": _share(sum(zeros.values()), targeted),
        "model_sparsity": sparsity(model),
        "pruned_params": sum(zeros.values()),
        "targeted_params": targeted,
        "total_params": n_parameters(model),
        "per_layer": shares,
    }


def _share(n: int, of: int) -> float:
    return n / of if of else 0.0  # layers without weights


def combined(old: Mapping[str, Mask], new: Mapping[str, Mask]) -> dict[str, Mask]:
    """Masks that take away what either takes: what has gone once stays gone."""
    both = {name: old[name] * mask for name, mask in new.items() if name in old}
    return {**old, **new, **both}


def masks_of_zeros(model: nn.Module, layers: Collection[str]) -> dict[str, Mask]:
    """Masks that keep the zeros of these layers: their channels have changed, not their names."""
    return {
        t.layer: (t.weight.detach() != 0).to(t.weight.dtype)
        for t in all_targets(model)
        if t.layer in layers
    }


def _warn_of_wiped_out(shares: Mapping[str, float]) -> None:
    gone = [layer for layer, share in shares.items() if share >= _ALL_BUT_ZERO]
    if gone:
        _logger.warning(
            "Pruning left (almost) nothing of %s: answers may be constant. Prune less, or name "
            "them in layers_to_keep.",
            ", ".join(gone),
        )


def check_amount(amount: float) -> None:
    """Refuse what is no share.

    Raises:
        ConfigError: It lies outside [0, 1).
    """
    is_number = isinstance(amount, numbers.Real)  # numpy's too
    if not is_number or not 0.0 <= float(amount) < 1.0:
        raise ConfigError(f"amount must be in [0, 1), got {amount}. 0.3 means 30 %.")


def check_amounts(amounts: Any) -> None:
    """Refuse what is no sequence of shares.

    Raises:
        ConfigError: It is none, or one of them lies outside [0, 1).
    """
    if not isinstance(amounts, Iterable) or isinstance(amounts, str):
        raise ConfigError(f"amounts must be several shares, as (0.3, 0.5); got {amounts!r}.")
    for amount in amounts:
        check_amount(amount)


def gradual_shares(amount: float, steps: int) -> list[float]:
    """The share taken after each of `steps` steps: much at first, ever less (Zhu and Gupta, 2017).

    Args:
        amount: Share in the end.
        steps: How many.
    """
    return [amount * (1.0 - (1.0 - step / steps) ** 3) for step in range(1, steps + 1)]


def masks_for(
    targets: Sequence[Target], *, method: str, amount: float, scope: str, seed: int
) -> dict[str, Mask]:
    """For each target by name, ones where a weight stays and zeros where it goes.

    `amount` is the share of zeros afterwards, those of earlier steps included.

    Raises:
        ConfigError: An amount outside [0, 1), an unknown method or scope.
    """
    check_amount(amount)
    if method not in METHODS:
        known = ", ".join([*METHODS, "structured"])
        raise ConfigError(f"method {method!r} is not one of {known}.")
    if scope not in SCOPES:
        raise ConfigError(f"scope {scope!r} is not one of {', '.join(SCOPES)}.")
    if scope == "global":
        return _global_masks(targets, method=method, amount=amount, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    make = METHODS[method]
    return {t.layer: make(t.weight.detach(), float(amount), generator) for t in targets}


def apply_(model: nn.Module, masks: Mapping[str, Mask]) -> None:
    """Set to zero, in place, what the masks take away."""
    known = {target.layer: target.weight for target in all_targets(model)}
    with torch.no_grad():
        for layer, mask in masks.items():
            known[layer].mul_(mask.to(known[layer].dtype))


def sparsity(model: nn.Module) -> float:
    """Share of zeros among all parameters; 0 for a model without any."""
    total = sum(parameter.numel() for parameter in model.parameters())
    zeros = sum(int((parameter == 0).sum()) for parameter in model.parameters())
    return zeros / total if total else 0.0


def all_targets(model: nn.Module) -> list[Target]:
    """Every weight that may be pruned, those of Embeddings too, each once."""
    targets: dict[int, Target] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        for target in _targets_of(name, module):
            first = targets.setdefault(id(target.weight), target)
            if first is not target:
                names = (*first.aliases, target.layer)
                is_embedding = first.is_embedding and target.is_embedding
                targets[id(target.weight)] = replace(
                    first, aliases=names, is_embedding=is_embedding
                )
    return list(targets.values())


def _targets_of(name: str, module: nn.Module) -> list[Target]:
    """The weights that a module itself holds. A lone layer's name is its class's."""
    if isinstance(module, _WITH_WEIGHT):
        return [Target(name or type(module).__name__, module.weight)]
    if isinstance(module, nn.Embedding):
        return [Target(name or "Embedding", module.weight, is_embedding=True)]
    prefix = f"{name}." if name else ""
    if isinstance(module, nn.MultiheadAttention):
        return [
            Target(f"{prefix}{kind}", weight)
            for kind in ("in_proj", "q_proj", "k_proj", "v_proj")
            if (weight := getattr(module, f"{kind}_weight", None)) is not None
        ]
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return [
            Target(f"{prefix}{kind}", weight)
            for kind, weight in module.named_parameters(recurse=False)
            if weight.ndim == 2  # noqa: PLR2004 - biases are vectors
        ]
    return []


def _smallest(weight: torch.Tensor, amount: float, _: torch.Generator) -> Mask:
    """Take the smallest by magnitude (Han et al., 2015)."""
    mask: Mask = prune.L1Unstructured(amount).compute_mask(weight, torch.ones_like(weight))
    return mask


def _random(weight: torch.Tensor, amount: float, generator: torch.Generator) -> Mask:
    """Take any, but first those that are zero already."""
    order = torch.rand(weight.shape, generator=generator).to(weight.device)
    order[weight == 0] = -1.0
    return _smallest(order + 1.0, amount, generator)


def _weakest_rows(weight: torch.Tensor, amount: float, _: torch.Generator) -> Mask:
    """Take whole output channels, those with the smallest Euclidean norm."""
    method = prune.LnStructured(amount, n=2, dim=0)
    mask: Mask = method.compute_mask(weight, torch.ones_like(weight))
    return mask


METHODS: dict[str, Callable[[torch.Tensor, float, torch.Generator], Mask]] = {
    "l1_unstructured": _smallest,
    "random_unstructured": _random,
    "ln_structured": _weakest_rows,
}


def _global_masks(
    targets: Sequence[Target], *, method: str, amount: float, seed: int
) -> dict[str, Mask]:
    """One ranking over the weights of all targets together."""
    if method == "ln_structured":
        raise ConfigError(
            "ln_structured ranks the channels of one layer: use scope='layer', or "
            "method='structured', which ranks channels over the whole model."
        )
    flat = torch.cat([target.weight.detach().reshape(-1) for target in targets])
    mask = METHODS[method](flat, float(amount), torch.Generator().manual_seed(seed))
    parts = torch.split(mask, [target.weight.numel() for target in targets])
    return {t.layer: part.reshape(t.weight.shape) for t, part in zip(targets, parts, strict=True)}
