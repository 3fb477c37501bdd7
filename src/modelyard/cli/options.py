"""Options that say several things in one text."""

from modelyard._core.errors import ConfigError


def shape_of(text: str) -> tuple[int, ...]:
    """The shape that `--input-shape` gives.

    Raises:
        ConfigError: It is no list of whole numbers.
    """
    try:
        shape = tuple(int(size) for size in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise ConfigError(
            f"--input-shape must be whole numbers of 1 or more such as 1,263; got {text!r}."
        )
    return shape


def axes_of(texts: list[str]) -> dict[str, dict[int, str]] | None:
    """The sizes that `--dynamic` says vary, by input and axis; None where there are none.

    Raises:
        ConfigError: One is not of its form.
    """
    axes: dict[str, dict[int, str]] = {}
    for text in texts:
        place, size = pair_of(text, option="--dynamic", like="input:1=time")
        name, colon, axis = place.rpartition(":")
        if not colon or not axis.isdecimal():
            raise ConfigError(f"--dynamic must be such as input:1=time; got {text!r}.")
        axes.setdefault(name, {})[int(axis)] = size
    return axes or None


def pair_of(text: str, *, option: str, like: str) -> tuple[str, str]:
    """What stands before and after the equals sign.

    Raises:
        ConfigError: There is none, or nothing on one side of it.
    """
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise ConfigError(f"{option} must be such as {like}; got {text!r}.")
    return key, value
