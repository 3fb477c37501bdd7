"""A stored version as a module again."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from modelyard._core.errors import InputError
from modelyard.version_manager import module_format
from modelyard.version_manager.records import Version
from modelyard.version_manager.tensor_files import read_tensors


@dataclass(frozen=True, kw_only=True)
class ModelPaths:
    """Verified files of a version.

    Attributes:
        weights: Gives the path of the weights, once they are verified: large ones are hashed
            while what else belongs to a load is done. Raises what is wrong with them.
        description: Path of the module's description, or None if it has none.
    """

    weights: Callable[[], Path]
    description: Path | None


def load_whole(
    version: Version, paths: ModelPaths, *, trusted_classes: Iterable[Any], trust: bool
) -> nn.Module:
    """The module as it was saved, in eval mode.

    Raises:
        InputError: It was stored without a description; the message says why and what to do.
        UntrustedClassError: It is made of classes that may not be rebuilt here.
    """
    if paths.description is None:
        raise InputError(
            f"{version['version_id']} cannot be rebuilt whole: "
            f"{version['cannot_load_full_reason']}. Pass model_class= to load its weights."
        )
    model = module_format.rebuild(
        paths.description, paths.weights, trusted_classes=trusted_classes, trust=trust
    )
    return model.eval()


def load_into(model_class: type[nn.Module], version: Version, paths: ModelPaths) -> nn.Module:
    """An instance of `model_class` with the stored weights, in eval mode.

    The constructor gets the keys of the stored config that it takes.

    Raises:
        InputError: The class cannot be made from the config, keeps extra state, or its tensors
            differ from the stored ones in name or shape.
    """
    model = _constructed(model_class, version)
    tensors, metadata = read_tensors(paths.weights())
    state = module_format.state_dict_of(tensors, model, metadata)
    try:
        _take_dtypes_(model, state)
        model.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            f"The weights of {version['version_id']} (saved from {version['class_name']}) do not "
            f"fit {model_class.__qualname__}: {error}"
        ) from error
    module_format.take_unlisted_buffers_(model, tensors)
    return model.eval()


def _take_dtypes_(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Give tensors the stored dtype: copying into another one would round without a word."""
    for name, tensor in model.state_dict(keep_vars=True).items():
        stored = state.get(name)
        if stored is not None and stored.dtype != tensor.dtype:
            tensor.data = tensor.data.to(stored.dtype)


def _constructed(model_class: type[nn.Module], version: Version) -> nn.Module:
    arguments = _accepted(model_class, version["config"])
    try:
        return model_class(**arguments)
    except TypeError as error:
        raise InputError(
            f"{model_class.__qualname__}({', '.join(arguments)}) failed: {error}. "
            f"The version's config has the keys: {', '.join(version['config']) or 'none'}."
        ) from error


def _accepted(model_class: type[nn.Module], config: Mapping[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(model_class).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return dict(config)
    keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = {parameter.name for parameter in parameters if parameter.kind in keyword}
    return {key: value for key, value in config.items() if key in names}
