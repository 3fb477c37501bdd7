"""The whole story of a compression as one page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from modelyard.compression.records import (
    CompressionStats,
    DistillationEpoch,
    QuantizationStats,
    SearchResult,
)
from modelyard.compression.training import history_figure
from modelyard.reporting import (
    Block,
    Chart,
    KeyFigures,
    Note,
    Report,
    Section,
    Table,
    compression_overview,
    trade_offs,
)


@dataclass(frozen=True, kw_only=True)
class Story:
    """What there is to tell of a compression.

    Attributes:
        name: Class of the model.
        stats: The way so far.
        rows: One dict a model (original, float, compressed): `model`, `step`, `size_mb`,
            `latency_ms`, `error`; measured side by side.
        measured_on: What errors were measured on.
        quantization: The last one, or None.
        search: The last one, or None.
        histories: Training curves by heading.
    """

    name: str
    stats: CompressionStats
    rows: Sequence[Mapping[str, Any]]
    measured_on: str
    quantization: QuantizationStats | None
    search: SearchResult | None
    histories: Mapping[str, Sequence[DistillationEpoch]]


def report_of(story: Story, *, generated_at: datetime) -> Report:
    """The page: what came of it, each step, each layer, the training, the search."""
    sections = [_outcome(story), _steps(story.stats)]
    if story.quantization is not None:
        sections.append(_layers(story.quantization))
    if any(story.histories.values()):
        sections.append(_training(story.histories))
    if story.search is not None:
        sections.append(_search(story.search))
    return Report(
        title=f"Compression of {story.name}",
        subtitle="Every number measured on this machine, the models in turns in one run",
        generated_at=generated_at,
        sections=sections,
    )


def _outcome(story: Story) -> Section:
    first, last = story.rows[0], story.rows[-1]
    figures = KeyFigures(
        [
            ("size", f"{last['size_mb']:.3g} MB", f"of {first['size_mb']:.3g} MB"),
            (
                "speed",
                f"{first['latency_ms'] / last['latency_ms']:.3g} x",
                f"{last['latency_ms']:.3g} ms, one sample",
            ),
            (
                "relative error",
                f"{last['error']:.2%}",
                f"on {story.measured_on.replace('_', ' ')}",
            ),
        ]
    )
    blocks: list[Block] = [
        figures,
        Chart(compression_overview(story.rows), "Lower is better in every panel."),
    ]
    if story.measured_on == "synthetic":
        blocks.append(
            Note(
                "warning",
                "The error was measured on normal random inputs. Pass `validation_data` to "
                "measure it on data the model is used on.",
            )
        )
    return Section("Outcome", "", blocks)


def _steps(stats: CompressionStats) -> Section:
    rows = [[i, step["step"], _in_words(step)] for i, step in enumerate(stats["steps"], 1)]
    return Section("Steps", "", [Table(["#", "step", "what came of it"], rows)])


def _in_words(step: Mapping[str, Any]) -> str:
    """A step's outcome in one line."""
    if step["step"] == "prune":
        kind = "removed" if step["method"] == "structured" else "zero"
        return f"{step['method']}: {step['actual_sparsity']:.1%} of the weights {kind}"
    if step["step"] == "quantize" and "recipe" in step:
        return (
            f"{step['recipe']}: {step['original_size_mb']:.3g} to {step['quantized_size_mb']:.3g} "
            f"MB, error {step['max_error']:.2%} (limit {step['error_limit']:.0%}, "
            f"{step['validated_on']})"
        )
    if step["step"] in {"distil", "fine_tune"}:
        return f"{step['epochs']} epochs, last loss {step['last']['loss']:.4g}"
    if step["step"] == "search":
        return f"{step['best']} of {step['n_candidates']}"
    return str(step.get("status", ""))


def _layers(stats: QuantizationStats) -> Section:
    rows = [
        [layer["layer"], layer["decision"], layer["reason"] or None, layer["error_alone"]]
        for layer in stats["layers"]
    ]
    attempts = [[a["recipe"], a["error"], a["outcome"]] for a in stats["attempts"]]
    return Section(
        "Quantization",
        "A layer stays in float where it was asked to, or where it alone causes more error than "
        "the limit leaves room for. Errors of single layers are measured only where the whole was "
        "over the limit.",
        [
            Table(
                ["recipe", "relative error", "outcome"],
                attempts,
                caption=f"Measured on {stats['validated_on'].replace('_', ' ')}.",
                formats={"relative error": ".3%"},
            ),
            Table(
                ["layer", "decision", "reason", "error alone"],
                rows,
                formats={"error alone": ".3%"},
            ),
        ],
    )


def _training(histories: Mapping[str, Sequence[DistillationEpoch]]) -> Section:
    charts = [
        Chart(history_figure(history), heading)
        for heading, history in histories.items()
        if history
    ]
    return Section("Training", "", charts)


def _search(result: SearchResult) -> Section:
    columns = ["way", "metric", "drop", "size (MB)", "latency (ms)", "speed-up", "left out"]
    rows = [
        [
            one["name"],
            one["metric"],
            one["metric_drop"],
            one["size_mb"],
            one["latency_ms"],
            one["speedup"],
            one["reason"] or None,
        ]
        for one in result["candidates"]
    ]
    points = [{**one, "quality": one["metric"]} for one in result["candidates"]]
    best = [i for i, one in enumerate(result["candidates"]) if one["name"] == result["best"]]
    blocks: list[Block] = [
        Chart(trade_offs(points, quality="metric"), "Each point is a way to compress."),
        Table(
            columns,
            rows,
            highlight=best,
            caption=f"Chosen: `{result['best']}`, of those that keep every limit, the smallest "
            "within 5 % of the fastest.",
            formats={
                "metric": ".4f",
                "drop": ".2%",
                "size (MB)": ".3f",
                "latency (ms)": ".4f",
                "speed-up": ".2f",
            },
        ),
    ]
    if not result["is_complete"]:
        blocks.append(Note("warning", "The time was up before everything was looked at."))
    return Section("Search", "", blocks)
