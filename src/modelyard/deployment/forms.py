"""What an input looks like, and a copy of it that somebody may change."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

_MOST_FORMS = 1000


class Forms:
    """The forms of the inputs that a version has answered.

    What it refuses in a form that it never answered is no input of it; what it fails to answer in
    one that it has, is its own failure. Nothing is said of a kind that it never answered: tensors
    tell nothing of arrays.

    Thread-safe: adding to a dict of sets is one step at a time, and nothing is taken away.
    """

    def __init__(self) -> None:
        self._known: dict[Any, set[Any]] = {}
        # Kind, shape and dtype of the last array or tensor: most are like the one before.
        self._last: tuple[Any, Any, Any] = (None, None, None)

    def add(self, x: Any) -> None:
        """Take an input that was answered."""
        kind, last = type(x), self._last
        if kind is last[0] and x.shape == last[1] and x.dtype == last[2]:
            return
        if kind is np.ndarray or kind is torch.Tensor:
            self._last = (kind, x.shape, x.dtype)
        known = self._known.setdefault(_kind_of(x), set())
        if len(known) < _MOST_FORMS:
            known.add(form_of(x))

    def is_strange(self, x: Any) -> bool:
        """Whether no input of this form was answered, although others of its kind were."""
        known = self._known.get(_kind_of(x))
        return known is not None and form_of(x) not in known


class LastAnswer:
    """The form of a version's last answer, and of the input it was given to.

    Thread-safe: it is replaced as a whole.
    """

    def __init__(self) -> None:
        self._last: tuple[Any, Any, Any] | None = None
        self._is_any_size = False

    def note(self, x: Any, output: Any) -> None:
        """Remember an answer."""
        if self.differs_from(x, output):
            # As long as the values make it: detections, or a text.
            self._is_any_size = True
        self._last = (type(x), getattr(x, "shape", None), answer_form(output))

    def differs_from(self, x: Any, output: Any) -> bool:
        """Whether an input of this very shape was answered in another form.

        Sizes do not count where the version's own answers to one shape differed in them.
        """
        last = self._last
        if last is None or last[1] is None or last[0] is not type(x) or last[1] != x.shape:
            return False
        form = answer_form(output)
        if self._is_any_size:
            return bool(_without_sizes(last[2]) != _without_sizes(form))
        return bool(last[2] != form)


class Sizes(tuple[int, ...]):
    """Sizes of a tensor beyond the batch, told from tensors in a tuple."""

    __slots__ = ()


def answer_form(output: Any) -> Any:
    """Number of tensors, sizes beyond the batch, and kind of numbers of an answer."""
    shape = getattr(output, "shape", None)
    if shape is not None:
        return Sizes(shape[1:]), _kind_of_numbers(output.dtype)
    if isinstance(output, Mapping):
        parts = sorted(output.items(), key=lambda item: str(item[0]))
        return tuple((name, answer_form(part)) for name, part in parts)
    if isinstance(output, tuple | list):
        return tuple(answer_form(part) for part in output)
    return type(output)


def _without_sizes(form: Any) -> Any:
    """The same with the number of dimensions in place of their sizes."""
    if isinstance(form, Sizes):
        return len(form)
    return tuple(map(_without_sizes, form)) if isinstance(form, tuple) else form


@functools.lru_cache(maxsize=128)
def _kind_of_numbers(dtype: Any) -> str:
    """Kind of a dtype of torch or NumPy: precision and sign are no form."""
    name = str(dtype)
    return next((kind for kind in ("float", "complex", "int", "bool") if kind in name), name)


def form_of(x: Any) -> Any:
    """Shape and dtype of an input, without the batch."""
    shape = getattr(x, "shape", None)
    if shape is not None:
        return shape[1:], x.dtype
    if isinstance(x, Mapping):
        return tuple((name, form_of(part)) for name, part in x.items())
    if isinstance(x, tuple):
        return tuple(form_of(part) for part in x)
    if isinstance(x, list):
        return len(x), form_of(x[0]) if x else None
    return type(x)


def _kind_of(x: Any) -> Any:
    parts = x.values() if isinstance(x, Mapping) else x if isinstance(x, tuple) else ()
    return type(x), *(type(part) for part in parts)


def own_copy(x: Any) -> Any:
    """A copy of an input of the same kind; what holds no numbers is given back as it is."""
    if isinstance(x, np.ndarray):
        return x.copy()
    if isinstance(x, torch.Tensor):
        return x.clone()
    if isinstance(x, dict):
        return {name: own_copy(part) for name, part in x.items()}
    if type(x) in {list, tuple}:
        return type(x)(own_copy(part) for part in x)
    return x
