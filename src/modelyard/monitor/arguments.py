"""What a caller gave, checked: each rule with its message."""

from typing import Any

from modelyard._core.errors import ConfigError


def at_least_one(value: int, *, what: str) -> int:
    """`value` itself.

    Raises:
        ConfigError: No whole number of 1 or more.
    """
    if not isinstance(value, int) or value < 1:
        raise ConfigError(f"{what} must be a whole number of 1 or more, got {value!r}.")
    return value


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
        ConfigError: One comes twice.
    """
    found = () if names is None else tuple(str(name) for name in names)
    if len(set(found)) < len(found):
        twice = sorted({name for name in found if found.count(name) > 1})
        raise ConfigError(f"{what} must differ from one another; twice: {', '.join(twice)}.")
    return found
