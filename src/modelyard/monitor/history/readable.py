"""Stored values that can still be read; a damaged one must not keep a monitor from starting."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from modelyard._core.errors import ConfigError

_logger = logging.getLogger(__name__)

_Stored = TypeVar("_Stored")
_Read = TypeVar("_Read")


def readable(
    stored: Iterable[_Stored], read: Callable[[_Stored], _Read], *, what: str, model_name: str
) -> list[_Read]:
    """What can be read, in order; each of the rest is named in a warning and stays stored.

    Args:
        stored: As the store has them.
        read: Reads one; raises for one that is damaged.
        what: One of them, for the warning.
        model_name: Whose.
    """
    return list(each_readable(stored, read, what=what, model_name=model_name))


def each_readable(
    stored: Iterable[_Stored], read: Callable[[_Stored], _Read], *, what: str, model_name: str
) -> Iterator[_Read]:
    """As `readable`, one after another: all of a long history need not be held at once."""
    for i, one in enumerate(stored):
        try:
            item = read(one)
        except (AttributeError, ConfigError, IndexError, KeyError, TypeError, ValueError) as error:
            _logger.warning(
                "%s %d of monitor %r cannot be read and is left out: %r",
                what.capitalize(),
                i,
                model_name,
                error,
            )
        else:
            yield item
