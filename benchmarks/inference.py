"""Inference: backends, calls, techniques and the engine, measured in one run and beside peers.

Writes the tables between the markers in `docs/benchmarks.md`. BentoML and LitServe need other
versions of what the project pins, so they are taken from a folder of their own, or left out:

    python benchmarks/inference.py                # everything
    python benchmarks/inference.py calls engine   # parts
    pip install --target peers bentoml litserve
    PEERS=peers python benchmarks/inference.py engine

Latencies are medians of calls that take turns.
"""

import os
import sys
from dataclasses import asdict
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path += filter(None, [os.environ.get("PEERS")])  # last: what the project pins goes first

import _inference_calls as calls
import _inference_effects as effects
import _inference_engine as engine
import torch
from _inference_backends import backend_rows
from _tables import machine, table, write

from modelyard.torchtools.timing import MS_PER_S
from modelyard.trading import build_models, presets

_SHAPES = {"policy": (2, 263), "transformer": (2, 64, 155), "ts2vec": (2, 256, 4)}
_BUDGET_S = {"policy": 6.0, "transformer": 9.0, "ts2vec": 12.0}
# A batch of 32 of the larger two takes seconds.
_LARGER = {"policy": 32, "transformer": 8, "ts2vec": 8}
_SHOWN = (
    "eager",
    "torchscript",
    "ONNX Runtime by hand",
    "OpenVINO by hand, f32",
    "OpenVINO by hand",
)
_AS_PLAIN = {"eager": "eager PyTorch", "torchscript": "TorchScript"}


def main(parts: list[str]) -> None:
    """Measure the parts named and write their tables."""
    torch.set_num_threads(1)
    models = build_models(presets.document(), seed=0)
    for part in parts:
        text = _PARTS[part](models)
        print(text, flush=True)
        write(f"inference_{part}", f"Measured on {machine()}.\n\n{text}")


# ── parts ───────────────────────────────────────────────────────────────────────────────────────


def _backends(models: Any) -> str:
    rows = []
    for name, shape in _SHAPES.items():
        model = getattr(models, name).eval()
        example = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        found = backend_rows(
            model,
            example,
            batch_sizes=(1, _LARGER[name]),
            budget_s=_BUDGET_S[name],
        )
        rows += _shown(name, found)
        print(table(_BACKEND_COLUMNS, rows), flush=True)
    return table(_BACKEND_COLUMNS, rows)


def _calls(_: Any) -> str:
    return table(calls.COLUMNS, calls.rows())


def _effects(models: Any) -> str:
    rows = []
    for name, shape in _SHAPES.items():
        example = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        rows += effects.rows(name, getattr(models, name).eval(), example)
    return table(effects.COLUMNS, rows)


def _engine(_: Any) -> str:
    throughputs, overloads = engine.rows()
    throughput = [
        [
            row["model"],
            row["contender"],
            f"{row['requests_per_s']:,.0f}",
            f"{row['share']:.0%}",
            f"{row['us_per_request']:.1f}",
        ]
        for row in map(asdict, throughputs)
    ]
    overload = [
        [
            row["model"],
            row["contender"],
            f"{row['offered_per_s']:,.0f}",
            f"{row['in_time_share']:.1%}",
            f"{row['late_share']:.1%}",
            f"{row['refused_share']:.1%}",
            f"{row['worst_ms']:.1f}",
        ]
        for row in map(asdict, overloads)
    ]
    return "\n\n".join(
        [table(_THROUGHPUT_COLUMNS, throughput), table(_OVERLOAD_COLUMNS, overload)]
    )


# ── rows ────────────────────────────────────────────────────────────────────────────────────────

_BACKEND_COLUMNS = [
    "model",
    "#threads",
    "how",
    "#batch 1 (ms)",
    "#speed-up",
    "#larger batch",
    "#(ms)",
    "#speed-up",
    "#samples a second",
    "#off by",
]
_THROUGHPUT_COLUMNS = [
    "model",
    "batcher",
    "#requests a second",
    "#of the ceiling",
    "#us a request above the model",
]
_OVERLOAD_COLUMNS = [
    "model",
    "batcher",
    "#offered a second",
    "#in time",
    "#late",
    "#refused",
    "#slowest answer (ms)",
]


def _shown(name: str, found: list[dict[str, Any]]) -> list[list[str]]:
    """A line a number of threads and way: eager, by hand, what was chosen, int8."""
    lines = []
    for threads in dict.fromkeys(row["threads"] for row in found):
        own = [row for row in found if row["threads"] == threads]
        chosen = {row["batch"]: row for row in own if row["is_chosen"]}
        lines += [_line(name, threads, _AS_PLAIN[how], _at(own, how)) for how in _SHOWN[:2]]
        lines.append(_line(name, threads, f"**chosen**: {_names(chosen)}", chosen))
        lines += [_line(name, threads, how, _at(own, how)) for how in _SHOWN[2:]]
    return [line for line in lines if line]


def _at(rows: list[dict[str, Any]], how: str) -> dict[int, dict[str, Any]]:
    return {row["batch"]: row for row in rows if row["how"] == how}


def _names(chosen: dict[int, dict[str, Any]]) -> str:
    names = list(dict.fromkeys(row["how"] for row in chosen.values()))
    return ", then ".join(names)


def _line(name: str, threads: int, how: str, at: dict[int, dict[str, Any]]) -> list[str]:
    if not at:
        return []
    larger = _LARGER[name]
    one, many = (
        [f"{at[n]['latency_ms']:.3g}", f"{at[n]['speedup']:.2f} x"] if n in at else ["-", "-"]
        for n in (1, larger)  # what lost at one size is not timed there
    )
    rate = f"{larger * MS_PER_S / at[larger]['latency_ms']:,.0f}" if larger in at else "-"
    gap = f"{max(row['max_abs_diff'] for row in at.values()):.1e}"
    return [name, str(threads), how, *one, str(larger), *many, rate, gap]


_PARTS = {"backends": _backends, "calls": _calls, "effects": _effects, "engine": _engine}

if __name__ == "__main__":
    main(sys.argv[1:] or list(_PARTS))
