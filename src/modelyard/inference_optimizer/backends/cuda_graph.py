"""CUDA graphs: the kernels of a call recorded once, then started together."""

import functools
import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from modelyard.inference_optimizer.backends.base import Backend, on_device
from modelyard.torchtools.inputs import Inputs, call, mapped, tensors_of
from modelyard.torchtools.parity import map_tensors

# Each holds the memory of its activations.
_MOST_CAPTURED = 16
# Libraries choose kernels and take their workspaces in the first calls, which may not be recorded.
_WARMUP_CALLS = 3
# Guards the recording: one at a time, on the stream that all share.
_RECORDING = threading.Lock()

_Key = tuple[tuple[torch.Size, torch.dtype], ...]


@dataclass(frozen=True, kw_only=True)
class _Captured:
    """A recorded call: where its inputs are read and its answer is written."""

    graph: Any
    inputs: Inputs
    answer: Any


class CudaGraphs:
    """A module's calls by the shapes of their inputs, each recorded at its first use.

    One lock guards what is recorded, the static inputs and answers: a call copies in, replays and
    copies out under it. An event orders these on the GPU too, whatever streams the callers use.
    Shapes past the first `_MOST_CAPTURED`, and those that cannot be recorded once others could,
    run as they are.

    Args:
        model: The module, on `device`.
        device: A GPU.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._lock = threading.Lock()
        self._captured: dict[_Key, _Captured | None] = {}
        self._finished = torch.cuda.Event()

    def capture(self, inputs: Inputs) -> None:
        """Record the call for inputs of these shapes.

        Raises:
            RuntimeError: The module does something that cannot be recorded, such as waiting for
                a value from the GPU.
        """
        moved = on_device(inputs, self._device)
        with self._lock, torch.inference_mode(), torch.cuda.device(self._device):
            self._captured[_key_of(moved)] = self._recorded(moved)

    def __call__(self, inputs: Inputs) -> Any:
        """The module's answer; the tensors are the caller's."""
        moved = on_device(inputs, self._device)
        with torch.inference_mode(), torch.cuda.device(self._device):
            with self._lock:
                captured = self._captured_for(moved)
                if captured is not None:
                    return self._replayed(captured, moved)
            return call(self._model, moved)

    def _captured_for(self, moved: Inputs) -> _Captured | None:
        key = _key_of(moved)
        if key not in self._captured:
            if len(self._captured) >= _MOST_CAPTURED:
                return None
            try:
                self._captured[key] = self._recorded(moved)
            except RuntimeError:  # recorded at other sizes, but not at this one
                self._captured[key] = None
        return self._captured[key]

    def _recorded(self, moved: Inputs) -> _Captured:
        static = mapped(moved, torch.Tensor.clone)
        with _RECORDING:
            return self._recorded_on(_side_stream(self._device), static)

    def _recorded_on(self, side: torch.cuda.Stream, static: Inputs) -> _Captured:
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(_WARMUP_CALLS):
                call(self._model, static)
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # "thread_local": what other threads do on the GPU meanwhile does not spoil the recording.
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            answer = call(self._model, static)
        return _Captured(graph=graph, inputs=static, answer=answer)

    def _replayed(self, captured: _Captured, moved: Inputs) -> Any:
        stream = torch.cuda.current_stream(self._device)
        stream.wait_event(self._finished)
        for static, given in zip(tensors_of(captured.inputs), tensors_of(moved), strict=True):
            static.copy_(given, non_blocking=True)
        captured.graph.replay()
        answer = map_tensors(captured.answer, torch.clone)
        self._finished.record(stream)
        return answer


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream that calls are recorded on; each has workspaces that are never given back."""
    return torch.cuda.Stream(device)


def make_cuda_graph(model: nn.Module, example: Inputs, device: torch.device) -> Backend:
    """The module's calls as CUDA graphs, one for each batch size.

    Raises:
        RuntimeError: The module cannot be recorded.
    """
    graphs = CudaGraphs(model, device)
    graphs.capture(example)
    return Backend(name="cuda_graph", run=graphs)


def _key_of(inputs: Inputs) -> _Key:
    return tuple((tensor.shape, tensor.dtype) for tensor in tensors_of(inputs))
