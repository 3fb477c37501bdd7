"""What measuring the backends found, as one page."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from modelyard.inference_optimizer.records import Optimization
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


def label_of(candidate: Mapping[str, Any]) -> str:
    """A candidate's name with the settings that tell it from its family."""
    settings = ", ".join(f"{key} {value}" for key, value in candidate["settings"].items())
    return f"{candidate['name']} ({settings})" if settings else str(candidate["name"])


def _outcome(name: str, found: Optimization, benchmark: Mapping[str, Any]) -> Section:
    chosen = next((c for c in found["candidates"] if c["is_chosen"] and "1" in c["speedup"]), None)
    speedups = [c["speedup"]["1"] for c in found["candidates"] if c["is_chosen"] and c["speedup"]]
    figures = KeyFigures(
        [
            ("backend", found["backend"], "for one sample"),
            ("median", f"{benchmark['median_latency_ms']:.3g} ms", "a call of one sample"),
            ("99th percentile", f"{benchmark['p99_latency_ms']:.3g} ms", "the same"),
            *(
                []
                if chosen is None or not speedups
                else [("speed", f"{max(speedups):.3g} x", "eager PyTorch, one sample")]
            ),
        ]
    )
    blocks: list[Block] = [figures]
    rows = _bars(name, found["candidates"])
    if rows:
        blocks.append(Chart(backend_latencies(rows), "Lower is better."))
    if found["reason"]:
        blocks.append(Note("info", found["reason"]))
    return Section("Outcome", "", blocks)


def _bars(name: str, candidates: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row a candidate and batch size, for the candidates that came closest."""
    timed = [c for c in candidates if c["latency_ms"]]
    timed.sort(
        key=lambda c: (not c["is_chosen"], c["name"] != "eager", min(c["latency_ms"].values()))
    )
    return [
        {
            "model": name,
            "backend": label_of(c),
            "batch": batch,
            "latency_ms": latency_ms,
            "is_chosen": c["is_chosen"] and f"batch {batch}" in c["reason"],
        }
        for c in timed[:_MOST_BARS]
        for batch, latency_ms in c["latency_ms"].items()
    ]


def _candidates(found: Optimization) -> Section:
    sizes = list(dict.fromkeys(n for c in found["candidates"] for n in c["latency_ms"]))
    columns = ["backend", *(f"batch {n} (ms)" for n in sizes), "speed-up", "off by", "verdict"]
    rows = [
        [
            label_of(c),
            *(c["latency_ms"].get(n) for n in sizes),
            c["speedup"].get("1"),
            c["max_abs_diff"],
            c["reason"],
        ]
        for c in found["candidates"]
    ]
    formats = {f"batch {n} (ms)": ".4g" for n in sizes}
    table = Table(
        columns,
        rows,
        highlight=[i for i, c in enumerate(found["candidates"]) if c["is_chosen"]],
        caption="Speed-up over eager at one sample. `off by` is the largest difference from "
        f"eager; allowed are {found['tolerance']:g} of the output's size.",
        formats={**formats, "speed-up": ".2f", "off by": ".1e"},
    )
    return Section("Candidates", "", [table])
