"""ONNX Runtime on the module's verified graph."""

from typing import Any

import torch
from torch import nn

from modelyard.inference_optimizer.backends.base import Array, Backend
from modelyard.inference_optimizer.backends.graphs import Written, written
from modelyard.torchtools.graph_sessions import onnxruntime_session
from modelyard.torchtools.inputs import Inputs
from modelyard.torchtools.onnx_module import as_array, default_threads


def make_onnxruntime(model: nn.Module, example: Inputs, _: torch.device) -> Backend:
    """The module as an ONNX graph on the CPU, with every optimisation and the usual threads."""
    graph = written(model, example)
    return onnxruntime_backend(graph, graph_level="all", threads=default_threads(graph.data))


def onnxruntime_backend(graph: Written, *, graph_level: str, threads: int) -> Backend:
    """ONNX Runtime on the CPU.

    Args:
        graph: What runs.
        graph_level: "raw", "basic" or "all".
        threads: Threads within an operator.
    """
    session = onnxruntime_session(graph.data, threads=threads, graph_level=graph_level)
    run_arrays, n_inputs = _caller(session)

    def run(inputs: Inputs) -> Any:
        outputs = run_arrays([as_array(tensor) for tensor in graph.tensors(inputs)])
        return graph.structured([torch.from_numpy(array) for array in outputs])

    name, names = session.get_inputs()[0].name, [o.name for o in session.get_outputs()]

    def run_array(array: Array) -> Array:
        answer: Array = session.run(names, {name: array})[0]
        return answer

    return Backend(
        name="onnxruntime",
        settings={"graph_level": graph_level, "threads": threads},
        run=run,
        run_array=run_array if n_inputs == 1 and graph.is_single else None,
    )


def onnxruntime_cuda_backend(graph: Written, device: torch.device, *, graph_level: str) -> Backend:
    """ONNX Runtime's CUDA provider; inputs and outputs pass through the CPU's memory."""
    session = onnxruntime_session(graph.data, threads=1, graph_level=graph_level, provider="CUDA")
    run_arrays, _ = _caller(session)

    def run(inputs: Inputs) -> Any:
        outputs = run_arrays([as_array(tensor) for tensor in graph.tensors(inputs)])
        return graph.structured([torch.from_numpy(array).to(device) for array in outputs])

    return Backend(name="onnxruntime_cuda", settings={"graph_level": graph_level}, run=run)


def _caller(session: Any) -> tuple[Any, int]:
    """A function from arrays in order to arrays, and the number of inputs.

    Names are asked for once, not at each call.
    """
    names = [value.name for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs()]

    def run(arrays: list[Array]) -> list[Array]:
        answers: list[Array] = session.run(outputs, dict(zip(names, arrays, strict=True)))
        return answers

    return run, len(names)
