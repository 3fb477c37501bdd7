"""Which classes a stored module may be rebuilt from.

A stored module names its classes. Only these are used, and none is ever imported because a file
names it:

* classes of `torch.nn` and modelyard's own modules,
* classes the caller registered, passed as `trusted_classes`, or saved in this process,
* subclasses of `nn.Module` found under exactly the stored name in a module that is already
  imported, unless they define `__setstate__`, `__reduce__`, `__del__` or the like of their own:
  those run code of their own on what the file holds, so somebody must vouch for them by name.

A file can ask for an object without its constructor (what pickle does with modules) or for a call
of the constructor with arguments of the file's choice. Only vouched classes may be called. A class
that a module keeps as a value is that class again once all is read (`stand_ins`).
"""

import importlib
import secrets
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import nn

from modelyard._core.errors import ConfigError, UntrustedClassError
from modelyard._core.forking import RenewedLock
from modelyard.version_manager.stand_ins import uncalled

_guard = RenewedLock()  # of _vouched
_vouched: dict[str, type] = {}

# Activations that modules keep as attributes; pure functions of tensors.
ACTIVATIONS = frozenset(
    {"relu", "relu6", "gelu", "silu", "mish", "elu", "selu", "celu", "leaky_relu", "softplus"}
    | {"tanh", "sigmoid", "logsigmoid", "log_sigmoid", "hardtanh", "hardswish", "hardsigmoid"}
    | {"softmax", "log_softmax", "softsign", "tanhshrink", "glu", "sin", "cos", "exp"}
)
# Modules of modelyard and torch that a stored module may need and that are imported for it.
_OWN_HOMES = ("modelyard.torchtools.onnx_module", "modelyard.version_manager.module_format")
_LATE_HOMES = frozenset({*_OWN_HOMES, "torch.nn.utils.prune"})
_FUNCTION_HOMES = ("torch.nn.functional", "torch._C._nn")
# What runs on attributes of the file's choice without anybody calling it.
_RUNS_UNASKED = (
    *("__new__", "__setstate__", "__reduce__", "__reduce_ex__"),
    *("__del__", "__getattribute__", "__hash__", "__eq__"),
)
# A file that may call one of these may do anything: nobody is told to vouch for them.
_ANYTHING = frozenset(
    f"builtins.{name}"
    for name in ("__import__", "compile", "eval", "exec", "getattr", "open", "setattr")
)
# Being given its attributes, it talks to other processes.
_NEVER_BY_NAME = frozenset({"torch.nn.parallel.distributed.DistributedDataParallel"})


def register_class(cls: type) -> type:
    """Vouch for `cls`: stored modules that name it may be rebuilt in this process.

    Returns the class, so that it also works as a decorator.
    """
    with _guard.lock:
        _vouched[full_name(cls)] = cls
    return cls


def full_name(cls: Any) -> str:
    """`package.module.Class`, as files name it."""
    return f"{cls.__module__}.{cls.__qualname__}"


def checked_classes(trusted: Iterable[Any], model_class: Any = None) -> list[Any]:
    """What a caller vouches for, the class it loads into among it.

    Raises:
        ConfigError: Something else than classes and functions.
    """
    if not isinstance(trusted, Iterable) or isinstance(trusted, str | type):
        raise ConfigError(f"trusted_classes must be a list of classes, got {trusted!r}.")
    if isinstance(model_class, nn.Module):
        kind = type(model_class).__name__
        raise ConfigError(f"model_class must be a class such as {kind}, got an object of it.")
    classes = list(trusted)
    for cls in classes:
        if not hasattr(cls, "__qualname__") or not hasattr(cls, "__module__"):
            raise ConfigError(f"trusted_classes holds {cls!r}, which is no class or function.")
    return classes if model_class is None else [*classes, model_class]


def allowed_globals(names: Iterable[str], *, trusted_classes: Iterable[Any] = ()) -> list[Any]:
    """What each name in a stored module stands for, in the form `safe_globals` takes.

    Args:
        names: Full names found in the file that torch does not allow by itself.
        trusted_classes: Classes (or functions) that the caller vouches for in this call.

    Raises:
        UntrustedClassError: Some may not be used; the message lists each with the way out.
    """
    with _guard.lock:
        vouched: dict[str, Any] = dict(_vouched)
    vouched.update({full_name(cls): cls for cls in trusted_classes})
    found: list[Any] = []
    refused: list[str] = []
    for name in names:
        if name in vouched:
            found.append((vouched[name], name))
            continue
        value = None
        if name not in _NEVER_BY_NAME:
            value = _well_known(name) or _imported_module_class(name)
        if value is None:
            refused.append(name)
        elif isinstance(value, type) and not name.startswith("numpy"):
            # Objects of the class may get their attributes; the name in the file is no way to it.
            found += [(uncalled(value), name), (value, secrets.token_hex(16))]
        else:
            found.append((value, name))
    if refused:
        raise UntrustedClassError(_refusal(refused))
    if any(name.startswith("numpy") for _, name in found):
        # Arrays are rebuilt through one class per dtype, which the file does not name.
        found += [type(np.dtype(code)) for code in np.typecodes["All"]]
    return found


def cannot_be_rebuilt(names: Iterable[str]) -> list[str]:
    """Those of the names in a stored module that no load may call."""
    return sorted(_ANYTHING & set(names))


def _well_known(name: str) -> Any | None:
    home, _, attribute = name.rpartition(".")
    if home in _LATE_HOMES:
        importlib.import_module(home)
    if home in _FUNCTION_HOMES and attribute in ACTIVATIONS:
        return _look_up(name)
    if home.startswith("torch.nn.") or home in _OWN_HOMES:
        value = _look_up(name)
        # Only what they define themselves: their modules import others' names.
        if isinstance(value, type) and full_name(value) == name:
            return value
    if name == "builtins.bytes":
        return _no_bytes
    if home.startswith("numpy"):
        return _numpy_global(name)
    return None


def _no_bytes() -> bytes:
    """How pickle makes `b""`; `bytes` itself would make any number of them."""
    return b""


def _numpy_global(name: str) -> Any | None:
    attribute = name.rpartition(".")[2]
    if attribute in {"ndarray", "dtype"}:
        return getattr(np, attribute)
    if attribute in {"_reconstruct", "scalar"} and "multiarray" in name:
        # The name that files from before NumPy 2 have is looked up where the function is now.
        return _look_up(name.replace("numpy.core.", "numpy._core."))
    value = _look_up(name)
    return value if isinstance(value, type) and issubclass(value, np.dtype | np.generic) else None


def _imported_module_class(name: str) -> type | None:
    value = _look_up(name)
    if not (isinstance(value, type) and issubclass(value, nn.Module)):
        return None
    if full_name(value) != name or _runs_unasked(value):
        return None
    return value


def _runs_unasked(cls: type) -> bool:
    # Those of torch.nn are known to do no harm; torch has others, such as compiled graphs.
    own = [base for base in cls.__mro__ if not base.__module__.startswith("torch.nn.")]
    return any(name in vars(base) for base in own if base is not object for name in _RUNS_UNASKED)


def _look_up(name: str) -> Any | None:
    """The object under `name` in modules already imported, or None. Imports nothing."""
    parts = name.split(".")
    for split in range(len(parts) - 1, 0, -1):
        value: Any = sys.modules.get(".".join(parts[:split]))
        if value is None:
            continue
        for part in parts[split:]:
            # Plain attributes only: a module's __getattr__ could import.
            value = vars(value).get(part) if hasattr(value, "__dict__") else None
        if value is not None:
            return value
    return None


def _refusal(names: list[str]) -> str:
    if calls := cannot_be_rebuilt(names):
        return (
            f"The stored module is made by calling {', '.join(calls)}, with which a file could do "
            "anything: it cannot be rebuilt. Load the weights into a class of yours with "
            "model_class=."
        )
    listed = ", ".join(sorted(names))
    homes = ", ".join(sorted({name.rpartition(".")[0] for name in names}))
    return (
        f"The stored module is made of classes that may not be rebuilt here: {listed}. "
        f"Import their module(s) first ({homes}; --import on the command line), or vouch for them "
        "with load_model(..., trusted_classes=[...]) or modelyard.register_class(cls); "
        "or load the weights into a class of yours with model_class=."
    )


def forget_registered() -> None:
    """Drop every registration of this process (for tests)."""
    with _guard.lock:
        _vouched.clear()
