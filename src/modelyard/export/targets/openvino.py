"""OpenVINO: an `.xml` with the graph and a `.bin` with the weights, for Intel's processors."""

import io
import tempfile
from pathlib import Path
from typing import Any

import torch

from modelyard._core.errors import ConversionError
from modelyard._core.extras import require
from modelyard.export.targets.base import Job, Written, in_short, verified
from modelyard.torchtools.conversion import graph_of
from modelyard.torchtools.onnx_module import as_array
from modelyard.torchtools.openvino_core import openvino_core

# Its own default is bfloat16 where the processor has it, with errors of a hundredth.
_IN_FLOAT32 = {"INFERENCE_PRECISION_HINT": "f32"}


class OpenVinoTarget:
    """OpenVINO's own format, made from the verified ONNX graph.

    In "fp16" the weights are stored in float16 and the file is half as large.
    """

    suffixes: tuple[str, ...] = (".xml", ".bin")
    precisions: tuple[str, ...] = ("fp32", "fp16")

    def write(self, job: Job) -> Written:
        """Graph and weights, read again, compiled in float32 and compared."""
        openvino: Any = require("openvino", extra="openvino")
        if job.subject.lowest == torch.float64:
            raise ConversionError(
                f"OpenVINO computes in float32; {job.subject.kind} computes in float64. Pass "
                "model.float(), or export it as ONNX."
            )
        graph = graph_of(job.subject, opset=job.opset)
        core = openvino_core()
        try:
            model = core.read_model(io.BytesIO(graph.data))
        except RuntimeError as error:
            raise _not_taken(job, error) from error
        for key, value in job.metadata.items():
            model.set_rt_info(value, ["modelyard", key])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.xml"
            openvino.save_model(model, path, compress_to_fp16=job.precision == "fp16")
            try:
                compiled = core.compile_model(core.read_model(path), "CPU", _IN_FLOAT32)
            except RuntimeError as error:  # as of sizes that are known only at run time
                raise _not_taken(job, error) from error
            # The weights first: a graph is never seen beside another's weights.
            files = {suffix: path.with_suffix(suffix).read_bytes() for suffix in (".bin", ".xml")}
        lowest = torch.float16 if job.precision == "fp16" else None
        return Written(
            files=files,
            route=graph.route,
            verification=verified(job, _run_of(compiled), "OpenVINO", lowest=lowest),
        )


def _not_taken(job: Job, error: Exception) -> ConversionError:
    return ConversionError(
        f"OpenVINO does not take {job.subject.kind} at opset {job.opset}: {in_short(error)}"
    )


def _run_of(compiled: Any) -> Any:
    def run(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        answers = compiled([as_array(tensor) for tensor in tensors])
        return [torch.from_numpy(answers[port].copy()) for port in compiled.outputs]

    return run
