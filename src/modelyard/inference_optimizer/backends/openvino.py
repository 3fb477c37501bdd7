"""OpenVINO on the module's verified graph."""

import threading
from typing import Any

import numpy as np
import torch

from modelyard._core.extras import require
from modelyard.inference_optimizer.backends.base import Array, Backend
from modelyard.inference_optimizer.backends.graphs import Written
from modelyard.torchtools.graph_sessions import openvino_model
from modelyard.torchtools.inputs import Inputs
from modelyard.torchtools.onnx_module import as_array

# The family by the precision OpenVINO computes in.
FAMILIES = {"f32": "openvino", "bf16": "openvino_bfloat16"}


def openvino_backend(graph: Written, *, precision: str, threads: int) -> Backend:
    """OpenVINO on the CPU.

    Its ReLU, and what else it clamps, makes a finite number of NaN, and it computes whole numbers
    in 32 bits. Where that differs from eager it gets usual numbers only (`usual_only`), or is left
    out: NaN must not become an ordinary answer.

    Args:
        graph: What runs.
        precision: "f32" or "bf16".
        threads: Threads of one inference.

    Raises:
        MissingDependencyError: OpenVINO is not installed.
    """
    requests = _Requests(openvino_model(graph.data, threads=threads, precision=precision))

    def run(inputs: Inputs) -> Any:
        arrays = requests.infer([as_array(tensor) for tensor in graph.tensors(inputs)])
        return graph.structured([torch.from_numpy(array) for array in arrays])

    def run_array(array: Array) -> Array:
        return requests.infer([array])[0]

    return Backend(
        name=FAMILIES[precision],
        settings={"threads": threads},
        run=run,
        run_array=run_array if requests.n_inputs == 1 and graph.is_single else None,
    )


class _Requests:
    """Inference requests of one compiled graph, one a thread: each serves one call at a time."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        self._tensor: Any = require("openvino", extra="openvino").Tensor
        self._by_thread = threading.local()
        self.n_inputs = len(compiled.inputs)
        self._n_outputs = len(compiled.outputs)

    def infer(self, arrays: list[Array]) -> list[Array]:
        """Copies of the outputs: OpenVINO uses its buffers again."""
        request = getattr(self._by_thread, "request", None)
        if request is None:
            request = self._by_thread.request = self._compiled.create_infer_request()
        for index, given in enumerate(arrays):
            # OpenVINO takes contiguous memory only.
            array = given if given.flags.c_contiguous else np.ascontiguousarray(given)
            # The memory is the caller's, who may change it after the call but not during it.
            # OpenVINO refuses to share what is read-only.
            shared = self._tensor(array, shared_memory=array.flags.writeable)
            request.set_input_tensor(index, shared)
        request.infer()
        return [request.get_output_tensor(i).data.copy() for i in range(self._n_outputs)]
