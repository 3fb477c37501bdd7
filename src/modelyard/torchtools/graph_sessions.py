"""Sessions over ONNX graphs, in ONNX Runtime and OpenVINO, without torch: probes load it too."""

import os
from pathlib import Path
from typing import Any

import onnxruntime as ort

from modelyard._core.errors import ConfigError
from modelyard.torchtools.openvino_core import openvino_core

# What ONNX Runtime may do to a graph before it runs it.
GRAPH_LEVELS = {
    "raw": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def onnxruntime_session(
    graph: bytes | Path, *, threads: int, graph_level: str = "all", provider: str = "CPU"
) -> Any:
    """An ONNX Runtime session.

    Args:
        graph: The serialised model, or its file.
        threads: Threads within an operator.
        graph_level: "raw" leaves the graph as it is, "basic" folds and removes, "all" also fuses
            operators and changes layouts.
        provider: "CPU", or "CUDA" with the CPU for what CUDA does not take.

    Raises:
        ConfigError: An unknown level.
    """
    if graph_level not in GRAPH_LEVELS:
        raise ConfigError(f"graph_level {graph_level!r} is not one of {', '.join(GRAPH_LEVELS)}.")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if threads > 1:
        # Threads that go on spinning after a call take the cores from whatever runs next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 4  # errors are raised; the rest is about its own optimiser
    options.graph_optimization_level = GRAPH_LEVELS[graph_level]
    # Its default on a GPU, TF32, keeps ten bits of the products; PyTorch's default does not.
    exact: list[Any] = [("CUDAExecutionProvider", {"use_tf32": "0"})] if provider == "CUDA" else []
    providers = [*exact, "CPUExecutionProvider"]
    # As text: it takes no other kind of path everywhere.
    source = os.fspath(graph) if isinstance(graph, Path) else graph
    return ort.InferenceSession(source, options, providers=providers)


def openvino_model(graph: bytes | Path, *, threads: int, precision: str = "f32") -> Any:
    """A graph compiled by OpenVINO for this CPU.

    Args:
        graph: The serialised model, or its file.
        threads: Threads of one inference.
        precision: "f32" or "bf16". Always set: its own default is bf16 where the processor has it.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
    """
    core = openvino_core()
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
    }
    return core.compile_model(core.read_model(graph), "CPU", settings)
