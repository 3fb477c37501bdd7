"""Unpickling a module from a file that nobody vouches for.

Three gates, one after the other: the archive (`archives`), the pickle in it (`programs` and
`calls`), the classes it names (`trust`). Torch's restricted unpickler reads what passes them, and
what it made is looked at once more, because a module can be made whose parts never end.
"""

import pickle
import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from modelyard._core.errors import IntegrityError, UntrustedClassError
from modelyard._core.forking import call_after_fork
from modelyard.version_manager.archives import checked_archive
from modelyard.version_manager.programs import names_in
from modelyard.version_manager.stand_ins import with_classes
from modelyard.version_manager.trust import allowed_globals, full_name

# Calls such as `eval` go to every place of a part, and a part may have many.
_MOST_PLACES = 1_000_000
_MOST_CHARACTERS = 100_000_000
# Methods that loading calls. An attribute of that name would be called instead.
_METHODS = frozenset({"eval", "train", "children", "named_children"})
_TABLES = {"_modules": nn.Module, "_parameters": torch.Tensor, "_buffers": torch.Tensor}


def restricted_load(path: Path, *, trusted_classes: Iterable[Any] = ()) -> Any:
    """What `torch.save` wrote to `path`, made of allowed classes only.

    Raises:
        UntrustedClassError: The file names a class that may not be used, or asks for more than a
            module is made of.
        IntegrityError: It is damaged, or holds a module without end.
    """
    try:
        value = _load(path, names_in(checked_archive(path)), trusted_classes)
        if isinstance(value, nn.Module):
            _Survey().n_places(value, n_prefix=0)
    except pickle.UnpicklingError as error:
        raise UntrustedClassError(
            f"{str(path)!r} asks for more than a module; nothing of it was run: {error}. If it is "
            "your own, save the module again without it."
        ) from error
    except (OSError, UntrustedClassError):
        raise
    except Exception as error:
        raise IntegrityError(f"{str(path)!r} holds no module that can be read: {error}") from error
    return value


def _load(path: Path, names: list[str], trusted_classes: Iterable[Any]) -> Any:
    # torch keeps one list of allowed names for the whole process: of two loads at once, the first
    # to end would take the names away from the other.
    with _turns.lock:
        listed = _turns.begin()
        known = {item[1] if isinstance(item, tuple) else full_name(item) for item in listed}
        unknown = [name for name in names if name not in known]
        allowed = allowed_globals(unknown, trusted_classes=trusted_classes)
        with torch.serialization.safe_globals(allowed):
            value = torch.load(path, map_location="cpu", weights_only=True)
    return with_classes(value, made_of=[item[0] for item in allowed if isinstance(item, tuple)])


class _Turns:
    """Whose turn it is with torch's list of allowed names; `lock` guards the list."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._listed: list[Any] = []
        call_after_fork(self._after_fork)

    def begin(self) -> list[Any]:
        """What is allowed before a load; called with the lock."""
        self._listed = torch.serialization.get_safe_globals()
        return self._listed

    def _after_fork(self) -> None:
        """In a child: whoever was loading is not here, and its names must not stay allowed."""
        if self.lock.locked():
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(self._listed)
        self.lock = threading.Lock()


_turns = _Turns()


class _Survey:
    """Looks at every part of a module that a file made; not shared between threads."""

    def __init__(self) -> None:
        self._n_places: dict[int, int | None] = {}
        self._n_characters = 0

    def n_places(self, module: nn.Module, *, n_prefix: int) -> int:
        """In how many places the parts of `module` are, itself included.

        Raises:
            ValueError: Its tables hold other things than modules have, or do not end.
        """
        attributes = vars(module)
        if shadowed := _METHODS & attributes.keys():
            raise ValueError(f"it has attributes instead of methods: {', '.join(shadowed)}")
        for table, kind in _TABLES.items():
            self._check_table(attributes[table], kind, n_prefix)
        self._n_places[id(module)] = None
        total = 1
        for name, part in attributes["_modules"].items():
            if part is not None:
                if id(part) not in self._n_places:
                    self.n_places(part, n_prefix=n_prefix + len(name) + 1)
                total += self._of_known(part)
        if total > _MOST_PLACES:
            raise ValueError(f"its parts are in more than {_MOST_PLACES} places")
        self._n_places[id(module)] = total
        return total

    def _of_known(self, part: nn.Module) -> int:
        n_places = self._n_places[id(part)]
        if n_places is None:
            raise ValueError("a part of it holds itself")
        return n_places

    def _check_table(self, table: Any, kind: type, n_prefix: int) -> None:
        if type(table) not in {dict, OrderedDict}:
            raise ValueError(f"a {type(table).__name__} is where its parts should be")
        for name, value in table.items():
            if type(name) is not str or not (value is None or isinstance(value, kind)):
                raise ValueError(f"a {type(value).__name__} is among its parts")
            self._n_characters += n_prefix + len(name)
        if self._n_characters > _MOST_CHARACTERS:
            raise ValueError(f"the names of its parts have over {_MOST_CHARACTERS} characters")
