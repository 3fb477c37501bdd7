"""What measuring the backends found, as one page."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from modelyard.inference_optimizer.backends import label_of
from modelyard.inference_optimizer.records import Candidate, Optimization
from modelyard.reporting import (
    Block,
    Chart,
    KeyFigures,
    Note,
    Report,
    Section,
    Table,
    backend_latencies,
)

_MOST_BARS = 8
_PLAIN_NAMES = {
    "onnxruntime": "ONNX Runtime",
    "onnxruntime_cuda": "ONNX Runtime on CUDA",
    "openvino": "OpenVINO",
    "openvino_bfloat16": "OpenVINO in bfloat16",
    "torchscript": "Torch Script",
    "cuda_graph": "CUDA graph",
    "compile": "torch compile",
}


def report_of(
    name: str, found: Optimization, benchmark: Mapping[str, Any], *, generated_at: datetime
) -> Report:
    """The page: what was chosen, every candidate beside eager, where it was measured.

    Args:
        name: Of the model.
        found: What `optimize_for_inference` gave.
        benchmark: What `benchmark` gave for one sample afterwards.
        generated_at: Shown on the page.
    """
    sections = [_outcome(name, found, benchmark), _candidates(found)]
    hardware = {"device": found["device"], **found["hardware"]}
    sections.append(Section("Machine", "", [Table(["", ""], [*map(list, hardware.items())])]))
    return Report(
        title=f"Inference of {name}",
        subtitle="Every number measured on this machine, the backends in turns in one run",
        generated_at=generated_at,
        sections=sections,
    )


def _outcome(name: str, found: Optimization, benchmark: Mapping[str, Any]) -> Section:
    speedups = [c["speedup"].get("1", 0.0) for c in found["candidates"] if 1 in c["chosen_at"]]
    cells = [
        ("backend", _PLAIN_NAMES.get(found["backend"], found["backend"]), "for one sample"),
        ("median", f"{benchmark['median_latency_ms']:.3g} ms", "a call of one sample"),
        ("99th percentile", f"{benchmark['p99_latency_ms']:.3g} ms", "of the same calls"),
    ]
    if any(speedups):
        cells.append(("speed", f"{max(speedups):.3g} x", "as fast as eager, one sample"))
    blocks: list[Block] = [KeyFigures(cells)]
    bars = _bars(name, found["candidates"])
    if bars:
        blocks.append(Chart(backend_latencies(bars), "Lower is better."))
    if found["reason"]:
        blocks.append(Note("info", found["reason"]))
    return Section("Outcome", "", blocks)


def _bars(name: str, candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    """A row a candidate and batch size: those in use and eager, then the fastest of the rest."""
    timed = [c for c in candidates if c["latency_ms"]]
    timed.sort(
        key=lambda c: (not c["is_chosen"], c["name"] != "eager", min(c["latency_ms"].values()))
    )
    return [
        {
            "model": name,
            "backend": label_of(c["name"], c["settings"]),
            "batch": batch,
            "latency_ms": latency_ms,
            "is_chosen": int(batch) in c["chosen_at"],
        }
        for c in timed[:_MOST_BARS]
        for batch, latency_ms in c["latency_ms"].items()
    ]


def _candidates(found: Optimization) -> Section:
    rows = found["candidates"]
    sizes = list(dict.fromkeys(n for c in rows for n in c["latency_ms"]))
    labels = [label_of(c["name"], c["settings"]) for c in rows]
    chosen = [i for i, c in enumerate(rows) if c["is_chosen"]]
    figures = Table(
        ["backend", *(f"batch {n} (ms)" for n in sizes), "speed-up", "off by"],
        [
            [
                label,
                *(c["latency_ms"].get(n) for n in sizes),
                c["speedup"].get("1"),
                c["max_abs_diff"],
            ]
            for label, c in zip(labels, rows, strict=True)
        ],
        highlight=chosen,
        caption="Speed-up over eager at one sample. `off by` is the largest difference from "
        f"eager; allowed are {found['tolerance']:g} of the output's size.",
        formats={
            **{f"batch {n} (ms)": ".4g" for n in sizes},
            "speed-up": ".2f",
            "off by": ".1e",
        },
    )
    verdicts = Table(
        ["backend", "verdict"],
        [[label, c["reason"]] for label, c in zip(labels, rows, strict=True)],
        highlight=chosen,
    )
    return Section("Candidates", "", [figures, verdicts])
