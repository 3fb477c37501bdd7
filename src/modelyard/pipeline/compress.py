"""Stage: a smaller model, measured beside the original at every step."""

import copy
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from modelyard._core.errors import QuantizationError
from modelyard.compression import ModelCompressor
from modelyard.pipeline.progress import Progress
from modelyard.pipeline.source import ModelSource
from modelyard.torchtools.inputs import answer_of
from modelyard.torchtools.layers import size_mb
from modelyard.torchtools.originals import mean_original
from modelyard.torchtools.parity import flat_outputs
from modelyard.torchtools.quantization import error_between
from modelyard.torchtools.threads import torch_threads
from modelyard.torchtools.timing import MS_PER_S, interleaved_medians

_TIMING_BUDGET_S = 2.0
_DISTILLATION_BATCH = 64
_SMALL_MB = 5.0


@dataclass(frozen=True, kw_only=True)
class CompressionPlan:
    """How models are compressed.

    Attributes:
        amount: Share to prune.
        method: Pruning method.
        dtype: Of the int8 weights.
        backend: As `ModelCompressor.quantize_model` takes it.
        temperature, epochs: Of the distillation that mends what pruning broke.
        max_error: Largest relative error int8 may add.
        seed: Of everything left to chance.
    """

    amount: float = 0.3
    method: str = "l1_unstructured"
    dtype: torch.dtype = torch.qint8
    backend: str = "fbgemm"
    temperature: float = 3.0
    epochs: int = 10
    max_error: float = 0.1
    seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Compressed:
    """A model before and after.

    Attributes:
        source: What it was made from.
        compressor: The compressor, for its statistics.
        model: The compressed module, to go on with.
        kind: How it relates to the original in lineage: "quantized" or "compressed".
        rows: One dict a step: `model`, `step`, `size_mb`, `latency_ms` (one sample, all steps
            timed in turns), `error` (relative, of the outputs on held-out inputs), `metrics`.
        distillation_loss: One value an epoch.
        note: Why it was not quantized, or an empty text.
    """

    source: ModelSource
    compressor: ModelCompressor
    model: nn.Module
    kind: str
    rows: list[dict[str, Any]]
    distillation_loss: list[float]
    note: str

    @property
    def metrics(self) -> Mapping[str, float]:
        """Metrics of the compressed model."""
        metrics: Mapping[str, float] = self.rows[-1]["metrics"]
        return metrics


def compress_source(source: ModelSource, plan: CompressionPlan, progress: Progress) -> Compressed:
    """Prune, distil back what pruning broke, quantize; measure each step.

    A model that int8 would change too much stays float, and the result says so.
    """
    mean_original(source.model)  # the original is saved and exported beside the compressed one
    calibration, validation = _halves(source.train_inputs)
    compressor = ModelCompressor(
        source.model,
        example_input=calibration[:2],
        validation_data=validation,
        seed=plan.seed,
    )
    steps: dict[str, nn.Module] = {"original": source.model}
    pruned = compressor.prune_model(
        amount=plan.amount, method=source.pruning_method or plan.method
    )
    steps["pruned"] = copy.deepcopy(compressor.model)
    _distil(compressor, source, calibration, plan, progress)
    steps["distilled"] = copy.deepcopy(compressor.model)
    compressor.make_pruning_permanent()
    note = ""
    try:
        compressor.quantize_model(plan.dtype, plan.backend, max_error=plan.max_error)
        compressor.calibrate_quantization(calibration)
        steps["int8"] = compressor.model
    except QuantizationError as error:
        note = str(error)
    rows = measured(source, steps)
    progress.line(
        f"{source.name}: {rows[0]['size_mb']:.2f} → {rows[-1]['size_mb']:.2f} MB, "
        f"{rows[0]['latency_ms'] / rows[-1]['latency_ms']:.1f} x as fast, "
        f"{source.primary_metric} {rows[0]['metrics'][source.primary_metric]:.3f} → "
        f"{rows[-1]['metrics'][source.primary_metric]:.3f} "
        f"({pruned['actual_sparsity']:.0%} pruned by {pruned['method']})"
    )
    return Compressed(
        source=source,
        compressor=compressor,
        model=compressor.model,
        kind="compressed" if note else "quantized",
        rows=rows,
        distillation_loss=[epoch["loss"] for epoch in compressor.distillation_history],
        note=note,
    )


def measured(source: ModelSource, models: Mapping[str, nn.Module]) -> list[dict[str, Any]]:
    """Size, latency, error and metrics of several modules, the first being the reference."""
    sample, inputs = source.held_out_inputs[:1], source.held_out_inputs[:1024]
    expected = flat_outputs(answer_of(source.model, inputs))
    latencies = interleaved_medians(
        {name: functools.partial(answer_of, model, sample) for name, model in models.items()},
        budget_s=_TIMING_BUDGET_S,
    )
    return [
        {
            "model": source.name,
            "step": name,
            "size_mb": size_mb(model),
            "latency_ms": latencies[name] * MS_PER_S,
            "error": error_between([expected], [flat_outputs(answer_of(model, inputs))]),
            "metrics": dict(source.evaluate(model)),
        }
        for name, model in models.items()
    ]


def _halves(inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs to calibrate with, and others to measure the error on."""
    return inputs[::2], inputs[1::2]


def _distil(
    compressor: ModelCompressor,
    source: ModelSource,
    inputs: torch.Tensor,
    plan: CompressionPlan,
    progress: Progress,
) -> None:
    loader = DataLoader(
        TensorDataset(inputs),
        batch_size=_DISTILLATION_BATCH,
        shuffle=True,
        generator=torch.Generator().manual_seed(plan.seed),
    )
    # On a busy machine a second thread makes a small model several times slower.
    is_small = size_mb(source.model) < _SMALL_MB
    with torch_threads(1 if is_small else torch.get_num_threads()):
        compressor.knowledge_distillation(
            teacher_model=source.model,
            student_model=compressor.model,
            train_loader=loader,
            temperature=plan.temperature,
            alpha=1.0,  # the teacher's answers are all there is to learn
            epochs=plan.epochs,
            task=source.distillation_task,
            progress=lambda epoch: progress.share(
                f"distilling {source.name}", epoch["epoch"] / plan.epochs
            ),
        )
