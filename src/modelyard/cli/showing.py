"""What a person or a machine sees: tables, pairs, JSON."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from modelyard._core.plain import to_plain, without_non_finite

# Where there is no terminal, rich would cut tables at 80 columns, and ids with them.
_WIDTH_OF_A_PIPE = 200
_BYTES_PER_MB = 1e6
# How a command ends that has done its work and found what it looks for, which is no failure.
FOUND = 3

errors = Console(stderr=True)


def output() -> Console:
    """The console for results, on the standard output of this moment."""
    return Console(width=None if sys.stdout.isatty() else _WIDTH_OF_A_PIPE)


def show_json(value: Any) -> None:
    """Print plain JSON; NaN and infinities become null."""
    typer.echo(json.dumps(without_non_finite(to_plain(value)), indent=2, ensure_ascii=False))


def show_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, whole: int = 1) -> None:
    """Print a table; the first `whole` columns are never broken over lines."""
    table = Table()
    for position, name in enumerate(columns):
        table.add_column(name, no_wrap=position < whole, overflow="fold")
    for row in rows:
        table.add_row(*(as_text(cell) for cell in row))
    output().print(table, markup=False)


def show_pairs(pairs: Mapping[str, Any]) -> None:
    """Print names and values, one pair a line."""
    show_table(["", ""], list(pairs.items()))


def show_line(text: str) -> None:
    """Print one line as it is."""
    output().print(text, markup=False, highlight=False, soft_wrap=True)


def as_text(value: Any) -> str:
    """A value as a cell of a table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {as_text(item)}" for name, item in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(as_text(item) for item in value) or "-"
    return str(value)


def megabytes(size_bytes: float) -> str:
    """A size for people, 1 MB being 10^6 bytes."""
    return f"{size_bytes / _BYTES_PER_MB:.3f}"


def shares(traffic: Mapping[str, float]) -> str:
    """Parts of the traffic for people."""
    return ", ".join(f"{version_id} {share:.0%}" for version_id, share in traffic.items())
