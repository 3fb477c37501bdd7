"""Whether two versions answer in one form, by the signatures stored with them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from modelyard._core.errors import ConfigError
from modelyard.update_strategy.ports import Registry

# What outputs are called that have no name of their own.
_PLACE = re.compile(r"output(?:_\d+)?")


def refuse_other_outputs(registry: Registry, stable: str, candidate: str) -> None:
    """Nothing where callers of `stable` can read the answers of `candidate`, or nobody knows.

    Raises:
        ConfigError: Number, sizes beyond the batch, or kind of numbers of the outputs differ.
    """
    old, new = (registry.get_version(version_id) for version_id in (stable, candidate))
    before, after = outputs_of(old), outputs_of(new)
    if before is None or after is None or is_one_form(before, after):
        return
    is_free = any(has_free_sizes(version) for version in (old, new))
    if is_free and is_one_form(before, after, with_sizes=False):
        # Outputs that are as long as the inputs differ with the examples that were saved.
        examples = [_example_sizes(registry, version_id) for version_id in (stable, candidate)]
        if None in examples or examples[0] != examples[1]:
            return
    raise ConfigError(
        f"{candidate} answers in another form than {stable}, which serves: {_told(after)} instead "
        f"of {_told(before)}. Callers would get both in turn. Where they can read both, pass "
        "allow_other_outputs=True (rollout start --allow-other-outputs)."
    )


def outputs_of(version: Mapping[str, Any]) -> Sequence[Mapping[str, Any]] | None:
    """The outputs that a version's signature describes; None where it describes none."""
    signature = version.get("signature") or {}
    return signature.get("outputs") or None


def is_one_form(
    a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]], *, with_sizes: bool = True
) -> bool:
    """Whether two lists of outputs agree in number, dimensions and kind of numbers, and sizes.

    A size of None, the batch among them, agrees with any; precision does not count. Several that
    have names, as in a dict, go by them, in whatever order; else names do not count.
    """
    pairs = _paired(a, b)
    return pairs is not None and all(
        _kind(one["dtype"]) == _kind(other["dtype"])
        and len(one["shape"]) == len(other["shape"])
        and (not with_sizes or _sizes_agree(one["shape"], other["shape"]))
        for one, other in pairs
    )


def _paired(
    a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]]
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]] | None:
    """What stands in the place of what; None where something has no counterpart."""
    if len(a) != len(b):
        return None
    names = [{each["name"]: each for each in outputs} for outputs in (a, b)]
    if names[0].keys() == names[1].keys() and len(names[0]) == len(a):
        return [(names[0][name], names[1][name]) for name in names[0]]
    is_by_place = len(a) == 1 or any(_PLACE.fullmatch(name) for found in names for name in found)
    return list(zip(a, b, strict=True)) if is_by_place else None


def has_free_sizes(version: Mapping[str, Any]) -> bool:
    """Whether a version takes inputs of several sizes beside the batch."""
    inputs = (version.get("signature") or {}).get("inputs", [])
    return any(None in each["shape"][1:] for each in inputs)


def _sizes_agree(a: Sequence[int | None], b: Sequence[int | None]) -> bool:
    return all(
        None in (one, other) or one == other for one, other in zip(a[1:], b[1:], strict=True)
    )


def _kind(dtype: str) -> str:
    """float, int, bool or complex."""
    name = dtype.removeprefix("u").rstrip("0123456789")
    return name if name in {"int", "bool", "complex"} else "float"


def _example_sizes(registry: Registry, version_id: str) -> Any:
    """Sizes beyond the batch of the example input saved with a version; None without one."""
    try:
        return _sizes_of(registry.read_artifact(version_id, "example_input"))
    except LookupError:
        return None


def _sizes_of(example: Any) -> Any:
    if isinstance(example, Mapping):
        return [_sizes_of(part) for part in example.values()]
    if isinstance(example, tuple | list):
        return [_sizes_of(part) for part in example]
    return tuple(getattr(example, "shape", ()))[1:]


def _told(outputs: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(
        f"{each['name']} ({', '.join('any' if s is None else str(s) for s in each['shape'])}) "
        f"{each['dtype']}"
        for each in outputs
    )
