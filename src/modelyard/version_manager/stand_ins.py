"""Stand-ins for classes while a file is read, and the classes themselves afterwards.

A stand-in makes objects of its class and never runs the constructor, whatever the file asks for.
A module may also keep a class as a value (`self.norm = nn.LayerNorm`): once nothing of the file is
left to run, those values become the class again. Where torch or Python would call one unasked, as
a hook or in place of a method, it is refused.
"""

from collections import OrderedDict
from collections.abc import Iterable
from types import FunctionType
from typing import Any

import torch
from torch import nn

from modelyard._core.errors import UntrustedClassError

_CONTAINERS = (list, dict, OrderedDict, set)


class StandIn:
    """Base of all stand-ins.

    Attributes:
        stands_for: The class that it makes objects of.
    """

    stands_for: type


def uncalled(cls: type) -> type:
    """A class that stands for `cls` in a file: makes its objects, never runs its `__init__`."""

    def new(_: type, *args: Any) -> Any:
        if args:
            raise UntrustedClassError(_call_refused(cls))
        return object.__new__(cls)

    return type(cls.__name__, (StandIn,), {"__new__": new, "stands_for": cls})


def with_classes(value: Any, *, made_of: Iterable[Any]) -> Any:
    """`value`, in which every stand-in that is kept as a value is the class it stands for.

    Args:
        value: What was read; changed in place.
        made_of: Classes whose objects it may hold, besides modules and tensors.

    Raises:
        UntrustedClassError: A class is where it would be called unasked.
    """
    return _Walk(tuple(kind for kind in made_of if isinstance(kind, type))).through(value)


class _Walk:
    """One way through all that a file made; not shared between threads."""

    def __init__(self, kinds: tuple[type, ...]) -> None:
        self._with_attributes = (nn.Module, torch.Tensor, *kinds)
        self._uncalled = {kind.stands_for for kind in kinds if issubclass(kind, StandIn)}
        self._seen: dict[int, Any] = {}  # keeps what was met alive, so that no id is used again
        self._tuples: dict[int, Any] = {}
        self._ahead: list[Any] = []

    def through(self, value: Any) -> Any:
        found = self._real(value)
        # A list of what is ahead, not recursion: how deep modules nest is up to who made them.
        while self._ahead:
            self._visit(self._ahead.pop())
        return found

    def _real(self, value: Any) -> Any:
        """The value to keep in place of `value`; what is in it is looked at later."""
        if _is_stand_in(value):
            return value.stands_for
        if type(value) is tuple:
            return self._real_tuple(value)
        if isinstance(value, type) or id(value) in self._seen:
            return value
        if isinstance(value, (*_CONTAINERS, *self._with_attributes)):
            self._seen[id(value)] = value
            self._ahead.append(value)
        return value

    def _real_tuple(self, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if id(value) not in self._tuples:
            items = tuple(self._real(item) for item in value)
            is_same = all(new is old for new, old in zip(items, value, strict=True))
            self._seen[id(value)] = value
            self._tuples[id(value)] = value if is_same else items
        found: tuple[Any, ...] = self._tuples[id(value)]
        return found

    def _visit(self, value: Any) -> None:
        if isinstance(value, list):
            value[:] = [self._real(item) for item in value]
        elif isinstance(value, set):
            items = [self._real(item) for item in value]
            value.clear()
            value.update(items)
        elif isinstance(value, dict):
            self._visit_dict(value)
        if isinstance(value, nn.Module):
            self._check_uncalled(value)
        if hasattr(value, "__dict__"):
            self._visit_dict(vars(value))

    def _visit_dict(self, value: dict[Any, Any]) -> None:
        items = [(key, self._real(key), self._real(item)) for key, item in value.items()]
        if any(key is not old for old, key, _ in items):
            value.clear()
        value.update({key: item for _, key, item in items})

    def _check_uncalled(self, module: nn.Module) -> None:
        """Refuse classes that would be called without the module's own code naming them."""
        for name, value in vars(module).items():
            is_hooks = name.endswith("hooks") and isinstance(value, dict)
            is_method = isinstance(getattr(type(module), name, None), FunctionType)
            for item in value.values() if is_hooks else (value,) if is_method else ():
                # Hooks may be elsewhere too, where they were met before and are classes already.
                cls = item.stands_for if _is_stand_in(item) else item
                if isinstance(cls, type) and cls in self._uncalled:
                    raise UntrustedClassError(_call_refused(cls))


def _is_stand_in(value: Any) -> bool:
    return type(value) is type and issubclass(value, StandIn)


def _call_refused(cls: type) -> str:
    return (
        f"The stored module asks for {cls.__module__}.{cls.__qualname__} to be called, which runs "
        "its code. If the file is your own, vouch for the class with "
        "load_model(..., trusted_classes=[...])."
    )
