"""What an optimizer is made with, checked: a wrong value is told at once and by its name."""

import numbers
from typing import Any

import numpy as np

from modelyard._core.errors import ConfigError
from modelyard._core.plain import as_whole
from modelyard.inference_optimizer import tuning


def whole_number(value: Any, name: str, *, at_least: int, hint: str = "") -> int:
    """`value` as an int.

    Raises:
        ConfigError: It is no whole number, or a smaller one.
    """
    number = as_whole(value)
    if number is None or number < at_least:
        raise ConfigError(
            f"{name} must be {at_least}{hint} or more, a whole number, got {value!r}."
        )
    return number


def check_number(value: Any, name: str, *, above: float | None = None) -> None:
    """See that it is a number of 0 or more, or greater than `above`.

    Raises:
        ConfigError: It is not.
    """
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    # NaN is neither.
    if not is_number or not (value >= 0 if above is None else value > above):
        wanted = "0 or more" if above is None else f"above {above:g}"
        raise ConfigError(f"{name} must be a number {wanted}, got {value!r}.")


def check_flag(value: Any, name: str) -> None:
    """See that it is True or False: a text is true whatever it says.

    Raises:
        ConfigError: It is not.
    """
    if not isinstance(value, bool | np.bool_):
        raise ConfigError(f"{name} must be True or False, got {value!r}.")


def check_backend(value: Any) -> None:
    """See that it is "auto" or one of the backends.

    Raises:
        ConfigError: It is not.
    """
    known = ("auto", *tuning.BACKENDS)
    if value not in known:
        raise ConfigError(f"backend {value!r} is not one of {', '.join(known)}.")
