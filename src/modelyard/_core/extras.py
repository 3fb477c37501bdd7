"""Optional dependencies, imported where they are used."""

import importlib
from types import ModuleType

from modelyard._core.errors import MissingDependencyError


def require(module: str, *, extra: str) -> ModuleType:
    """Import `module`, or say which extra brings it.

    Raises:
        MissingDependencyError: The module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{module!r} is needed for this call and is not installed ({error}). "
            f"Install it with: pip install 'modelyard[{extra}]'"
        ) from error
