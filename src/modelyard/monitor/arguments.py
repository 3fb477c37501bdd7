"""What a caller gave, checked: each rule with its message."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from modelyard._core.errors import ConfigError
from modelyard._core.plain import as_whole


def at_least_one(value: Any, *, what: str) -> int:
    """`value` as a whole number; those of NumPy are taken too.

    Raises:
        ConfigError: No whole number of 1 or more.
    """
    return whole_number(value, what=what, least=1)


def whole_number(value: Any, *, what: str, least: int) -> int:
    """`value` as a whole number.

    Raises:
        ConfigError: No whole number of `least` or more; `True` is none.
    """
    number = as_whole(value)
    if number is None or number < least:
        raise ConfigError(f"{what} must be a whole number of {least} or more, got {value!r}.")
    return number


def positive_number(value: Any, *, what: str) -> float:
    """`value` as a float; every kind of real number is taken.

    Raises:
        ConfigError: It is no number, not finite, or not above 0.
    """
    number = math.nan
    if type(value) is not bool and isinstance(value, Real):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
    if not (math.isfinite(number) and number > 0.0):
        raise ConfigError(f"{what} must be a finite number above 0, got {value!r}.")
    return number


def as_number(name: str, value: Any) -> float:
    """The value of a metric as a float.

    Raises:
        ConfigError: It is no number.
    """
    if not isinstance(name, str):
        raise ConfigError(f"the name of a metric must be text, got {name!r}.")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"metric {name!r} must be a number, got {type(value).__qualname__} {value!r}."
        ) from error


def names_of(names: Any, *, what: str) -> tuple[str, ...]:
    """Names as text, none for None.

    Raises:
        ConfigError: Text instead of a list, what is no list, or a name that comes twice.
    """
    found = () if names is None else tuple(str(name) for name in _listed(names, what=what))
    if len(set(found)) < len(found):
        twice = sorted({name for name in found if found.count(name) > 1})
        raise ConfigError(f"{what} must differ from one another; twice: {', '.join(twice)}.")
    return found


def columns_of(given: Any, names: Sequence[str], *, what: str) -> tuple[str | int, ...]:
    """Columns by name or position, none for None.

    Args:
        given: What the caller said.
        names: All there are, in order; empty while that is not known.
        what: Its name, for the message.

    Raises:
        ConfigError: Text instead of a list, or a column that there is not.
    """
    return tuple(
        _column(one, names, what=what)
        for one in (() if given is None else _listed(given, what=what))
    )


def _column(one: Any, names: Sequence[str], *, what: str) -> str | int:
    if isinstance(one, str):
        if names and one not in names:
            raise ConfigError(f"{what} holds {one!r}, which is none of feature_names=.")
        return str(one)
    position = whole_number(one, what=f"a position in {what}", least=0)
    if names and position >= len(names):
        raise ConfigError(
            f"{what} holds position {position}, but feature_names= has {len(names)}: "
            f"0 to {len(names) - 1}."
        )
    return position


def _listed(given: Any, *, what: str) -> list[Any]:
    if isinstance(given, str | bytes):
        raise ConfigError(f"{what} must be a list of names, got {given!r}. Give [{given!r}].")
    try:
        return list(given)
    except TypeError as error:
        raise ConfigError(f"{what} must be a list of names, got {given!r}.") from error
