"""YAML as plain values, each with the line it stands on.

The ordinary loader forgets lines and lets the second of two equal keys win; an error in a
configuration file must name the line, and a key that stands twice is an error.
"""

import re
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import yaml

from modelyard._core.errors import ConfigError

Place = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """The safe loader, which also takes `1e-4` for the number that it is in every other language.

    YAML 1.1 wants a dot in it and would give text.
    """


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789")
)


@dataclass(frozen=True)
class Document:
    """A parsed file.

    Attributes:
        value: Its content as plain values; None for an empty file.
        lines: Line of each key or list item, counted from 1, by its place: ("monitoring",
            "window_size").
    """

    value: Any
    lines: dict[Place, int] = field(default_factory=dict)

    def line_of(self, place: Place) -> int:
        """The line of a place, or of the nearest thing around it that has one."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place, 1)


def parsed(text: str, *, name: str) -> Document:
    """The content of a YAML text.

    Args:
        text: One YAML document.
        name: What to call it in messages, such as its path.

    Raises:
        ConfigError: It is no YAML, or a key stands twice in one section. Names the line.
    """
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return Document(None)
        lines: dict[Place, int] = {}
        _note_lines(root, (), lines, name=name)
        return Document(loader.construct_document(root), lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = 1 if mark is None else mark.line + 1
        raise ConfigError(f"{name}:{line}: this is no YAML: {error.problem}.") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{name}:1: this is no YAML: {error}.") from error
    finally:
        loader.dispose()


def _note_lines(node: yaml.Node, place: Place, lines: dict[Place, int], *, name: str) -> None:
    # setdefault: a mapping's key has noted the line already, and that is where people look.
    lines.setdefault(place, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _note_lines(item, (*place, index), lines, name=name)
    elif isinstance(node, yaml.MappingNode):
        first_line: dict[Hashable, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            inner = (*place, str(key.value))
            if key.value in first_line:
                dotted = ".".join(str(part) for part in inner)
                raise ConfigError(
                    f"{name}:{line}: {dotted} stands twice, first on line "
                    f"{first_line[key.value]}. Keep one of them."
                )
            first_line[key.value] = line
            lines[inner] = line
            _note_lines(value, inner, lines, name=name)
