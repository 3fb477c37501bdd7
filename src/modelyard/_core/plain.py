"""Plain values: what JSON can hold, from what numeric code produces."""

import math
import operator
from collections.abc import Mapping
from typing import Any

from modelyard._core.errors import ConfigError


def as_whole(value: Any) -> int | None:
    """A whole number, also NumPy's; None for anything else."""
    if isinstance(value, bool | float | str):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def to_plain(value: Any, *, where: str = "value") -> Any:
    """`value` with NumPy and tensor scalars as Python numbers, arrays as lists, tuples as lists.

    Enums become their value, paths and datetimes text. NaN and infinities stay: what to do with
    them is the caller's choice (`split_finite`, `finite_or_none`).

    Raises:
        ConfigError: Something JSON cannot hold; the message names the key.
    """
    if value is None or isinstance(value, bool | int | float | str):
        # bool | int | float subclasses (numpy.float64, IntEnum) become the plain type.
        return _plain_scalar(value)
    if isinstance(value, Mapping):
        if len({str(key) for key in value}) < len(value):
            raise ConfigError(f"{where} has two keys that are one as text; JSON knows text only.")
        return {str(key): to_plain(item, where=f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(item, where=f"{where}[{i}]") for i, item in enumerate(value)]
    for method in ("item", "tolist", "isoformat", "__fspath__"):
        convert = getattr(value, method, None)
        # An array of one element is a list of one, not its element.
        if callable(convert) and (method != "item" or not getattr(value, "ndim", False)):
            try:
                return to_plain(convert(), where=where)
            except (TypeError, ValueError, RuntimeError):
                continue
    if hasattr(value, "value"):
        return to_plain(value.value, where=where)
    raise ConfigError(
        f"{where} holds a {type(value).__module__}.{type(value).__qualname__}, which JSON cannot "
        "hold. Store numbers, text, lists and dicts, or pass it through artifacts=."
    )


def _plain_scalar(value: Any) -> Any:
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return None


def finite_or_none(value: float | None) -> float | None:
    """`value`, or None for NaN and infinities, which JSON cannot hold."""
    if value is None or not math.isfinite(value):
        return None
    return float(value)


def without_non_finite(value: Any) -> Any:
    """A plain `value` in which NaN and infinities, however deep, are None."""
    if isinstance(value, float):
        return finite_or_none(value)
    if isinstance(value, dict):
        return {key: without_non_finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_non_finite(item) for item in value]
    return value
