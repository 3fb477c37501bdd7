"""Arguments of the exporter, checked before anything is done with them."""

import math
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelyard._core.errors import ConfigError
from modelyard.torchtools.conversion import DynamicAxes


def checked_shape(shape: Any, *, what: str = "input_shape") -> tuple[int, ...]:
    """Sizes of one tensor.

    Raises:
        ConfigError: No sequence of whole numbers of 1 or more.
    """
    is_sequence = isinstance(shape, Sequence) and not isinstance(shape, str)
    sizes = [_whole(size) for size in shape] if is_sequence else []
    if not sizes or any(size is None or size < 1 for size in sizes):
        raise ConfigError(
            f"{what} must be whole numbers of 1 or more, as (1, 263), batch first; got {shape!r}. "
            "For several inputs pass example_input."
        )
    return tuple(size for size in sizes if size is not None)


def checked_axes(axes: Any) -> DynamicAxes | None:
    """Names of sizes that vary, by input or output and axis.

    Raises:
        ConfigError: Another form.
    """
    if axes is None:
        return None
    if not isinstance(axes, Mapping):
        raise ConfigError(_axes_rule(axes))
    checked: dict[str, dict[int, str] | list[int]] = {}
    for name, by_axis in axes.items():
        if not isinstance(name, str) or not name:
            raise ConfigError(_axes_rule(axes))
        if isinstance(by_axis, Mapping):
            pairs = [(_whole(axis), size) for axis, size in by_axis.items()]
            if not all(k is not None and isinstance(v, str) and v for k, v in pairs):
                raise ConfigError(_axes_rule(axes))
            checked[name] = {k: v for k, v in pairs if k is not None}
        else:
            is_list = isinstance(by_axis, Sequence) and not isinstance(by_axis, str)
            found = [_whole(axis) for axis in by_axis] if is_list else [None]
            if any(axis is None for axis in found):
                raise ConfigError(_axes_rule(axes))
            checked[name] = [axis for axis in found if axis is not None]
    return checked


def checked_names(names: Any, *, what: str) -> tuple[str, ...] | None:
    """Names of inputs or outputs, in order.

    Raises:
        ConfigError: No sequence of texts.
    """
    if names is None:
        return None
    is_sequence = isinstance(names, Sequence) and not isinstance(names, str)
    if not is_sequence or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"{what} must be a list of texts, one a tensor; got {names!r}.")
    return tuple(names)


def checked_count(value: Any, *, what: str, least: int = 1) -> int:
    """A whole number.

    Raises:
        ConfigError: It is none, or below `least`.
    """
    number = _whole(value)
    if number is None or number < least:
        raise ConfigError(f"{what} must be a whole number, {least} or more; got {value!r}.")
    return number


def checked_fraction(value: Any, *, what: str) -> float:
    """A number from 0 on.

    Raises:
        ConfigError: It is none.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value < 0:
        raise ConfigError(f"{what} must be a number, 0 or more; got {value!r}.")
    return float(value)


def checked_word(value: Any, words: Sequence[str], *, what: str) -> str:
    """One of several texts.

    Raises:
        ConfigError: None of them.
    """
    if not isinstance(value, str) or value not in words:
        raise ConfigError(f"{what} must be one of {', '.join(words)}, got {value!r}.")
    return value


def checked_path(value: Any, *, what: str) -> Path:
    """A path.

    Raises:
        ConfigError: Something else.
    """
    if not isinstance(value, str | Path) or not str(value):
        raise ConfigError(f"{what} must be a path, got {value!r}.")
    return Path(value)


def _whole(value: Any) -> int | None:
    """A whole number, also NumPy's; None for anything else."""
    if isinstance(value, bool | float | str):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _axes_rule(given: Any) -> str:
    return (
        'dynamic_axes must be such as {"input": {0: "batch_size", 1: "time"}} or '
        f'{{"input": [0, 1]}}, {{}} for none; got {given!r}.'
    )
