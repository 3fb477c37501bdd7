"""A report as one HTML file: it opens from a folder, needs no network and loads nothing.

The script of plotly.js comes from the installed package and is embedded once. A content security
policy in the page forbids every request and every script but the two embedded, by their hashes.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from typing import Any, Literal, TypeAlias

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from modelyard._core.errors import ConfigError
from modelyard._core.plain import to_plain, without_non_finite
from modelyard.reporting.figures import Figure

NoteKind: TypeAlias = Literal["info", "good", "warning", "critical"]

_NO_VALUE = "—"
_NOTE_LABELS: dict[str, str] = {
    "info": "Note",
    "good": "Good",
    "warning": "Warning",
    "critical": "Critical",
}


@dataclass(frozen=True)
class Chart:
    """A figure with a caption under it.

    Attributes:
        figure: A dict with `data` and `layout`, or a `plotly.graph_objects.Figure`.
        caption: What to see in it; text between backticks becomes code.
    """

    figure: Figure | Any
    caption: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of values; columns of numbers are aligned right.

    Attributes:
        columns: Headings.
        rows: One value a column. None and NaN show as a dash, booleans as yes and no.
        caption: What the table says; text between backticks becomes code.
        highlight: Indices of rows to set off.
        formats: Heading to format specification, such as ".2f" or ".1%"; other numbers show four
            significant digits.
        bars: Headings of columns whose numbers have a bar behind them, as long as the number is
            beside the largest of its column.
        whole: Headings of columns whose text is never broken over lines, such as times.

    Raises:
        ConfigError: A row has more or fewer values than there are columns.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    highlight: Collection[int] = ()
    formats: Mapping[str, str] = field(default_factory=dict)
    bars: Collection[str] = ()
    whole: Collection[str] = ()

    def __post_init__(self) -> None:
        for index, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ConfigError(
                    f"Row {index} has {len(row)} values for {len(self.columns)} columns "
                    f"({', '.join(self.columns)}). Use None for a value that is missing."
                )


@dataclass(frozen=True)
class KeyFigures:
    """The few numbers a reader must see first.

    Attributes:
        figures: (label, value, note) each; a value is a number or text with its unit.
    """

    figures: Sequence[tuple[str, Any, str]]


@dataclass(frozen=True)
class Note:
    """A remark set off from the text.

    Attributes:
        kind: How grave it is.
        text: The remark; text between backticks becomes code.

    Raises:
        ConfigError: Unknown kind.
    """

    kind: NoteKind
    text: str

    def __post_init__(self) -> None:
        if self.kind not in _NOTE_LABELS:
            raise ConfigError(f"Unknown note kind {self.kind!r}; use one of {list(_NOTE_LABELS)}.")


Block: TypeAlias = Chart | Table | KeyFigures | Note


@dataclass(frozen=True)
class Section:
    """A heading with text and blocks under it.

    Attributes:
        title: The heading, also in the table of contents.
        text: Paragraphs, parted by empty lines; text between backticks becomes code.
        blocks: Charts, tables, key figures and notes in reading order.
    """

    title: str
    text: str = ""
    blocks: Sequence[Block] = ()


@dataclass(frozen=True)
class Report:
    """A whole page.

    Attributes:
        title: Heading and window title.
        subtitle: One line under it.
        generated_at: When, with its time zone; shown in UTC.
        sections: In reading order.
    """

    title: str
    subtitle: str
    generated_at: datetime
    sections: Sequence[Section]


def render(report: Report) -> str:
    """The report as one HTML document; equal reports give equal text.

    Raises:
        ConfigError: A figure holds what JSON cannot.
    """
    scripts = {"plotly": _plotly_script(), "draw": _template_text("report.js")}
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
        "form-action 'none'; script-src "
        + " ".join(f"'sha256-{_digest(script)}'" for script in scripts.values())
    )
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            generated_at=report.generated_at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            sections=_views(report.sections),
            # Quotes must stay as they are inside the attribute, which has double ones.
            policy=Markup(policy),  # noqa: S704 - made here, of constants and digests
            style=Markup(_template_text("report.css")),  # noqa: S704 - a file of this package
            scripts={name: Markup(text) for name, text in scripts.items()},  # noqa: S704 - as above
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("modelyard.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = _prose
    return environment


def _plotly_script() -> str:
    # Imported here: it takes half a second, and only a finished report needs it.
    from plotly.offline import get_plotlyjs  # noqa: PLC0415

    return str(get_plotlyjs())


def _template_text(name: str) -> str:
    return (resources.files("modelyard.reporting") / "templates" / name).read_text("utf-8")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _prose(text: str) -> Markup:
    """Escaped `text` with `code` between backticks."""
    return Markup(re.sub(r"`([^`\n]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704


def _views(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """What the template needs of each section, charts numbered through the page."""
    views = []
    n_charts = 0
    for index, section in enumerate(sections, start=1):
        blocks = []
        for block in section.blocks:
            n_charts += isinstance(block, Chart)
            blocks.append(_view(block, chart_id=f"chart-{n_charts}"))
        paragraphs = [part for part in re.split(r"\n\s*\n", section.text.strip()) if part]
        anchor = f"section-{index}"
        views.append(
            {"id": anchor, "title": section.title, "paragraphs": paragraphs, "blocks": blocks}
        )
    return views


def _view(block: Block, *, chart_id: str) -> dict[str, Any]:
    match block:
        case Chart():
            return _chart_view(block, chart_id)
        case Table():
            return _table_view(block)
        case KeyFigures():
            figures = [(label, _cell(value, ""), note) for label, value, note in block.figures]
            return {"kind": "key_figures", "figures": figures}
        case Note():
            label = _NOTE_LABELS[block.kind]
            return {"kind": "note", "note": block.kind, "label": label, "text": block.text}


def _chart_view(chart: Chart, chart_id: str) -> dict[str, Any]:
    """The title stands in the page, where it can wrap, and not in the drawing."""
    as_dict = getattr(chart.figure, "to_plotly_json", None)
    figure = without_non_finite(to_plain(as_dict() if as_dict else chart.figure, where="figure"))
    layout = dict(figure.get("layout", {}))
    title = (layout.pop("title", None) or {}).get("text", "")
    payload = json.dumps({"data": figure.get("data", []), "layout": layout}, allow_nan=False)
    return {
        "kind": "chart",
        "id": chart_id,
        "title": title,
        "caption": chart.caption,
        "height": layout.get("height", 360),
        # "<" is all that could end the script element the JSON stands in.
        "json": Markup(payload.replace("<", "\\u003c")),  # noqa: S704
    }


def _table_view(table: Table) -> dict[str, Any]:
    columns = list(zip(*table.rows, strict=True)) if table.rows else [()] * len(table.columns)
    is_number = [_is_numeric(values) for values in columns]
    parts = [
        _bar_lengths(values) if head in table.bars and is_numeric else [None] * len(values)
        for head, values, is_numeric in zip(table.columns, columns, is_number, strict=True)
    ]
    kinds = [
        "number" if is_numeric else "whole" if head in table.whole else ""
        for head, is_numeric in zip(table.columns, is_number, strict=True)
    ]
    rows = []
    for index, row in enumerate(table.rows):
        cells = [
            _cell(value, table.formats.get(column, ""))
            for column, value in zip(table.columns, row, strict=True)
        ]
        lengths = [column[index] for column in parts]
        shown = list(zip(cells, kinds, lengths, strict=True))
        rows.append((shown, index in table.highlight))
    heads = list(zip(table.columns, is_number, strict=True))
    return {"kind": "table", "heads": heads, "rows": rows, "caption": table.caption}


def _is_numeric(values: Sequence[Any]) -> bool:
    """Whether the present values of a column are numbers, at least one of them."""
    present = [to_plain(value) for value in values if value is not None]
    return bool(present) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in present
    )


def _bar_lengths(values: Sequence[Any]) -> list[str | None]:
    """Length of each value's bar in percent of its cell; None for no bar."""
    sizes = [0.0 if value is None else abs(float(value)) for value in values]
    finite = [size if math.isfinite(size) else 0.0 for size in sizes]
    largest = max(finite) or 1.0
    return [f"{100 * size / largest:.0f}" if size else None for size in finite]


def _cell(value: Any, specification: str) -> str:
    plain = to_plain(value)
    if plain is None or (isinstance(plain, float) and math.isnan(plain)):
        return _NO_VALUE
    if isinstance(plain, bool):
        return "yes" if plain else "no"
    if isinstance(plain, int | float):
        # A true minus sign is as wide as a digit, so columns line up.
        default = "," if isinstance(plain, int) else ",.4g"
        return format(plain, specification or default).replace("-", "\u2212")
    return str(plain)
