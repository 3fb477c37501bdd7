"""Whether two models give the same answers, and by how much they differ."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.distributions import Distribution

from modelyard._core.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far one output is from what was expected.

    Attributes:
        max_abs: Largest absolute difference.
        max_rel: Largest difference divided by the expected value's own size.
        mean_abs: Mean absolute difference.
        scale: Largest absolute expected value.
        relative_rms: Norm of the difference over the norm of what was expected.
    """

    max_abs: float
    max_rel: float
    mean_abs: float
    scale: float
    relative_rms: float

    def is_within(self, *, rtol: float, atol: float) -> bool:
        """Whether no element is off by more than `atol + rtol * scale`."""
        return self.max_abs <= atol + rtol * self.scale


Path = tuple[str | int, ...]


def flat_outputs(output: Any) -> list[torch.Tensor]:
    """The tensors of an answer, however nested, in order; what else is in it is left out.

    Raises:
        InputError: The answer holds no tensor.
    """
    tensors = list(outputs_by_path(output).values())
    if not tensors:
        hint = ""
        if isinstance(output, Distribution):
            hint = " Give its parameters instead, such as mean and scale."
        raise InputError(
            f"The model answered with {type(output).__name__}, which holds no tensor.{hint}"
        )
    return tensors


def outputs_by_path(output: Any, path: Path = ()) -> dict[Path, torch.Tensor]:
    """The tensors of an answer by where they are in it: keys, positions, names of fields."""
    if isinstance(output, torch.Tensor):
        return {path: output}
    items: list[tuple[Any, Any]] = []
    if isinstance(output, Mapping):
        items = list(output.items())
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        items = [(field.name, getattr(output, field.name)) for field in dataclasses.fields(output)]
    elif isinstance(output, tuple | list):
        items = list(enumerate(output))
    found: dict[Path, torch.Tensor] = {}
    for key, item in items:
        found |= outputs_by_path(item, (*path, key))
    return found


def difference(expected: torch.Tensor, actual: torch.Tensor) -> Difference:
    """How far `actual` is from `expected`; infinite where the shapes differ or NaNs do not match.

    Args:
        expected: Reference, any shape and dtype; complex values differ by the absolute value of
            their difference.
        actual: Same shape.
    """
    if expected.shape != actual.shape:
        return _INFINITE
    is_complex = expected.is_complex() or actual.is_complex()
    dtype = torch.complex128 if is_complex else torch.float64
    want, got = expected.detach().cpu().to(dtype), actual.detach().cpu().to(dtype)
    if want.numel() == 0:
        return Difference(max_abs=0.0, max_rel=0.0, mean_abs=0.0, scale=0.0, relative_rms=0.0)
    gap = torch.where(_is_same(want, got), 0.0, (want - got).abs())
    if not bool(gap.isfinite().all()):
        return _INFINITE
    size = torch.where(want.isfinite(), want.abs(), 0.0)
    norm = float(size.norm())
    return Difference(
        max_abs=float(gap.max()),
        max_rel=float((gap / size.clamp_min(1e-12)).max()),
        mean_abs=float(gap.mean()),
        scale=float(size.max()),
        relative_rms=float(gap.norm()) / norm if norm else float(gap.norm()),
    )


def _is_same(want: torch.Tensor, got: torch.Tensor) -> torch.Tensor:
    """Where both are equal; equal infinities and NaN in both count as equal."""
    if want.is_complex():  # by part: one of them may be NaN
        parts = [torch.view_as_real(tensor.resolve_conj()) for tensor in (want, got)]
        return _is_same(*parts).all(dim=-1)
    return (want == got) | (want.isnan() & got.isnan())


def worst(differences: list[Difference]) -> Difference:
    """The largest of each figure over several outputs."""
    return Difference(
        max_abs=max(d.max_abs for d in differences),
        max_rel=max(d.max_rel for d in differences),
        mean_abs=max(d.mean_abs for d in differences),
        scale=max(d.scale for d in differences),
        relative_rms=max(d.relative_rms for d in differences),
    )


def differences(expected: Any, actual: Any) -> list[Difference]:
    """One `Difference` an output of the model; one infinite one if their number differs."""
    want, got = flat_outputs(expected), flat_outputs(actual)
    if len(want) != len(got):
        return [_INFINITE]
    return [difference(a, b) for a, b in zip(want, got, strict=True)]


_INFINITE = Difference(
    max_abs=math.inf, max_rel=math.inf, mean_abs=math.inf, scale=0.0, relative_rms=math.inf
)


def map_tensors(output: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """The same nested answer with `change` applied to each tensor.

    Mappings of any kind become dicts; named tuples and dataclasses keep their type. Arrays are
    copied, so that the two share nothing that can be changed in place.
    """
    if isinstance(output, torch.Tensor):
        return change(output)
    if isinstance(output, Mapping):
        return {key: map_tensors(item, change) for key, item in output.items()}
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return _replaced(output, change)
    if isinstance(output, tuple) and hasattr(output, "_fields"):  # a named tuple
        return type(output)(*(map_tensors(item, change) for item in output))
    if isinstance(output, tuple | list):
        return type(output)(map_tensors(item, change) for item in output)
    return output.copy() if isinstance(output, np.ndarray) else output


def _replaced(output: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """A dataclass with `change` applied to the tensors of its fields, in their order."""
    fields = dataclasses.fields(output)
    mapped = {one.name: map_tensors(getattr(output, one.name), change) for one in fields}
    given = {one.name: mapped[one.name] for one in fields if one.init}
    replaced = dataclasses.replace(output, **given)
    for one in fields:
        if not one.init:
            object.__setattr__(replaced, one.name, mapped[one.name])  # it may be frozen
    return replaced


def tree_of(answer: Any) -> Any:
    """The nesting of an answer as plain values.

    None for a tensor, else `{"dict": {...}}`, `{"list": [...]}` or `{"tuple": [...]}`; entries
    that are None are left out.
    """
    if isinstance(answer, Mapping):
        return {"dict": {str(key): tree_of(item) for key, item in answer.items()}}
    if isinstance(answer, tuple | list):
        kind = "list" if isinstance(answer, list) else "tuple"
        return {kind: [tree_of(item) for item in answer if item is not None]}
    return None


def from_tree(tree: Any, tensors: Iterator[torch.Tensor]) -> Any:
    """`tensors`, in order, in the nesting that `tree_of` described."""
    if tree is None:
        return next(tensors)
    ((kind, parts),) = tree.items()
    if kind == "dict":
        return {key: from_tree(part, tensors) for key, part in parts.items()}
    items = [from_tree(part, tensors) for part in parts]
    return items if kind == "list" else tuple(items)


def restructured(like: Any, tensors: list[torch.Tensor]) -> Any:
    """`tensors`, in order, in the nested structure of `like`."""
    rest = iter(tensors)
    return map_tensors(like, lambda _: next(rest))
