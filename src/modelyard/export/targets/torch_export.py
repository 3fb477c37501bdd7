"""`.pt2`: the module through torch.export, to be loaded without its source."""

import io
import json
from collections.abc import Mapping
from typing import Any

import torch

from modelyard._core.errors import ConversionError
from modelyard.export.targets.base import Job, Written, verified
from modelyard.torchtools.conversion import Interface, failure_text, program_of
from modelyard.torchtools.inputs import call
from modelyard.torchtools.parity import flat_outputs

# Where torch.export keeps lines and paths of the source.
_TRACES = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn")


class TorchExportTarget:
    """An exported program that takes what the module's `forward` was given.

    The file holds no sample inputs: those are pickled, and a pickle runs code when it is read.
    """

    suffixes: tuple[str, ...] = (".pt2",)
    precisions: tuple[str, ...] = ("fp32",)

    def write(self, job: Job) -> Written:
        """The program, loaded again and compared."""
        try:
            data = _saved(program_of(job.subject), job.metadata)
            run = _run_of(data, job.subject.interface)
        except Exception as error:
            # Answers that it can trace and not write, such as named tuples, fail at the last.
            raise ConversionError(
                failure_text(job.subject.kind, "a .pt2 file", "torch_export", error)
            ) from error
        verification = verified(job, run, "a .pt2 file")
        return Written(files={".pt2": data}, route="torch_export", verification=verification)


def _saved(program: Any, metadata: Mapping[str, str]) -> bytes:
    program.example_inputs = None
    _forget_sources(program)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={"modelyard.json": json.dumps(dict(metadata))})
    return buffer.getvalue()


def _forget_sources(program: Any) -> None:
    for module in program.graph_module.modules():
        graph = getattr(module, "graph", None)
        for node in graph.nodes if graph is not None else ():
            for key in _TRACES:
                node.meta.pop(key, None)


def _run_of(data: bytes, interface: Interface) -> Any:
    module = torch.export.load(io.BytesIO(data)).module()

    def run(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        return flat_outputs(call(module, interface.nested(tensors)))

    return run
