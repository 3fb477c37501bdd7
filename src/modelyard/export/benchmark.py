"""How long an ONNX file takes, alone or in turns with the module it came from."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from modelyard._core.errors import ConfigError, InputError
from modelyard.export.arguments import checked_shape
from modelyard.export.inspection import read_graph
from modelyard.export.records import OnnxBenchmark
from modelyard.torchtools.inputs import (
    Inputs,
    answer_of,
    as_nested_inputs,
    batch_size,
    call,
    copied_for,
    tensors_of,
)
from modelyard.torchtools.layers import MB, evaluating
from modelyard.torchtools.onnx_module import dtype_named, in_order, make_session, run_session
from modelyard.torchtools.threads import torch_threads
from modelyard.torchtools.timing import interleaved_calls, summarized

Shape = Sequence[int] | Mapping[str, Sequence[int]]


def benchmarked(
    path: Path,
    *,
    shape: Shape | None,
    example: Any,
    module: nn.Module | None,
    n: int,
    warmup: int,
    n_threads: int | None,
) -> OnnxBenchmark:
    """Latencies of the file, and of the module if there is one, one call after another.

    Args:
        path: The file.
        shape: Of the one input, or of each by name; floats are made up, whole numbers are 0.
        example: Instead of it, an input as the module takes it.
        module: What to compare with, called in turns with the file.
        n: Calls of each.
        warmup: Calls before that.
        n_threads: Threads within an operator, for both; None for ONNX Runtime's usual choice.

    Raises:
        ConfigError: Neither shape nor example, or shapes of other inputs.
        InputError: They do not fit the graph.
    """
    read_graph(path)
    process = psutil.Process(os.getpid())
    before = process.memory_info().rss
    session = make_session(path, threads=n_threads)
    threads = session.get_session_options().intra_op_num_threads
    inputs = _inputs(session, shape, example)
    tensors = in_order(inputs, session)
    calls: dict[str, Any] = {"onnx": lambda: _run(session, tensors)}
    if module is not None:
        of_module = copied_for(module, inputs)
        _try(module, of_module)
        calls["pytorch"] = lambda: call(module, of_module)
        with torch_threads(threads), evaluating(module):
            durations = interleaved_calls(calls, n=n, warmup=warmup)
    else:
        durations = interleaved_calls(calls, n=n, warmup=warmup)
    n_samples = _n_samples(tensors)
    of_file = summarized(durations["onnx"], items_per_call=n_samples)
    found: OnnxBenchmark = {
        "mean_latency_ms": of_file["mean_latency_ms"],
        "median_latency_ms": of_file["median_latency_ms"],
        "p95_latency_ms": of_file["p95_latency_ms"],
        "p99_latency_ms": of_file["p99_latency_ms"],
        "throughput_qps": of_file["throughput_qps"],
        "memory_mb": max(0.0, (process.memory_info().rss - before) / MB),
        "n_threads": threads,
        "input_shape": _told_shape(session, tensors),
        "num_iterations": n,
    }
    if module is not None:
        found["pytorch"] = summarized(durations["pytorch"], items_per_call=n_samples)
        found["speedup"] = found["pytorch"]["median_latency_ms"] / found["median_latency_ms"]
    return found


def _try(module: nn.Module, inputs: Inputs) -> None:
    try:
        with evaluating(module):
            answer_of(module, inputs)
    except Exception as error:
        raise InputError(
            f"pytorch_model ({type(module).__name__}) does not run on what the file takes: {error}"
        ) from error


def _run(session: Any, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    try:
        return run_session(session, tensors)
    except Exception as error:
        raise InputError(f"{_wanted(session)}: {error}") from error


def _inputs(session: Any, shape: Shape | None, example: Any) -> Inputs:
    if example is not None:
        inputs = as_nested_inputs(example)
        if len(tensors_of(inputs)) != len(session.get_inputs()):
            raise InputError(f"{_wanted(session)}; got {len(tensors_of(inputs))} tensors.")
        return inputs
    if shape is None:
        raise ConfigError("Pass input_shape or example_input to benchmark_onnx.")
    inputs = session.get_inputs()
    shapes = _shapes(session, shape)
    generator = torch.Generator().manual_seed(0)
    made = tuple(
        made_up(shapes[value.name], dtype_named(value.type), generator) for value in inputs
    )
    return made[0] if len(made) == 1 else made


def _shapes(session: Any, shape: Shape) -> Mapping[str, Sequence[int]]:
    names = [value.name for value in session.get_inputs()]
    if not isinstance(shape, Mapping):
        if len(names) != 1:
            raise ConfigError(
                f"{_wanted(session)}: pass input_shape as a shape for each by name, or "
                "example_input."
            )
        shape = {names[0]: checked_shape(shape)}
    if set(shape) != set(names):
        raise ConfigError(f"{_wanted(session)}; input_shape names {', '.join(map(str, shape))}.")
    return {name: checked_shape(one) for name, one in shape.items()}


def made_up(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """An input of that shape: floats normal, anything else 0, which is an index everywhere."""
    if dtype.is_floating_point:
        return torch.randn(tuple(shape), generator=generator).to(dtype)
    return torch.zeros(tuple(shape), dtype=dtype)


def _wanted(session: Any) -> str:
    takes = ", ".join(f"{value.name} {value.shape} {value.type}" for value in session.get_inputs())
    return f"The graph takes {takes}"


def _n_samples(tensors: Sequence[torch.Tensor]) -> int:
    try:
        return batch_size(tuple(tensors))
    except InputError:
        return 1


def _told_shape(session: Any, tensors: Sequence[torch.Tensor]) -> Any:
    shapes = [[int(size) for size in tensor.shape] for tensor in tensors]
    if len(shapes) == 1:
        return shapes[0]
    names = [value.name for value in session.get_inputs()]
    return dict(zip(names, shapes, strict=True))
