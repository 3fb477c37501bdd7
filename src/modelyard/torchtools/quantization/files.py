"""Running quantizers of ONNX Runtime, which read and write files, on bytes."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx

from modelyard.torchtools.silence import quiet


def through_files(graph: bytes, write: Callable[[Path, Path], None]) -> bytes:
    """The graph that `write(source, target)` makes of `graph`."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        source, target = Path(folder) / "source.onnx", Path(folder) / "target.onnx"
        source.write_bytes(graph)
        write(source, target)
        return target.read_bytes()


def without_notes(graph: bytes) -> bytes:
    """The graph without the quantizer's notes, shapes noted on the way, and unused domains."""
    model = onnx.load_from_string(graph)
    used = {node.domain or "" for node in model.graph.node} | {""}
    kept = [entry for entry in model.opset_import if (entry.domain or "") in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    del model.graph.value_info[:]
    notes = [entry for entry in model.metadata_props if not entry.key.startswith("onnx.")]
    del model.metadata_props[:]
    model.metadata_props.extend(notes)
    data: bytes = model.SerializeToString()
    return data
