"""The errors' tree: as drawn, each under the built-in a caller expects."""

import inspect
import re

import pytest

from modelyard._core import errors
from modelyard._core.errors import ModelyardError, QueueFullError

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass)]


def test_tree_at_the_top_of_the_file_names_every_class_once():
    drawn = re.findall(r"^[ │├└─]*(\w+(?:Error))\b", errors.__doc__, re.MULTILINE)
    assert sorted(drawn) == sorted(cls.__name__ for cls in CLASSES)


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if cls is not ModelyardError])
def test_every_error_is_ours_and_a_built_in(cls):
    assert issubclass(cls, ModelyardError)
    line = next(line for line in errors.__doc__.splitlines() if f" {cls.__name__} " in f"{line} ")
    named = re.search(rf"{cls.__name__}\s+(\w+Error)\b", line)
    if named:
        assert issubclass(cls, __builtins__[named.group(1)])
    assert any(
        base.__module__ == "builtins" and base not in {Exception, BaseException, object}
        for base in cls.__mro__
    )
    assert cls.__doc__


def test_full_queue_tells_when_to_retry():
    error = QueueFullError("full", retry_after_s=0.5)
    assert error.retry_after_s == 0.5
    assert str(error) == "full"
