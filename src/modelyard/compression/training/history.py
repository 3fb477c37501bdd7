"""The history of a training as a table and as a chart."""

from collections.abc import Mapping, Sequence
from typing import Any

from modelyard.compression.records import DistillationEpoch
from modelyard.reporting import Figure, training_curves

_LOSSES = ("loss", "distillation_loss", "task_loss", "feature_loss", "validation_loss")
_COLUMNS = (*_LOSSES, "validation_metric", "learning_rate")


def history_table(history: Sequence[DistillationEpoch]) -> str:
    """An aligned Markdown table, one row an epoch; columns without any value are left out.

    A star marks the epochs that were the best so far; the weights of the last of them are those
    that were kept. Without any, none was better than the start, which has no row: its weights are
    those that were kept (without validation, those of the last epoch).
    """
    names = [
        name for name in _COLUMNS if any(_value(record, name) is not None for record in history)
    ]
    rows = [["epoch", *(name.replace("_", " ") for name in names), "best"]]
    for record in history:
        values = [_shown(_value(record, name)) for name in names]
        rows.append([str(record["epoch"]), *values, "*" if record["is_best"] else ""])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    rule = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def history_figure(history: Sequence[DistillationEpoch], *, title: str = "Training") -> Figure:
    """The losses and the validation metric over the epochs, a panel each.

    Losses that span more than a decade have a logarithmic axis. `modelyard.reporting` turns the
    figure (a dict for Plotly) into a page.
    """
    curves: dict[str, Any] = {}
    for name in (*_LOSSES, "validation_metric"):
        values = [_value(record, name) for record in history]
        if any(value is not None for value in values):
            curves[name.replace("_", " ")] = values
    return training_curves(curves, title=title, x_title="epoch", y_title="value")


def _value(record: Mapping[str, Any], name: str) -> float | None:
    # Records of older versions have fewer fields.
    value: float | None = record.get(name)
    return value


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
    return "| " + " | ".join(padded) + " |"
