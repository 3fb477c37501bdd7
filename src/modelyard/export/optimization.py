"""A smaller graph, kept only where it measures faster and answers the same."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import torch

from modelyard.torchtools.conversion import Interface, opset_of
from modelyard.torchtools.inputs import tensors_of
from modelyard.torchtools.onnx_module import make_session, run_session
from modelyard.torchtools.parity import differences
from modelyard.torchtools.timing import MS_PER_S, interleaved_medians

BATCH_SIZES = (1, 8, 32)
_BUDGET_S = 0.15  # a batch size
_LONGEST_CALL_MS = 100.0
_NEEDED_GAIN = 0.97  # a smaller gain is noise
_ALLOWED_LOSS = 1.03  # and so is a smaller loss
_RTOL = 1e-5
_ATOL = 1e-6


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The graph to keep, and why.

    Attributes:
        data: The serialised graph.
        is_kept: Whether it is the simplified one.
        by_batch_size: Median milliseconds of both, `{"1": {"raw_ms", "optimized_ms"}}`; empty
            where simplifying changed nothing, or the answers.
    """

    data: bytes
    is_kept: bool
    by_batch_size: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def optimized(graph: bytes, interface: Interface) -> Measured:
    """The graph after ONNX Runtime's basic pass, if that is equal and faster; else `graph`.

    The pass folds constants and removes dead operators. What counts is the time, in turns, at a
    batch of 1, 8 and 32, up to the first that takes a tenth of a second, or at the size that is
    fixed: fewer operators alone make nothing faster.
    """
    raw = Measured(data=graph, is_kept=False)
    candidate = _folded(graph)
    if candidate is None:
        return raw
    before, after = make_session(graph, threads=1), make_session(candidate, threads=1)
    times = {}
    for sizes in _sizes(interface):
        tensors = tensors_of(interface.resized(sizes))
        gaps = differences(run_session(before, tensors), run_session(after, tensors))
        if not all(gap.is_within(rtol=_RTOL, atol=_ATOL) for gap in gaps):
            return raw
        medians = _medians({"raw_ms": before, "optimized_ms": after}, tensors)
        n = str(sizes[interface.batch]) if interface.batch else "fixed"
        times[n] = {name: seconds * MS_PER_S for name, seconds in medians.items()}
        if times[n]["raw_ms"] > _LONGEST_CALL_MS:
            break  # a larger batch would take minutes to time
    is_kept = is_faster(times)
    return Measured(data=candidate if is_kept else graph, is_kept=is_kept, by_batch_size=times)


def _medians(sessions: Mapping[str, Any], tensors: list[torch.Tensor]) -> dict[str, float]:
    calls = {name: partial(run_session, session, tensors) for name, session in sessions.items()}
    return interleaved_medians(calls, budget_s=_BUDGET_S)


def is_faster(times: Mapping[str, Mapping[str, float]]) -> bool:
    """Whether the simplified graph gains at some batch size and loses at none."""
    ratios = [entry["optimized_ms"] / entry["raw_ms"] for entry in times.values()]
    return bool(ratios) and min(ratios) < _NEEDED_GAIN and max(ratios) < _ALLOWED_LOSS


def _sizes(interface: Interface) -> list[dict[str, int]]:
    if interface.batch is None:
        return [dict(interface.sizes)]
    return [{**interface.sizes, interface.batch: n} for n in BATCH_SIZES]


def _folded(graph: bytes) -> bytes | None:
    """The graph after the basic pass.

    None where that changed nothing, or left standard ONNX or the opset behind.
    """
    before = onnx.load_from_string(graph)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "folded.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(target)
        ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        after = onnx.load(target)
    if any(node.domain not in {"", "ai.onnx"} for node in after.graph.node):
        return None
    if opset_of(after) != opset_of(before) or _operators(after) == _operators(before):
        return None
    del after.opset_import[:]
    after.opset_import.extend(before.opset_import)
    after.producer_name = before.producer_name
    after.producer_version = before.producer_version
    for value in [*after.graph.input, *after.graph.output]:
        value.CopyFrom(_end(before, value))
    del after.graph.value_info[:]
    onnx.checker.check_model(after)
    data: bytes = after.SerializeToString()
    return data


def _operators(model: onnx.ModelProto) -> list[str]:
    return sorted(node.op_type for node in model.graph.node if node.op_type != "Constant")


def _end(model: onnx.ModelProto, like: Any) -> Any:
    """The input or output of that name, with the sizes as they were named."""
    ends = [*model.graph.input, *model.graph.output]
    return next(value for value in ends if value.name == like.name)
