"""A module as the exporters take it: without wrappers, masks and parametrizations."""

import copy

import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from modelyard._core.errors import ConfigError, ConversionError
from modelyard.torchtools.layers import unwrapped
from modelyard.torchtools.onnx_module import OnnxModule
from modelyard.torchtools.policies import is_policy

_QUANTIZED_MODULES = ("torch.ao.nn.", "torch.nn.quantized", "torch.nn.intrinsic.quantized")


def prepared(model: nn.Module) -> nn.Module:
    """The module to trace. A copy where something has to be folded in; `model` is not changed.

    Raises:
        ConversionError: It holds what no exporter can take; says what and the way out.
    """
    module = unwrapped(model)
    refuse_untraceable(module)
    if not _has_wrapped_parts(module) and not _has_recomputed_weights(module):
        return module
    with torch.no_grad():
        # A mask's hook leaves a weight with a gradient history behind, which cannot be copied.
        for part in module.modules():
            for hook in part._forward_pre_hooks.values():  # noqa: SLF001 - prune offers no list
                if isinstance(hook, prune.BasePruningMethod):
                    hook(part, None)
        try:
            duplicate = copy.deepcopy(module)
        except Exception:  # noqa: BLE001 - whatever a class's own copying raises
            return module  # traced with its masks: the answers are the same
    _unwrap_parts(duplicate)
    _fold(duplicate)
    return duplicate


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy in eval mode, to be trained and pruned: weights that were recomputed are parameters.

    Folds in wrappers of parts, masks of `torch.nn.utils.prune`, parametrizations, and the older
    hooks of weight and spectral norm. `model` is not changed.

    Raises:
        ConfigError: It cannot be copied, or a weight cannot be folded; says which.
    """
    module = unwrapped(model)
    try:
        # A recomputed weight has a gradient history, with which it cannot be copied.
        memo = {
            id(value): value.detach().clone()
            for part in module.modules()
            for value in vars(part).values()
            if isinstance(value, torch.Tensor) and not value.is_leaf
        }
        duplicate = copy.deepcopy(module, memo).eval()
    except Exception as error:
        raise ConfigError(
            f"{type(module).__name__} cannot be copied ({error}). Pass a module that "
            "copy.deepcopy takes."
        ) from error
    _unwrap_parts(duplicate)
    for name, part in list(duplicate.named_modules()):
        try:
            _make_plain_(part)
        except Exception as error:
            raise ConfigError(
                f"The weights of {name or 'the model'} ({type(part).__name__}) are recomputed in "
                f"a way that cannot be folded in ({error}). Remove the parametrization first."
            ) from error
    return duplicate


def _make_plain_(part: nn.Module) -> None:
    if isinstance(part, torch.jit.ScriptModule):
        return
    # The last one that was put on comes off first.
    for hook in reversed(list(part._forward_pre_hooks.values())):  # noqa: SLF001 - no other list
        if isinstance(hook, prune.BasePruningMethod):
            prune.remove(part, hook._tensor_name)  # noqa: SLF001 - as above
        elif isinstance(hook, WeightNorm):
            remove_weight_norm(part, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(part, hook.name)
    if parametrize.is_parametrized(part):
        originals = {
            name: list(of.parameters())
            for name, of in part.parametrizations.items()  # type: ignore[union-attr, operator]  # a ModuleDict
        }
        _fold_parametrizations(part)
        for name, parameters in originals.items():
            value = part.get_buffer(name)  # folded as a buffer, for tracing
            delattr(part, name)
            is_trained = any(parameter.requires_grad for parameter in parameters)
            setattr(part, name, nn.Parameter(value, requires_grad=is_trained))


def _has_wrapped_parts(module: nn.Module) -> bool:
    return any(unwrapped(part) is not part for part in module.modules())


def _has_recomputed_weights(module: nn.Module) -> bool:
    return prune.is_pruned(module) or any(map(parametrize.is_parametrized, module.modules()))


def _unwrap_parts(module: nn.Module) -> None:
    for name, part in list(module.named_children()):
        inner = unwrapped(part)
        if inner is not part:
            setattr(module, name, inner)
        _unwrap_parts(inner)


def _fold(module: nn.Module) -> None:
    for part in list(module.modules()):
        for hook in list(part._forward_pre_hooks.values()):  # noqa: SLF001 - prune offers no list
            if isinstance(hook, prune.BasePruningMethod):
                prune.remove(part, hook._tensor_name)  # noqa: SLF001 - as above
        if parametrize.is_parametrized(part):
            _fold_parametrizations(part)


def _fold_parametrizations(part: nn.Module) -> None:
    # Not remove_parametrizations: it changes the class, which the copy shares with the original.
    names = list(part.parametrizations)  # type: ignore[arg-type]  # a ModuleDict
    values = {name: getattr(part, name).detach().clone() for name in names}
    part.__class__ = type(part).__bases__[0]
    del part.parametrizations
    for name, value in values.items():
        part.register_buffer(name, value)


def refuse_untraceable(module: nn.Module) -> None:
    """Refuse what no exporter can take.

    Raises:
        ConversionError: Says what it is, and the way out.
    """
    kind = type(module).__name__
    if is_policy(module):
        raise ConversionError(
            f"{kind} is a policy of stable-baselines3, whose forward samples its actions. Pass "
            "the algorithm itself (the PPO, not its .policy) to export its deterministic action."
        )
    for name, part in module.named_modules():
        where = f"{name} ({type(part).__name__})" if name else kind
        if isinstance(part, OnnxModule) and part is not module:
            raise ConversionError(
                f"{where} runs an ONNX graph, which cannot be traced inside another module. "
                "Compress the whole module, or export this part by itself."
            )
        if type(part).__module__.startswith(_QUANTIZED_MODULES):
            raise ConversionError(
                f"{where} is one of torch's quantized layers, which no exporter takes. Quantize "
                'the float model with ModelCompressor, or export it with precision="int8".'
            )
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
            raise ConversionError(
                f"{name} of {kind} has no shape yet: run the module once on an input first."
            )
        if tensor.is_meta:
            raise ConversionError(f"{name} of {kind} is on the meta device: load its weights.")
        if tensor.is_quantized or type(tensor).__module__.startswith("torchao"):
            raise ConversionError(
                f"{name} of {kind} is a quantized tensor, which no exporter takes. Quantize the "
                'float model with ModelCompressor, or export it with precision="int8".'
            )
