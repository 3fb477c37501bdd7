"""Stage: an ONNX file that is proved, and the fastest backend that gives the same answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from modelyard.export import ModelExporter, ModelInfo, OutputComparison
from modelyard.inference_optimizer import InferenceOptimizer, Optimization, label_of
from modelyard.pipeline.progress import Progress
from modelyard.pipeline.source import ModelSource

_COMPARED_SAMPLES = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Served:
    """A model as a file, and how it runs.

    Attributes:
        label: Which model.
        path: The ONNX file.
        info: What it holds.
        comparison: Its answers beside the module's on held-out inputs.
        optimization: What each backend gave.
    """

    label: str
    path: str
    info: ModelInfo
    comparison: OutputComparison
    optimization: Optimization

    def backend_rows(self) -> list[dict[str, Any]]:
        """One row a batch size and backend in use, eager or TorchScript, for the plot."""
        return [
            {
                "model": self.label,
                "backend": label_of(candidate["name"], candidate["settings"]),
                "batch": int(batch),
                "latency_ms": latency_ms,
                "is_chosen": int(batch) in candidate["chosen_at"],
            }
            for candidate in self.optimization["candidates"]
            if candidate["is_chosen"] or candidate["name"] in {"eager", "torchscript"}
            for batch, latency_ms in candidate["latency_ms"].items()
        ]


def export_and_optimize(
    source: ModelSource,
    models: Mapping[str, nn.Module],
    folder: Path,
    progress: Progress,
    *,
    metadata: Mapping[str, str],
    options: Mapping[str, Any],
) -> list[Served]:
    """Export each module of `models` (by label), prove it, and measure the backends.

    Args:
        source: Whose inputs are used.
        models: Modules by label; the label names the file.
        folder: Where the files go.
        progress: Gets a line a model.
        metadata: Texts to store in each file.
        options: Arguments of `InferenceOptimizer` (device, batch_size, ...).
    """
    exporter = ModelExporter(folder)
    served = []
    for i, (label, model) in enumerate(models.items()):
        progress.share(f"exporting {label}", i / len(models))
        path = exporter.export_to_onnx(
            model, label, example_input=source.held_out_inputs[:2], metadata=metadata
        )
        comparison = exporter.compare_outputs(
            model, path, source.held_out_inputs[:_COMPARED_SAMPLES]
        )
        progress.share(f"measuring backends of {label}", (i + 0.5) / len(models))
        optimizer = InferenceOptimizer(model, **options)
        optimization = optimizer.optimize_for_inference(source.held_out_inputs[:2])
        one = Served(
            label=label,
            path=path,
            info=exporter.get_model_info(path),
            comparison=comparison,
            optimization=optimization,
        )
        progress.line(_summary(one))
        served.append(one)
    return served


def _summary(one: Served) -> str:
    chosen = one.optimization["backend"]
    row = next((c for c in one.optimization["candidates"] if 1 in c["chosen_at"]), None)
    speedup = row["speedup"].get("1", 1.0) if row else 1.0
    info, gap = one.info, one.comparison["max_abs_diff"]
    return (
        f"{one.label}.onnx: {info['file_size_mb']:.2f} MB, opset {info['opset_version']}, differs "
        f"by {gap:.1e} at the most; {chosen} answers one sample {speedup:.1f} x as fast as eager"
    )
