"""Arguments of the exporter, checked before anything is done with them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelyard._core.errors import ConfigError
from modelyard._core.plain import as_whole


def checked_shape(shape: Any, *, what: str = "input_shape") -> tuple[int, ...]:
    """Sizes of one tensor.

    Raises:
        ConfigError: No sequence of whole numbers of 1 or more.
    """
    is_sequence = isinstance(shape, Sequence) and not isinstance(shape, str)
    sizes = [as_whole(size) for size in shape] if is_sequence else []
    if not sizes or any(size is None or size < 1 for size in sizes):
        raise ConfigError(
            f"{what} must be whole numbers of 1 or more, as (1, 263), batch first; got {shape!r}. "
            "For several inputs pass example_input."
        )
    return tuple(size for size in sizes if size is not None)


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
    number = as_whole(value)
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
