"""TorchScript: for runtimes in C++ and older services."""

import io
import json
import warnings
import zipfile
from typing import Any

import torch

from modelyard._core.errors import ConversionError
from modelyard.export.targets.base import Job, Written, verified
from modelyard.torchtools.conversion import Interface, failure_text, refuse_frozen, script_trace
from modelyard.torchtools.inputs import call
from modelyard.torchtools.parity import flat_outputs


class TorchScriptTarget:
    """A traced module that takes its tensors in a row, or a scripted one as it is."""

    suffixes: tuple[str, ...] = (".pt",)
    precisions: tuple[str, ...] = ("fp32",)

    def write(self, job: Job) -> Written:
        """The script, loaded again and compared."""
        subject = job.subject
        try:
            if isinstance(subject.module, torch.jit.ScriptModule):
                script, route = subject.module, "scripted"
            else:
                subject.contents.put_back()
                script, is_size_frozen = script_trace(subject.module, subject.interface)
                refuse_frozen(subject, is_size_frozen=is_size_frozen, is_for_onnx=False)
                route = "traced"
        except Exception as error:
            raise ConversionError(
                failure_text(subject.kind, "TorchScript", "torchscript", error)
            ) from error
        buffer = io.BytesIO()
        torch.jit.save(script, buffer, {"modelyard.json": json.dumps(dict(job.metadata))})
        data = _without_sources(buffer.getvalue())
        run = _run_of(data, subject.interface if route == "scripted" else None)
        verification = verified(job, run, "TorchScript")
        return Written(files={".pt": data}, route=route, verification=verification)


def _without_sources(archive: bytes) -> bytes:
    """The archive without the tables that lead from its code to files of this machine."""
    target = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(archive)) as old,
        zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new,
    ):
        for entry in old.infolist():
            if not entry.filename.endswith(".debug_pkl"):
                new.writestr(entry, old.read(entry))
    return target.getvalue()


def _run_of(data: bytes, interface: Interface | None) -> Any:
    """The script as something to compare; a scripted module takes what the module took."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its deprecation
        script = torch.jit.load(io.BytesIO(data))

    def run(tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        with torch.inference_mode():
            if interface is None:
                return flat_outputs(script(*tensors))
            return flat_outputs(call(script, interface.nested(tensors)))

    return run
