"""Running quantizers of ONNX Runtime, which read and write files, on bytes."""

import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import onnx


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


@contextmanager
def logging_untouched() -> Iterator[None]:
    """Take back what the block does to the root logger, such as a library that sets it up."""
    root = logging.getLogger()
    level, handlers = root.level, [*root.handlers]
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers


@contextmanager
def quiet() -> Iterator[None]:
    """Keep ONNX Runtime's advice about its own tools, some of it printed, from the user."""
    loggers = [logging.getLogger(), *map(logging.getLogger, _CHATTY)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


_CHATTY = ("onnxruntime.quantization.matmul_nbits_quantizer",)
