"""A user's own model, from a factory or a file."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

from torch import nn

from modelyard._core.errors import ConfigError, InputError
from modelyard.torchtools.policies import as_module, is_algorithm
from modelyard.version_manager import load_module_file


def load_user_model(spec: str) -> nn.Module:
    """The module of `package.module:factory`, called without arguments, or of a file.

    Of an algorithm of stable-baselines3, its deterministic policy.

    A file is what `torch.save(model)` wrote; it is read without running code, so its classes must
    be torch.nn's or imported already.

    Raises:
        ConfigError: No such module, factory or file.
        InputError: The factory or file gives no module.
        UntrustedClassError: The file is made of classes that nobody has vouched for.
    """
    module_name, colon, factory_name = spec.partition(":")
    if colon and not Path(spec).exists():
        return _made(module_name, factory_name)
    path = Path(spec)
    if not path.is_file():
        raise ConfigError(
            f"The model {spec!r} is neither a file nor 'package.module:factory', a function that "
            "takes no arguments and gives an nn.Module."
        )
    return load_module_file(path).eval()


def imported(module_name: str) -> ModuleType:
    """A module by its name, as `python -m` finds it: also in the working folder.

    Raises:
        ImportError: There is none, or it fails.
    """
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(module_name)


def _made(module_name: str, factory_name: str) -> nn.Module:
    try:
        factory = getattr(imported(module_name), factory_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"The model {module_name}:{factory_name} cannot be imported: {error}."
        ) from error
    try:
        model = factory()
    except Exception as error:
        raise InputError(
            f"{module_name}:{factory_name}() fails: {type(error).__name__}: {error}"
        ) from error
    if is_algorithm(model):
        return as_module(model)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{module_name}:{factory_name}() gives an object of type {type(model).__name__}, no "
            "nn.Module."
        )
    return model.eval()
