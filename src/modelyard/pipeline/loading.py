"""A user's own model and data, from a factory or files; no code runs from a data file."""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from modelyard._core.errors import ConfigError, InputError
from modelyard.torchtools.policies import as_module, is_algorithm
from modelyard.version_manager import load_module_file

_FORMS = "an .npz with `inputs` (and `targets`), an .npy of inputs, or a .csv with a header line"


@dataclass(frozen=True, kw_only=True, eq=False)
class UserData:
    """Samples in order of time.

    Attributes:
        inputs: Shape (n, ...).
        targets: Shape (n, ...), or None.
        names: Names of the input columns where the file has them.
    """

    inputs: Tensor
    targets: Tensor | None
    names: list[str] | None = None


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


def load_user_data(path: Path, *, target: str | None = None) -> UserData:
    """Samples from a file: .npz, .npy or .csv.

    Args:
        path: The file.
        target: For .csv the column, for .npz the array, that is to be predicted; by default
            `targets` if there is one.

    Raises:
        ConfigError: No such file, or a form that is not known.
        InputError: Values that are no numbers or not finite, or too few samples.
    """
    if not path.is_file():
        raise ConfigError(f"There is no data file {str(path)!r}.")
    readers = {".npz": _from_npz, ".npy": _from_npy, ".csv": _from_csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(f"{path.name!r} is of no known form; pass {_FORMS}.")
    try:
        inputs, targets, names = reader(path, target)
    except (ValueError, KeyError, OSError) as error:
        raise InputError(f"{str(path)!r} cannot be read: {error}") from error
    if not np.isfinite(inputs).all():
        raise InputError(f"{str(path)!r} holds NaN or infinity; clean it first.")
    return UserData(inputs=_tensor(inputs), targets=_optional(targets), names=names)


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


_Read = tuple[NDArray[Any], NDArray[Any] | None, list[str] | None]


def _from_npz(path: Path, target: str | None) -> _Read:
    with np.load(path, allow_pickle=False) as file:
        if "inputs" not in file.files:
            raise ValueError(f"no array `inputs`; there are {', '.join(file.files)}")
        name = target or "targets"
        if target is not None and target not in file.files:
            raise ValueError(f"no array {target!r}; there are {', '.join(file.files)}")
        return file["inputs"], file[name] if name in file.files else None, None


def _from_npy(path: Path, target: str | None) -> _Read:
    if target is not None:
        raise ValueError("an .npy file holds inputs alone; use .npz for targets")
    return np.load(path, allow_pickle=False), None, None


def _from_csv(path: Path, target: str | None) -> _Read:
    names = path.read_text(encoding="utf-8").split("\n", 1)[0].strip().split(",")
    table = np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2)
    if target is None:
        return table, None, names
    if target not in names:
        raise ValueError(f"no column {target!r}; there are {', '.join(names)}")
    column = names.index(target)
    rest = [name for name in names if name != target]
    return np.delete(table, column, axis=1), table[:, column], rest


def _tensor(values: NDArray[Any]) -> Tensor:
    if values.dtype.kind == "f":
        values = values.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(values))


def _optional(values: NDArray[Any] | None) -> Tensor | None:
    return None if values is None else _tensor(values)
