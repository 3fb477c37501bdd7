"""Puts what a benchmark measured between its markers in `docs/benchmarks.md`."""

import platform
from collections.abc import Sequence
from pathlib import Path

import torch

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"


def machine() -> str:
    """Where the figures come from, in words."""
    return f"{platform.machine()}, {platform.system()}, PyTorch {torch.__version__}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; columns of numbers begin with `#` and stand to the right."""
    rule = ["---:" if column.startswith("#") else "---" for column in columns]
    lines = [[column.lstrip("#") for column in columns], rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(name: str, text: str) -> None:
    """Put `text` between the page's markers for `name`."""
    page = _PAGE.read_text(encoding="utf-8")
    begin, end = f"<!-- begin {name} -->\n", f"<!-- end {name} -->"
    head, _, rest = page.partition(begin)
    _, _, tail = rest.partition(end)
    _PAGE.write_text(f"{head}{begin}{text}\n{end}{tail}", encoding="utf-8")
