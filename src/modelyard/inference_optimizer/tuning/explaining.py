"""What was found, as a table to read."""

import io

from rich.console import Console
from rich.table import Table

from modelyard.inference_optimizer.backends import label_of
from modelyard.inference_optimizer.records import Candidate, Optimization

_WIDTH = 160


def explain(optimization: Optimization) -> str:
    """The backends tried, their latency at each batch size and their fate, as plain text.

    Args:
        optimization: What `optimize_for_inference` returned.
    """
    rows = optimization["candidates"]
    sizes = sorted({n for row in rows for n in row["latency_ms"]}, key=int)
    table = Table(box=None, pad_edge=False)
    table.add_column("backend")
    for n in sizes:
        table.add_column(f"batch {n}", justify="right")
    table.add_column("error", justify="right")
    table.add_column("verdict", overflow="fold")
    for row in rows:
        told = [_latency(row, n) for n in sizes]
        table.add_row(_name(row), *told, _error(row), row["reason"])
    out = io.StringIO()
    console = Console(file=out, width=_WIDTH, color_system=None, highlight=False, markup=False)
    if rows:
        console.print(table)
    for line in _notes(optimization):
        console.print(line)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _name(row: Candidate) -> str:
    mark = "*" if row["is_chosen"] else " "
    return f"{mark} {label_of(row['name'], row['settings'])}"


def _latency(row: Candidate, n: str) -> str:
    if n not in row["latency_ms"]:
        return ""
    return f"{row['latency_ms'][n]:.3g} ms {row['speedup'][n]:.2f}x"


def _error(row: Candidate) -> str:
    gap = row["max_abs_diff"]
    return "" if gap is None else f"{gap:.1e}"


def _notes(optimization: Optimization) -> list[str]:
    """What a table cannot hold."""
    chosen = ", ".join(f"{name} at {n}" for n, name in optimization["backend_by_batch"].items())
    hardware = optimization["hardware"]
    notes = [
        f"In use (*): {chosen}; {optimization['chunk_size']} samples a call for many.",
        (
            f"Errors are the largest absolute differences from eager; the tolerance is "
            f"{optimization['tolerance']:g} of the output's size."
        ),
        (
            f"Latency is the median of a call on {optimization['device']}, in turns, beside the "
            f"speed-up over eager ({hardware.get('gpu') or hardware.get('processor', '')}, "
            f"{hardware.get('torch_threads', '?')} threads)."
        ),
    ]
    if optimization["is_reused"]:
        notes.append("A saved choice is used again: answers were compared, nothing was timed.")
    if optimization["reason"]:
        notes.append(f"Note: {optimization['reason']}.")
    return notes
