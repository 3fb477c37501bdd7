"""One eager run of a module, watched: chance, and Python values taken from the data.

A trace keeps such values as they were for the example. Its own warnings tell of some of them only,
and can be silenced; what the code asks of its tensors cannot.
"""

import linecache
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from modelyard.torchtools.inputs import Inputs, answer_of, mapped, tensors_of
from modelyard.torchtools.parity import flat_outputs

# What gives Python a value of a tensor's.
_TAKES = frozenset(
    {
        *("__bool__", "__int__", "__float__", "__complex__", "__index__", "__contains__"),
        *("item", "tolist", "numpy", "__array__", "equal", "allclose", "is_nonzero"),
    }
)
# Beginnings of operators that are there for the sake of NaN; torch's isnan is `x != x`.
_FOR_MISSING = ("isnan", "nan_to_num", "nansum", "nanmedian", "isfinite", "isinf", "ne.Tensor")
_OWN_FILES = (str(Path(torch.__file__).parent), __file__)


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What was seen.

    Attributes:
        values_taken: Where a Python value was taken from what depends on the input:
            `file:line: code`.
        values_taken_for_onnx: The same of code that knows it is exported to ONNX.
        is_random: Whether random numbers were drawn: torch's, NumPy's or Python's.
        is_repeatable: Whether two runs gave the same answer.
        sees_to_missing: Whether it asks its data for missing values, or works around them.
    """

    values_taken: tuple[str, ...]
    values_taken_for_onnx: tuple[str, ...]
    is_random: bool
    is_repeatable: bool
    sees_to_missing: bool


def observed(model: nn.Module, example: Inputs, are_equal: Callable[[Any, Any], bool]) -> Observed:
    """Run the module on the example, watched. Random states are put back if they were moved.

    Args:
        model: The module, in the mode it is to be converted in.
        example: An input it runs on; not changed.
        are_equal: Whether two answers, as lists of tensors, are the same.
    """
    torch_state = torch.get_rng_state()
    other_states = random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002 - the user's forward may draw from it
    values_taken = _values_taken(model, example, is_for_onnx=False)
    values_taken_for_onnx = _values_taken(model, example, is_for_onnx=True) if values_taken else ()
    inputs = mapped(example, torch.Tensor.clone)
    with _Operations(inputs) as operations:
        first = flat_outputs(answer_of(model, inputs))
    second = flat_outputs(answer_of(model, mapped(example, torch.Tensor.clone)))
    has_moved = random.getstate() != other_states[0] or not _same_numpy_state(other_states[1])
    if operations.is_random:
        torch.set_rng_state(torch_state)
    if has_moved:
        random.setstate(other_states[0])
        np.random.set_state(other_states[1])  # noqa: NPY002 - as above
    return Observed(
        values_taken=values_taken,
        values_taken_for_onnx=values_taken_for_onnx,
        is_random=operations.is_random or has_moved,
        is_repeatable=are_equal(first, second),
        sees_to_missing=operations.sees_to_missing,
    )


def _values_taken(model: nn.Module, example: Inputs, *, is_for_onnx: bool) -> tuple[str, ...]:
    """Places in one run, on the way that code takes while it is traced."""
    inputs = mapped(example, torch.Tensor.clone)
    operations = _Operations(inputs)
    questions = _Questions(operations)
    try:
        with _as_if_traced(is_for_onnx=is_for_onnx), questions, operations:
            answer_of(model, inputs)
    except Exception:  # noqa: BLE001 - code for traces may need a real one
        inputs = mapped(example, torch.Tensor.clone)
        operations = _Operations(inputs)
        questions = _Questions(operations)
        with questions, operations:
            answer_of(model, inputs)
    return tuple(dict.fromkeys(questions.places))


@contextmanager
def _as_if_traced(*, is_for_onnx: bool) -> Iterator[None]:
    """Have code believe that it is traced: what is scripted then keeps its branches."""
    places: list[tuple[Any, str]] = [
        (torch.jit, "is_tracing"),
        (torch.jit._trace, "is_tracing"),  # noqa: SLF001 - where `script_if_tracing` looks
    ]
    if is_for_onnx:
        places.append((torch.onnx, "is_in_onnx_export"))
    known = [getattr(place, name) for place, name in places]
    for place, name in places:
        setattr(place, name, _yes)
    try:
        yield
    finally:
        for (place, name), function in zip(places, known, strict=True):
            setattr(place, name, function)


def _yes() -> bool:
    return True


class _Operations(TorchDispatchMode):
    """Follows which memory depends on the inputs, and whether numbers are drawn."""

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch carries no annotation here
        self.is_random = False
        self.sees_to_missing = False
        self._alive: list[Any] = []  # an address freed and given out again would mislead
        self._dependent: set[int] = set()
        self._mark(tensors_of(inputs))

    def depends(self, values: Any) -> bool:
        """Whether any tensor in `values` depends on the inputs."""
        return any(
            _storage_of(value)[1] in self._dependent
            for value in pytree.tree_leaves(values)
            if isinstance(value, torch.Tensor)
        )

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        # Attention carries the tag for the sake of its dropout, which evaluation leaves out.
        if torch.Tag.nondeterministic_seeded in func.tags and "attention" not in str(func):
            self.is_random = True
        if str(func).removeprefix("aten.").startswith(_FOR_MISSING):
            self.sees_to_missing = True
        given = (args, kwargs or {})
        depends = self.depends(given) and not _takes_shape_alone(func)
        result = func(*args, **(kwargs or {}))
        if depends:
            self._mark(result)
        return result

    def _mark(self, values: Any) -> None:
        for value in pytree.tree_leaves(values):
            if isinstance(value, torch.Tensor):
                storage, key = _storage_of(value)
                self._alive.append(storage)
                self._dependent.add(key)


def _takes_shape_alone(func: Any) -> bool:
    """Whether an operator takes only shape and type from its tensor: `ones_like`, `new_zeros`."""
    name = str(func).split(".")[1]
    return name.endswith("_like") or name.startswith("new_")


class _Questions(TorchFunctionMode):
    """Notes where a Python value is taken from what depends on the inputs."""

    def __init__(self, operations: _Operations) -> None:
        super().__init__()
        self.places: list[str] = []
        self._operations = operations

    def __torch_function__(
        self, func: Any, _types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") in _TAKES and self._operations.depends(args):
            self.places.append(_place())
        return func(*args, **(kwargs or {}))


def _storage_of(tensor: torch.Tensor) -> tuple[Any, int]:
    try:
        storage = tensor.untyped_storage()
    except (RuntimeError, NotImplementedError):  # sparse and other tensors without one
        return tensor, id(tensor)
    return storage, storage._cdata  # noqa: SLF001 - its identity; the address is 0 for empty ones


def _place() -> str:
    """The line of the user's that is running: the innermost one outside torch."""
    frame: Any = sys._getframe(1)  # noqa: SLF001 - the only way to a frame without an exception
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OWN_FILES):
        frame = frame.f_back
    name, line = frame.f_code.co_filename, frame.f_lineno
    return f"{name}:{line}: {linecache.getline(name, line).strip()}"


def _same_numpy_state(before: Any) -> bool:
    now: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - as in `observed`
    return bool(
        now["state"]["pos"] == before["state"]["pos"]
        and np.array_equal(now["state"]["key"], before["state"]["key"])
    )
