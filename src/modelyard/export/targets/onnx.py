"""ONNX: one file, in any precision."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from modelyard._core.errors import ConversionError
from modelyard.export.metadata import with_metadata
from modelyard.export.optimization import Measured, optimized
from modelyard.export.targets.base import PRECISIONS, Job, Written
from modelyard.torchtools import quantization
from modelyard.torchtools.conversion import (
    Graph,
    Verification,
    graph_of,
    opset_of_bytes,
    run_of,
)
from modelyard.torchtools.inputs import Inputs
from modelyard.torchtools.samples import reference_for, synthetic_batches

_HALVES: dict[str, tuple[Callable[[bytes], bytes], torch.dtype]] = {
    "fp16": (quantization.float16, torch.float16),
    "bf16": (quantization.bfloat16_weights, torch.bfloat16),
}


class OnnxTarget:
    """An ONNX graph that ONNX Runtime was seen to answer right with."""

    suffixes: tuple[str, ...] = (".onnx",)
    precisions: tuple[str, ...] = PRECISIONS

    def write(self, job: Job) -> Written:
        """The graph in the precision asked for, optimised where that measures faster."""
        graph, details = graph_in_precision(job)
        data = graph.data
        # ONNX Runtime 1.32 crashes on loading some float16 graphs that its own pass wrote.
        if job.should_optimize and job.precision == "fp32":
            measured = optimized(data, job.subject.interface)
            data = measured.data
            details["optimization"] = _told(measured)
        return Written(
            files={".onnx": with_metadata(data, job.metadata)},
            route=graph.route,
            verification=graph.verification,
            details=details,
        )


def graph_in_precision(job: Job) -> tuple[Graph, dict[str, Any]]:
    """The verified graph in the precision asked for, and what is to be told of it.

    Raises:
        ConversionError: It cannot be made, or its answers are off by more than the precision's.
        QuantizationError: int8 is off by more than `max_error`.
    """
    graph = graph_of(job.subject, opset=job.opset)
    if job.precision == "fp32":
        return graph, {}
    if job.precision == "int8":
        return _int8(job, graph)
    narrow, dtype = _HALVES[job.precision]
    data = narrow(graph.data)
    _check_opset(data, job)
    return Graph(data=data, route=graph.route, verification=_verified(job, data, dtype)), {}


def _verified(job: Job, data: bytes, dtype: torch.dtype) -> Verification | None:
    if not job.subject.samples:
        return None
    try:
        return job.subject.compared(run_of(data), lowest=dtype)
    except ConversionError as error:
        raise ConversionError(
            f"{job.subject.kind} in {job.precision} is off by more than that precision explains: "
            f'{error}. Use precision="fp32".'
        ) from error


def _int8(job: Job, graph: Graph) -> tuple[Graph, dict[str, Any]]:
    subject = job.subject
    batches: Sequence[Inputs] = job.calibration or synthetic_batches(subject.interface.example)
    recipes: list[quantization.Recipe] = [quantization.DynamicInt8()]
    if quantization.has_convolution(graph.data):
        methods = quantization.METHODS
        recipes = [quantization.StaticInt8(quantization.Calibration(batches, m)) for m in methods]
    quantized = quantization.quantized_within(
        quantization.Source(graph.data),
        recipes,
        reference_for(subject.module, batches, is_real=bool(job.calibration)),
        max_error=job.max_error,
    )
    _check_opset(quantized.data, job)
    details = {
        "recipe": quantized.recipe,
        "max_error": quantized.error,
        "validated_on": "validation_data" if job.calibration else "synthetic",
        "layers_kept_float": quantized.layers_kept_float,
        "portable": quantized.is_portable,
    }
    verification = subject.ran(run_of(quantized.data)) if subject.samples else None
    return Graph(data=quantized.data, route=graph.route, verification=verification), details


def _check_opset(data: bytes, job: Job) -> None:
    found = opset_of_bytes(data)
    if found != job.opset:
        raise ConversionError(
            f"In {job.precision} the graph needs opset {found}, not {job.opset}: pass "
            f"opset_version={found}."
        )


def _told(measured: Measured) -> dict[str, Any]:
    """What was measured, as plain values."""
    return {"kept": measured.is_kept, "by_batch_size": measured.by_batch_size}
